"""Side by side on this machine: our server, a bare loop of send(), and other servers at the same task.

python -m loadtests.bench              about 13 minutes: W1-W3, W5, W9 with six peers, and M1-M9
python -m loadtests.bench --quick      under 90 seconds: W1, W2, W9 with three peers, one round
python -m loadtests.bench --full       everything there is
python -m loadtests.bench --list       the workloads and the peers, and what can run here
python -m loadtests.bench --workloads W1,W2 --peers ws,bun --rounds 3
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from loadtests.bench.machine import describe
from loadtests.bench.market_rows import MarketRow, market_section, market_table
from loadtests.bench.market_tasks import COMMANDS, MARKET_TASKS, TITLES, market_estimate_s, market_targets, run_task
from loadtests.bench.page import growth_plots, page
from loadtests.bench.plan import PLANS, WORKLOADS, Plan
from loadtests.bench.plots import standalone
from loadtests.bench.processes import cores
from loadtests.bench.report import document, table, target_lines
from loadtests.bench.session import Session, estimate_s
from loadtests.bench.stats import rows_of
from loadtests.bench.targets import evaluate
from loadtests.bench.tools import BUILD, BenchError
from loadtests.bench.workloads import SHAPES
from loadtests.peers.manifest import BY_NAME

_SDK_KEYS: Final = {"client", "per_s", "us", "ratio"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, 1 when no run was valid, 2 for a wrong argument or a machine that can't measure."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="plan", action="store_const", const="quick")
    size.add_argument("--full", dest="plan", action="store_const", const="full")
    parser.add_argument("--workloads", type=_names, help="only these, separated by commas")
    parser.add_argument("--peers", type=_names, help="only these, separated by commas; none for no peer")
    parser.add_argument("--rounds", type=int, help="rounds of each workload, from 1 to 9")
    parser.add_argument("--out", type=Path, default=BUILD / "results", help="folder for the results")
    parser.add_argument("--sdk", type=Path, help="a result of loadtests/sdk_speed.py --json, to show with the rest")
    parser.add_argument("--list", action="store_true", help="show what there is, and stop")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        return _list()
    try:
        plan = _plan(chosen)
        sdk = _sdk(chosen.sdk) if chosen.sdk else None
        chosen.out.mkdir(parents=True, exist_ok=True)
        return _run(plan, chosen.out, sdk)
    except (BenchError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return 130


def _sdk(path: Path) -> dict[str, Any]:
    """What ``loadtests.sdk_speed --json`` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= _SDK_KEYS for row in rows):
        raise BenchError(f"{path} is no result of python -m loadtests.sdk_speed --json")
    return cast(dict[str, Any], found)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _plan(chosen: argparse.Namespace) -> Plan:
    plan = PLANS[chosen.plan or "daily"]
    changed = chosen.workloads is not None or chosen.peers is not None or chosen.rounds is not None
    if chosen.workloads is not None:
        if not chosen.workloads:
            raise BenchError(f"--workloads: none is named; there are {', '.join((*WORKLOADS, *MARKET_TASKS))}")
        there = (*WORKLOADS, *MARKET_TASKS)
        unknown = [name for name in chosen.workloads if name not in there]
        if unknown:
            raise BenchError(f"no workload is called {', '.join(unknown)}; there are {', '.join(there)}")
        workloads = [name for name in chosen.workloads if name in WORKLOADS]
        market = [name for name in chosen.workloads if name in MARKET_TASKS]
        plan = replace(plan, workloads=workloads, market=market, fewer_ours={})
    if chosen.peers is not None:
        names = [] if chosen.peers == ["none"] else chosen.peers
        unknown = [name for name in names if name not in BY_NAME]
        if unknown:
            raise BenchError(f"no peer is called {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
        plan = replace(plan, peers=names, narrow=False)
    if chosen.rounds is not None:
        if not 1 <= chosen.rounds <= 9:
            raise BenchError(f"--rounds {chosen.rounds}: from 1 to 9")
        plan = replace(plan, rounds=chosen.rounds, fewer_rounds={})
    return replace(plan, name="custom") if changed else plan


def _list() -> int:
    print("workloads")
    for name, shape in SHAPES.items():
        sizes = [plan.name for plan in PLANS.values() if name in plan.workloads]
        print(f"  {name:<14}{shape.title} ({', '.join(sizes)})")
    for name, task in MARKET_TASKS.items():
        sizes = [plan.name for plan in PLANS.values() if name in plan.market]
        print(f"  {name:<14}{task.title} ({', '.join(sizes)})")
    print("peers")
    for name, peer in BY_NAME.items():
        kind = ", easier task" if peer.easier else ""
        print(f"  {name:<22}{peer.language}{kind}: {peer.why_not() or 'ready'}")
    return 0


def _run(plan: Plan, out: Path, sdk: dict[str, Any] | None) -> int:
    cores()
    _check_files(plan)
    present = {name: "" for name, peer in BY_NAME.items() if peer.available()}
    minutes = (estimate_s(plan, present) + market_estimate_s(plan.market, plan.market_size)) / 60
    began = time.monotonic()

    def say(line: str) -> None:
        print(line, flush=True)

    tasks = ", ".join([*plan.workloads, *plan.market])
    say(f"plan {plan.name}: {tasks}; {plan.rounds} rounds, about {minutes:.1f} minutes")
    session = Session(plan, say)
    interrupted = False
    market: list[MarketRow] = []
    try:
        if plan.workloads:
            session.run()
        for each in plan.market:
            say(f"\n{each}: {TITLES[each]}")
            found = run_task(each, plan.market_size)
            market += found
            for row in found:
                say(f"  {row.label:<30}{row.brief}")
    except KeyboardInterrupt:
        interrupted = True
        say("\ninterrupted; what was measured so far:")
    if not session.runs and not market:
        return 130
    name = f"{plan.name}-interrupted" if interrupted else plan.name
    rows = rows_of(session.runs, session.subjects, session.floors)
    targets = [*evaluate(rows, sdk), *market_targets(market)]
    if rows:
        say(table(rows))
    if market:
        say(market_table(market, TITLES, COMMANDS))
    say(f"\ntargets\n{target_lines([t for t in targets if t.is_met is not None])}")
    took = {subject.peer for subject in session.subjects.values() if subject.peer}
    machine = describe(sorted(took))
    text = document(name, machine, rows, targets, session.runs, session.absent, sdk, market)
    (out / f"{name}.json").write_text(text, encoding="utf-8")
    html = page(name, machine, rows, targets, session.absent, sdk, market_section(market, TITLES, COMMANDS))
    (out / f"{name}.html").write_text(html, encoding="utf-8")
    for growth, plot in growth_plots(rows).items():
        (out / f"{name}-{growth}.svg").write_text(standalone(plot), encoding="utf-8")
    count = len(session.runs) + len(market)
    say(f"\n{count} runs in {(time.monotonic() - began) / 60:.1f} minutes; {name}.json and .html in")
    say(f"  {out}")
    if interrupted:
        return 130
    return 0 if any(row.valid for row in rows) or any(not row.invalid for row in market) else 1


def _check_files(plan: Plan) -> None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    most = max((SHAPES[name].connections for name in plan.workloads), default=1000)
    if 0 <= limit < most + 1000:
        raise BenchError(
            f"{most} connections need {most + 1000} open files, this system allows {limit}: "
            f"raise the limit (ulimit -Hn {most + 1000}) or leave these workloads out (--workloads)"
        )


if __name__ == "__main__":
    sys.exit(main())
