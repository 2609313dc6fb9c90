"""The table on the console and the JSON file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from loadtests.bench.market_rows import MarketRow
from loadtests.bench.market_tasks import COMMANDS
from loadtests.bench.measure import Measurement
from loadtests.bench.stats import Row
from loadtests.bench.targets import Target
from loadtests.bench.workloads import SHAPES

__all__ = ["document", "table", "target_lines"]

HEAD = (
    f"{'':<28}{'us/message':>11}{'x floor':>9}{'(min-max)':>13}{'p50 ms':>8}{'p99':>8}{'p99.9':>8}"
    f"{'B/message':>11}{'MB':>8}{'KB/conn':>9}  body"
)


def table(rows: Sequence[Row]) -> str:
    """All rows, workload by workload."""
    lines: list[str] = []
    workload = ""
    for row in rows:
        if row.workload != workload:
            workload = row.workload
            shape = SHAPES[workload]
            lines += ["", f"{workload}: {shape.title} ({shape.connections} connections)", HEAD]
        lines.append(_line(row))
        lines += [f"{'':<30}{reason}" for reason in row.reasons[:3]]
    settings = {row.label: row.settings for row in rows if row.family != "floor"}
    lines += ["", "settings", *(f"  {label}: {text}" for label, text in settings.items())]
    return "\n".join(lines)


def _line(row: Row) -> str:
    name = f"{row.label}{' (easier task)' if row.easier else ''}"
    if not row.valid:
        return f"{name:<28}  INVALID"
    ratio = f"{row.ratio.median:.2f}" if row.ratio else "-"
    around = f"{row.ratio.low:.2f}-{row.ratio.high:.2f}" if row.ratio else ""
    delays = [number(ms, 1) if row.histogram else "-" for ms in (row.p50_ms, row.p99_ms, row.p999_ms)]
    kilobytes = (row.rss_per_connection or 0) / 1000
    return (
        f"{name:<28}{number(row.us.median if row.us else None, 2):>11}{ratio:>9}{around:>13}"
        f"{delays[0]:>8}{delays[1]:>8}{delays[2]:>8}{number(row.bytes_per_message, 0):>11}"
        f"{number(row.rss_mb, 1):>8}{kilobytes:>9.2f}  {row.digest}"
        + (f"  {row.valid} of {row.rounds} rounds" if row.valid < row.rounds else "")
        + (f"  served in {row.ready_s:.2f} s" if row.ready_s and row.workload.startswith("W7") else "")
    )


def number(value: float | None, places: int) -> str:
    """A figure, or a dash."""
    return "-" if value is None else f"{value:.{places}f}"


def target_lines(targets: Sequence[Target]) -> str:
    """Each target with what was found."""
    words = {True: "met", False: "NOT MET", None: "not measured"}
    return "\n".join(f"{words[t.is_met]:<13}{t.workload:<12}{t.text}: {t.found or '-'}" for t in targets)


def document(
    plan: str,
    machine: Mapping[str, str],
    rows: Sequence[Row],
    targets: Sequence[Target],
    runs: Sequence[Measurement],
    absent: Mapping[str, str],
    sdk: dict[str, Any] | None,
    market: Sequence[MarketRow] = (),
) -> str:
    """Everything, as JSON."""
    raw = [{**asdict(run), "histogram": None} for run in runs]
    content = {
        "plan": plan,
        "machine": machine,
        "targets": [asdict(target) for target in targets],
        "rows": [asdict(row) for row in rows],
        "market": [{**asdict(row), "command": COMMANDS[row.task]} for row in market],
        "not_measured": absent,
        "sdk": sdk,
        "runs": raw,
    }
    return json.dumps(content, separators=(",", ":")) + "\n"
