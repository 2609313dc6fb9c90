"""Small plots as inline SVG: bars of CPU per message, and curves of the delay. Pure."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from loadtests.bench.stats import Row

__all__ = ["bars", "curves", "lines", "standalone"]

_COLOURS: Final = ("#0b6e4f", "#888888", "#c2410c", "#1d4ed8", "#7c3aed", "#b45309", "#be185d", "#0f766e", "#4d7c0f",
                   "#0369a1", "#a21caf", "#92400e", "#475569", "#65a30d", "#e11d48", "#0d9488", "#7e22ce")  # fmt: skip
_WIDTH: Final = 640
_FAMILY: Final = {"ours": "#0b6e4f", "floor": "#888888", "peer": "#c2410c"}


def _svg(height: int, body: Sequence[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" font-size="12">'
    return f"{head}<title>{escape(title)}</title>{''.join(body)}</svg>"


def bars(rows: Sequence[Row], title: str) -> str:
    """CPU per message of each row, with a whisker from the lowest to the highest round."""
    shown = [(row, row.us) for row in rows if row.us is not None]
    if not shown:
        return ""
    most = max(us.high for _, us in shown)
    left, room = 190, _WIDTH - 190 - 70
    body: list[str] = []
    for at, (row, us) in enumerate(shown):
        y = 6 + at * 22
        long, low, high = (max(room * value / most, 1) for value in (us.median, us.low, us.high))
        name = f"{row.label}{' *' if row.easier else ''}"
        body += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{long:.1f}" height="16" fill="{_FAMILY.get(row.family, "#c2410c")}"/>',
            f'<path d="M{left + low:.1f} {y + 8}H{left + high:.1f}" stroke="#000" stroke-width="1.5"/>',
            f'<text x="{left + max(long, high) + 6:.1f}" y="{y + 13}">{us.median:.2f}</text>',
        ]
    return _svg(len(shown) * 22 + 10, body, title)


def curves(rows: Sequence[Row], title: str) -> str:
    """Delay against percentile (one minus it, logarithmic), both axes logarithmic."""
    shown = [row for row in rows if row.histogram and row.family != "floor"][: len(_COLOURS)]
    if not shown:
        return ""
    top = max(row.histogram[-1][0] for row in shown)
    bottom = max(min(row.histogram[0][0] for row in shown), 100)
    nines, height, left = 4, 240, 60
    span = math.log10(max(top / bottom, 1.1))
    body: list[str] = []
    for nine in range(nines + 1):
        x = left + (_WIDTH - left - 170) * nine / nines
        label = "0" if nine == 0 else f"{100 - 100 / 10**nine:g}"
        body.append(f'<path d="M{x:.0f} 10V{height - 30}" stroke="#ddd"/>')
        body.append(f'<text x="{x:.0f}" y="{height - 14}" text-anchor="middle">{label} %</text>')
    for us in _decades(bottom, top):
        y = 10 + (height - 40) * (1 - math.log10(us / bottom) / span)
        body.append(f'<path d="M{left} {y:.0f}H{_WIDTH - 170}" stroke="#ddd"/>')
        body.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{us / 1000:g} ms</text>')
    for at, row in enumerate(shown):
        total = sum(count for _, count in row.histogram)
        seen, points = 0, []
        for us, count in row.histogram:
            rest = 1 - seen / total
            x = left + (_WIDTH - left - 170) * min(-math.log10(max(rest, 10**-nines)), nines) / nines
            y = 10 + (height - 40) * (1 - math.log10(max(us, bottom) / bottom) / span)
            points.append(f"{x:.1f},{y:.1f}")
            seen += count
        colour = _COLOURS[at]
        body.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        body.append(f'<text x="{_WIDTH - 160}" y="{22 + at * 16}" fill="{colour}">{escape(row.label)}</text>')
    return _svg(height, body, title)


def _decades(bottom: float, top: float) -> list[float]:
    first, last = math.ceil(math.log10(bottom)), math.floor(math.log10(max(top, bottom * 1.1)))
    return [10.0**exponent for exponent in range(first, last + 1)]


def lines(points: Sequence[tuple[float, float]], title: str, unit: str) -> str:
    """How something grows: points joined, both axes from zero."""
    if len(points) < 2:
        return ""
    height, left = 180, 60
    most_x, most_y = max(x for x, _ in points) or 1, max(y for _, y in points) or 1
    placed = [
        (left + (_WIDTH / 2 - left - 30) * x / most_x, 20 + (height - 55) * (1 - y / most_y), x, y) for x, y in points
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in placed)
    body = [f'<polyline points="{path}" fill="none" stroke="#0b6e4f" stroke-width="2"/>']
    for x, y, first, second in placed:
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0b6e4f"/>')
        body.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{second:.1f}</text>')
        body.append(f'<text x="{x:.1f}" y="{height - 14}" text-anchor="middle">{first:g}</text>')
    body.append(f'<text x="4" y="14">{escape(unit)}</text>')
    return _svg(height, body, title)


def standalone(svg: str) -> str:
    """A plot as a file of its own."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" style="background:#fff" ', 1) + "\n"
