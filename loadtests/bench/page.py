"""The results as one HTML page without anything else to load. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from loadtests.bench.plots import bars, curves, lines
from loadtests.bench.report import number
from loadtests.bench.stats import Row
from loadtests.bench.targets import Target
from loadtests.bench.workloads import SHAPES

__all__ = ["growth_plots", "page"]

_STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#1a1a1a;"
    "background:#fff}table{border-collapse:collapse;margin:.6em 0;font-size:13px}td,th{padding:2px 9px;"
    "border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}td:first-child,th:first-child,td.t,th.t"
    "{text-align:left}td.w{white-space:normal}.ours{font-weight:600;color:#0b6e4f}.bad{color:#b00020}"
    "ul{font-size:12px;color:#555;padding-left:1.4em}svg{max-width:100%;height:auto}"
)
_GROWTH: Final = (
    ("connections", "C", "Connections (each 100 tokens, one set)"),
    ("tokens", "T", "Tokens held by 1000 connections, 30 % change"),
    ("overlap", "O", "Tokens of 100 that 1000 different sets have in common"),
)
_COLUMNS: Final = (
    "<th>us/message<th>x floor<th>min-max<th>p50 ms<th>p99<th>p99.9<th>B/message<th>MB<th>KB/conn<th>sink"
    "<th class=t>body"
)


def page(
    plan: str,
    machine: Mapping[str, str],
    rows: Sequence[Row],
    targets: Sequence[Target],
    absent: Mapping[str, str],
    sdk: dict[str, Any] | None,
    market: str = "",
) -> str:
    """The whole page; ``market`` is its part about the market's tasks."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>tokenwire bench: {escape(plan)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style><h1>Fan-out benchmark</h1>",
        f"<p>Plan “{escape(plan)}”. us/message is CPU time of the server alone, its idle rate taken off; x floor "
        "compares it with a loop of send() of as many bytes in the same round; delays count from the planned instant. "
        "* marks an easier task: the same bytes, with the same number, for everybody.</p>",
        _targets(targets),
    ]
    names = dict.fromkeys(row.workload for row in rows)
    parts += [_workload(name, [row for row in rows if row.workload == name]) for name in names]
    parts.append(market)
    plots = growth_plots(rows)
    parts += [f"<h2>{escape(title)}</h2>{plots[name]}" for name, _, title in _GROWTH if name in plots]
    if sdk:
        cells = "".join(
            f"<tr><td>{escape(row['client'])}<td>{row['per_s']:,.0f}<td>{row['us']:.2f}<td>{row['ratio']:.2f}"
            for row in sdk["rows"]
        )
        head = "<tr><th>client<th>updates/s on one core<th>us per update<th>to bare"
        parts.append(f"<h2>SDK</h2><table>{head}{cells}</table>")
    if absent:
        cells = "".join(f"<li>{escape(name)}: {escape(why)}" for name, why in absent.items())
        parts.append(f"<h2>Not measured</h2><ul>{cells}</ul>")
    cells = "".join(f"<tr><td>{escape(key)}<td class=t>{escape(value)}" for key, value in machine.items())
    parts.append(f"<h2>Machine</h2><table>{cells}</table></html>\n")
    return "\n".join(part for part in parts if part)


def _targets(targets: Sequence[Target]) -> str:
    words = {True: "met", False: "<span class=bad>not met</span>", None: "not measured"}
    cells = "".join(
        f"<tr><td>{escape(t.workload)}<td class=t>{escape(t.text)}<td class=t>{words[t.is_met]}<td>{escape(t.found)}"
        for t in targets
    )
    return f"<h2>Targets</h2><table><tr><th><th class=t>target<th class=t><th>found{cells}</table>"


def _workload(name: str, rows: Sequence[Row]) -> str:
    shape = SHAPES[name]
    cells = "".join(map(_row, rows))
    return (
        f"<h2>{escape(name)}: {escape(shape.title)}</h2><p>{shape.connections} connections, {shape.ticks_per_s:g} "
        f"ticks/s, {shape.frames_per_tick} messages per connection and tick</p><table><tr><th>{_COLUMNS}{cells}</table>"
        + f"<ul>{''.join(f'<li><b>{escape(row.label)}</b>: {escape(row.settings)}' for row in rows)}</ul>"
        + bars(rows, f"{name}: us of server CPU per message")
        + curves(rows, f"{name}: delay by percentile")
    )


def _row(row: Row) -> str:
    name = f"{escape(row.label)}{' *' if row.easier else ''}"
    kind = "ours" if row.family == "ours" else ""
    if not row.valid:
        return f"<tr class=bad><td>{name}<td class='t w' colspan=11>INVALID: {escape('; '.join(row.reasons))}"
    ratio = f"<td>{row.ratio.median:.2f}<td>{row.ratio.low:.2f}-{row.ratio.high:.2f}" if row.ratio else "<td>-<td>"
    delays = "".join(f"<td>{number(ms, 1)}" for ms in (row.p50_ms, row.p99_ms, row.p999_ms))
    some = f" ({row.valid} of {row.rounds} rounds: {'; '.join(row.reasons)})" if row.valid < row.rounds else ""
    return (
        f"<tr class='{kind}'><td>{name}<td>{number(row.us.median if row.us else None, 2)}{ratio}{delays}"
        f"<td>{number(row.bytes_per_message, 0)}<td>{number(row.rss_mb, 1)}"
        f"<td>{(row.rss_per_connection or 0) / 1000:.2f}<td>{(row.sink_cpu or 0):.0%}"
        f"<td class='t w'>{escape(row.digest + some)}"
    )


def growth_plots(rows: Sequence[Row]) -> dict[str, str]:
    """SVG of how the CPU time of a tick grows with connections, tokens and overlap, as far as it was measured."""
    plots: dict[str, str] = {}
    for name, letter, title in _GROWTH:
        points = [
            (float(row.workload[1:]), row.ms_per_tick)
            for row in rows
            if row.workload[0] == letter and row.workload[1:].isdigit() and row.family == "ours" and row.ms_per_tick
        ]
        plot = lines(points, title, "ms of CPU per tick")
        if plot:
            plots[name] = plot
    return plots
