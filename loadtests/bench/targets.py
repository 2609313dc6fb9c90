"""What we promise, held against the rows of a run. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtests.bench.stats import Row
from loadtests.bench.subjects import KEEP_CONTEXT

__all__ = ["Target", "evaluate"]

DEAD_READER_BYTES: Final = 131_072
"""What a reader that never reads may make the server's memory grow by: its write buffer and as much again."""


@dataclass(frozen=True)
class Target:
    """One promise. ``is_met`` None: the run did not measure it."""

    workload: str
    text: str
    is_met: bool | None
    found: str


class _Rows:
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def find(self, workload: str, label: str) -> Row | None:
        """A row of which at least half the rounds are valid."""
        for row in self._rows:
            if row.workload == workload and row.label == label and row.valid * 2 >= row.rounds > 0:
                return row
        return None

    def without_figures(self, workload: str) -> list[str]:
        """Peers that took part and of which not even half the rounds are valid."""
        rows = [row for row in self._rows if row.workload == workload and row.family == "peer" and not row.easier]
        return [row.label for row in rows if row.valid * 2 < row.rounds]

    def peers(self, workload: str, *, compressing: bool = False) -> list[Row]:
        """Peers at the same task as ours: not the easier one."""
        return [
            row
            for row in self._rows
            if row.workload == workload and row.family == "peer" and row.valid and not row.easier and row.us
            if not compressing or row.mode != "none"
        ]


def evaluate(rows: Sequence[Row], sdk: dict[str, Any] | None = None) -> list[Target]:
    """Every target, in the order of the workloads."""
    found = _Rows(rows)
    targets: list[Target] = []
    for part in (_w1, _w2, _others, _many, _delays):
        targets += part(found)
    rate = next((float(row["per_s"]) for row in (sdk or {}).get("rows", ()) if row["client"] == "sdk"), None)
    text = "SDK: at least 200,000 token updates/s on one core"
    targets.append(
        Target("SDK", text, None if rate is None else rate >= 200_000, "" if rate is None else f"{rate:,.0f}/s")
    )
    return targets


def _at_most(workload: str, text: str, value: float | None, limit: float, unit: str = "") -> Target:
    if value is None:
        return Target(workload, text, None, "")
    return Target(workload, text, value <= limit, f"{value:.2f}{unit}")


def _at_least(workload: str, text: str, value: float | None, limit: float, unit: str = "") -> Target:
    if value is None:
        return Target(workload, text, None, "")
    return Target(workload, text, value >= limit, f"{value:.2f}{unit}")


def _ratio(row: Row | None) -> float | None:
    return row.ratio.median if row and row.ratio else None


def _over(one: Row | None, other: Row | None, what: Callable[[Row], float | None]) -> float | None:
    """``one`` divided by ``other``."""
    if one is None or other is None:
        return None
    above, below = what(one), what(other)
    return above / below if above is not None and below else None


def _us(row: Row) -> float | None:
    return row.us.median if row.us else None


def _ahead(
    rows: _Rows, workload: str, ours: str, but: frozenset[str] = frozenset(), *, compressing: bool | None = None
) -> Target:
    """``compressing``: only peers that do, or that don't, for whoever does has more to do and less to send."""
    others = [row for row in rows.peers(workload) if row.label.split()[0] not in but]
    which = "other peer" if but else "peer"
    if compressing is not None:
        others = [row for row in others if (row.mode != "none") is compressing]
        which = "peer that compresses" if compressing else "peer that does not compress"
    text = f"less CPU per message than every {which} here ({len(others)})"
    mine = rows.find(workload, ours)
    absent = rows.without_figures(workload)
    if absent:
        return Target(workload, text, None, f"no figures of {', '.join(absent)}")
    if mine is None or mine.us is None or not others:
        return Target(workload, text, None, "")
    best = min(others, key=lambda row: row.us.median if row.us else 0)
    assert best.us is not None
    return Target(
        workload,
        text,
        mine.us.median < best.us.median,
        f"{mine.us.median:.2f} us, {best.label} {best.us.median:.2f} us",
    )


def _w1(rows: _Rows) -> Iterator[Target]:
    strict = rows.find("W1", "tokenwire strict")
    yield _at_most("W1", "at most 1.3 x floor", _ratio(strict), 1.3)
    yield _at_most("W1", "at most 1.35 x floor with resume", _ratio(rows.find("W1", "tokenwire resume")), 1.35)
    yield _at_most("W1", "within 10 % of Bun", _over(strict, rows.find("W1", "bun"), _us), 1.1, " x")
    yield _ahead(rows, "W1", "tokenwire strict", frozenset({"bun"}))


def _w2(rows: _Rows) -> Iterator[Target]:
    deflate, zstd = rows.find("W2", "tokenwire deflate"), rows.find("W2", "tokenwire zstd")
    yield _at_most("W2", "at most 1.6 x floor, compression included (deflate)", _ratio(deflate), 1.6)
    yield _at_most("W2", "at most 1.6 x floor, compression included (zstd)", _ratio(zstd), 1.6)
    for workload, times in (("W2", 10), ("W2-all", 25)):
        mine = rows.find(workload, "tokenwire deflate")
        theirs = rows.find(workload, "websockets default")
        text = f"{times} x less CPU than websockets as shipped"
        yield _at_least(workload, text, _over(theirs, mine, _us), times, " x")
    peers = rows.peers("W2", compressing=True)
    best = min(peers, key=lambda row: _us(row) or 0, default=None)
    text = f"4 x less CPU than the best peer that compresses{f' ({best.label})' if best else ''}"
    yield _at_least("W2", text, _over(best, deflate, _us), 4, " x")
    fresh = [row for row in peers if row.label.split()[0] not in KEEP_CONTEXT]
    smallest = min(fresh, key=lambda row: row.bytes_per_message or 0, default=None)
    beside = f"; {smallest.label}" if smallest else ""
    for mine, name, share in ((deflate, "deflate", 0.6), (zstd, "zstd", 0.45)):
        text = f"at most {share:.0%} of the bytes of the best peer without context takeover ({name}{beside})"
        yield _at_most("W2", text, _over(mine, smallest, lambda row: row.bytes_per_message), share)


def _others(rows: _Rows) -> Iterator[Target]:
    strict = rows.find("W9", "tokenwire strict")
    yield _at_most("W9", "a tick costs less than 60 ms", strict.ms_per_tick if strict else None, 60, " ms")
    yield _ahead(rows, "W9", "tokenwire strict")
    different = rows.find("W3", "tokenwire deflate")
    yield _at_most("W3", "a tick costs less than 60 ms", different.ms_per_tick if different else None, 60, " ms")
    yield _ahead(rows, "W4", "tokenwire deflate", compressing=True)
    yield _ahead(rows, "W4", "tokenwire batch", compressing=False)


def _many(rows: _Rows) -> Iterator[Target]:
    for workload in ("W5", "W8"):
        row = rows.find(workload, "tokenwire strict")
        yield _at_most(workload, "15,000 connections in at most 120 MB", row.rss_mb if row else None, 120, " MB")
    yield _at_most("W8", "at most 1.5 x floor", _ratio(rows.find("W8", "tokenwire strict")), 1.5)


def _delays(rows: _Rows) -> Iterator[Target]:
    slow, well = rows.find("W6", "tokenwire deflate"), rows.find("W2", "tokenwire deflate")
    text = "p99 of those who read within 1.2 x of W2"
    yield _at_most("W6", text, _over(slow, well, lambda row: row.p99_ms), 1.2, " x")
    plain = rows.find("W6", "tokenwire batch")  # so much more to send that they fall behind at once
    growth = plain.rss_growth / 50 if plain and plain.rss_growth is not None else None
    yield _at_most("W6", "memory per dead reader stays below 128 KiB", growth, DEAD_READER_BYTES, " B")
    for workload, mode in (("W7", "deflate"), ("W7-strict", "strict")):
        row = rows.find(workload, f"tokenwire {mode}")
        yield _at_most(workload, "everybody served in less than 3 s", row.ready_s if row else None, 3, " s")
    for workload, mode, limit in (("spec", "batch", 25), ("spec", "deflate", 25), ("spec-strict", "strict", 80)):
        row = rows.find(workload, f"tokenwire {mode}")
        yield _at_most(
            workload, f"p99 at most {limit} ms from the plan ({mode})", row.p99_ms if row else None, limit, " ms"
        )
