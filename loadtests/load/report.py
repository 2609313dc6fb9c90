"""What a run leaves behind: the summary in JSON, and lines for whoever waits. Pure but for the file."""

import json
from pathlib import Path
from typing import Any

from loadtests.load.gate import Verdict
from loadtests.load.tally import COUNTS, TIMES, Tally

__all__ = ["progress", "summary", "write_summary"]


def summary(tally: Tally, verdict: Verdict, settings: dict[str, Any]) -> dict[str, Any]:
    """The whole run as plain data. Times in microseconds."""
    return {
        "verdict": verdict.status.name,
        "exit_code": verdict.status.value,
        "reasons": list(verdict.reasons),
        "settings": settings,
        "counts": {name: {"value": tally.counts[name], "meaning": meaning} for name, meaning in COUNTS.items()},
        "times": {name: tally.summary(name) for name in TIMES},
        "histograms": tally.snapshot()["times"],
    }


def write_summary(path: Path, data: dict[str, Any]) -> None:
    """Write the summary, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


def progress(elapsed_s: float, users: int, tally: Tally) -> str:
    """How it goes."""
    counts = tally.counts
    watched = ("lost", "gap", "duplicate", "repeated", "refused", "dropped")
    wrong = [f"{name} {counts[name]}" for name in watched if counts[name]]
    return (
        f"{elapsed_s:5.0f} s  {users:5d} users  {counts['delivered']:8d} ticks  "
        f"push p99 {tally.percentile_us('push latency', 99) / 1000:7.1f} ms  "
        f"canary p99 {tally.percentile_us('canary', 99) / 1000:5.1f} ms  {', '.join(wrong) or 'nothing lost'}"
    )
