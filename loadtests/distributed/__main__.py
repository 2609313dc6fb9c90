"""Run the proof of the server past one machine."""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from server.tests.services.errors import ServiceError

from loadtests.distributed.cluster import lacking
from loadtests.distributed.run import RATE, Request, run_proof

_MAX_CHARS = 600  # of a line about what is wrong
_EPILOG = """\
The last line says it: lost, duplicated, reordered and wrong are 0, or the exit status is 1. Progress and what was found
go to standard error. 2: it can't run here.

  python -m loadtests.distributed                                   all of it, some four minutes
  python -m loadtests.distributed --trades 10000 --kills 1 --only-kills     a short one
  python -m loadtests.distributed --trades 5000 --kills 0 --only-kills      nothing is broken
  python -m loadtests.distributed --seed 7 --keep /tmp/seven        logs of every process, tapes, history.jsonl
"""


def main(arguments: list[str] | None = None) -> int:
    """0 when nothing was lost, 1 when something was, 2 when it can't run here."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.distributed",
        description=(
            "Plays two tapes through collectors, processors, gateways and a loader over engines of its own, kills each "
            "process again and again, and compares what clients, database and an independent fold of the tapes have."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, help="of the market, the faults and the clients (%(default)s)")
    parser.add_argument("--trades", type=int, default=100_000, help="of the simulated market (%(default)s)")
    parser.add_argument("--rate", type=int, default=RATE, help="of them a second (%(default)s)")
    parser.add_argument("--kills", type=int, default=5, help="of each process (%(default)s)")
    parser.add_argument("--clients", type=int, default=20, help="SDK clients (%(default)s)")
    parser.add_argument("--only-kills", action="store_true", help="no stops, replacements, restarts, and engines live")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep everything that was written, in this directory")
    options = parser.parse_args(arguments)
    missing = lacking()
    if missing:
        print(missing, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="tokenwire-proof-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        tapes = os.environ.get("TOKENWIRE_TAPES")
        request = Request(
            seed=options.seed,
            trades=options.trades,
            rate=options.rate,
            kills=options.kills,
            clients=options.clients,
            full=not options.only_kills,
            folder=folder.resolve(),
            tapes=Path(tapes) if tapes else None,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        try:
            verdict = asyncio.run(run_proof(request))
        except ServiceError as error:
            print(error, file=sys.stderr)
            return 2
        for breach in (*verdict.breaches, *verdict.violations):
            print(str(breach)[:_MAX_CHARS], file=sys.stderr)
        print(verdict.line())
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
