"""From runs to rows: medians over the rounds, and ratios to the floor of the same round. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.bench.measure import Measurement
from loadtests.bench.subjects import Subject

__all__ = ["Row", "Spread", "rows_of"]


@dataclass(frozen=True)
class Spread:
    """A median with the lowest and highest of its rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """None of nothing."""
        listed = list(values)
        return cls(statistics.median(listed), min(listed), max(listed)) if listed else None


@dataclass(frozen=True)
class Row:
    """One server in one workload. Without valid rounds the figures are None and ``reasons`` say why."""

    workload: str
    label: str
    family: str
    mode: str
    settings: str
    easier: bool = False
    rounds: int = 0
    valid: int = 0
    reasons: Sequence[str] = field(default_factory=list)
    us: Spread | None = None
    """Server CPU per delivered message, us."""
    ratio: Spread | None = None
    """The same over the floor's of that round."""
    ms_per_tick: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    max_ms: float | None = None
    bytes_per_message: float | None = None
    rss_mb: float | None = None
    """Of the server with everybody connected, in 10^6 bytes."""
    rss_per_connection: float | None = None
    rss_growth: float | None = None
    ready_s: float | None = None
    sink_cpu: float | None = None
    reach: float | None = None
    digest: str = ""
    histogram: Sequence[Sequence[int]] = field(default_factory=list)


def rows_of(
    runs: Sequence[Measurement], subjects: Mapping[tuple[str, str], Subject], floors: Mapping[tuple[str, str], str]
) -> list[Row]:
    """A row for each workload and label, in the order of ``subjects``; ``floors`` names the floor of each."""
    by_row: dict[tuple[str, str], list[Measurement]] = {}
    for run in runs:
        by_row.setdefault((run.workload, run.label), []).append(run)
    return [
        _row(subject, workload, by_row[workload, label], by_row.get((workload, floors.get((workload, label), "")), []))
        for (workload, label), subject in subjects.items()
        if (workload, label) in by_row
    ]


def _row(subject: Subject, workload: str, runs: Sequence[Measurement], floors: Sequence[Measurement]) -> Row:
    valid = [run for run in runs if not run.invalid]
    floor_us = {floor.round: floor.us_per_message for floor in floors if not floor.invalid}
    ratios = [run.us_per_message / floor_us[run.round] for run in valid if floor_us.get(run.round, 0) > 0]
    reasons = [f"round {run.round + 1}: {reason}" for run in runs for reason in run.invalid]
    row = {
        "workload": workload,
        "label": subject.label,
        "family": subject.family,
        "mode": subject.mode,
        "settings": subject.settings,
        "easier": subject.easier,
        "rounds": len(runs),
        "valid": len(valid),
        "reasons": reasons,
    }
    if not valid:
        return Row(**row)  # type: ignore[arg-type]

    def median(values: Iterable[float]) -> float:
        return statistics.median(values)

    has_messages = any(run.us_per_message for run in valid)
    return Row(
        **row,  # type: ignore[arg-type]
        us=Spread.of(run.us_per_message for run in valid) if has_messages else None,
        ratio=Spread.of(ratios),
        ms_per_tick=median(run.ms_per_tick for run in valid) if has_messages else None,
        p50_ms=median(run.p50 for run in valid) / 1000,
        p99_ms=median(run.p99 for run in valid) / 1000,
        p999_ms=median(run.p999 for run in valid) / 1000,
        max_ms=median(run.max for run in valid) / 1000,
        bytes_per_message=median(run.bytes_per_message for run in valid),
        rss_mb=median(run.rss for run in valid) / 1e6,
        rss_per_connection=median(run.rss_per_connection for run in valid),
        rss_growth=median(run.rss_growth for run in valid),
        ready_s=median(run.ready_s for run in valid),
        sink_cpu=max(run.sink_cpu for run in valid),
        reach=min(run.received / run.expected for run in valid) if all(run.expected for run in valid) else None,
        digest=next((run.verdict.digest for run in valid if run.verdict and run.verdict.digest), ""),
        histogram=valid[-1].histogram,
    )
