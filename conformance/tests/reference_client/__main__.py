"""The reference client as a process: ``python -m conformance.tests.reference_client URL TOKENS [--fault NAME]``."""

import argparse
import asyncio
from random import Random

from tokenwire_conformance.wire.wire import Clock

from .client import ReferenceClient
from .delivery import DiedError
from .faults import FAULTS


def main() -> None:
    """Run until there is nothing left to try."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("tokens", help="separated by commas")
    parser.add_argument("--fault", action="append", default=[], choices=sorted(FAULTS))
    arguments = parser.parse_args()
    client = ReferenceClient(
        arguments.url, tuple(arguments.tokens.split(",")), lambda line: print(line, flush=True), clock=Clock(),
        random=Random(), faults=frozenset(arguments.fault),
    )  # fmt: skip
    try:
        asyncio.run(client.run())
    except (DiedError, KeyboardInterrupt) as error:
        raise SystemExit(f"ended by {error!r}") from None


if __name__ == "__main__":
    main()
