"""Many seeds over all cores, and what they add up to."""

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from loadtests.faults.simulation import simulate

__all__ = ["SOMETIMES", "Campaign", "replay_command", "run_campaign", "summary"]

SOMETIMES: Final = (
    "cut",
    "half_open",
    "stall",
    "restart",
    "drain",
    "kill",
    "refuse",
    "slow",
    "clock",
    "churn",
    "pause",
    "checkpoint",
    "burst",
    "gaps",
    "duplicates",
    "replayed",
    "replays_asked",
    "client_holds",
    "queue_overflow",
    "retry_cap",
    "checkpoint_resume",
    "conflated",
    "acks",
    "pauses",
    "resume_resumed",
    "resume_position_evicted",
    "resume_position_ahead",
    "resume_unknown_session",
    "resume_caps_changed",
    "resume_lost_race",
    "close_4000",
    "close_4001",
    "close_4003",
    "close_4500",
    "close_1012",
    "close_1013",
    "evicted_expired",
    "evicted_memory",
    "watchdog",
    "late_message",
)
"""What must have happened somewhere in a campaign: a rare path that is never taken proves nothing."""

_BLOCK: Final = 100


@dataclass
class Campaign:
    """Totals of a campaign, and a text for each seed that failed."""

    totals: "Counter[str]" = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    def missing(self) -> list[str]:
        """What never happened although it must."""
        return [name for name in SOMETIMES if not self.totals[name]]


def replay_command(seed: int) -> str:
    """How to see a seed again."""
    return f"python -m loadtests.faults.simulate --seed {seed} -v"


def summary(campaign: Campaign) -> str:
    """One line of figures."""
    totals = campaign.totals
    misses = sum(totals[f"resume_{reason}"] for reason in ("position_evicted", "position_ahead", "unknown_session",
                                                           "caps_changed"))  # fmt: skip
    return (
        f"schedules={totals['schedules']} frames={totals['frames']} replayed={totals['replayed']} "
        f"gaps={totals['gaps']} resumes_hit={totals['resume_resumed']} resumes_miss={misses} "
        f"duplicates={totals['duplicates']} conflated={totals['conflated']} lost={len(campaign.failures)}"
    )


def run_campaign(
    start: int,
    schedules: int,
    *,
    workers: int | None = None,
    progress: Callable[[Campaign], None] = lambda campaign: None,
    max_failures: int = 20,
) -> Campaign:
    """Simulate the seeds ``start`` to ``start + schedules - 1``; ends early after ``max_failures`` failing ones."""
    campaign = Campaign()
    begin = time.monotonic()
    blocks = [(first, min(_BLOCK, start + schedules - first)) for first in range(start, start + schedules, _BLOCK)]
    blocks.reverse()
    workers = workers or os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_collect_rarely) as pool:
        running: set[Future[Campaign]] = set()
        while (blocks or running) and len(campaign.failures) < max_failures:
            while blocks and len(running) < 2 * workers:
                running.add(pool.submit(run_block, *blocks.pop()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                part = future.result()
                campaign.totals += part.totals
                campaign.failures |= part.failures
                campaign.seconds = time.monotonic() - begin
                progress(campaign)
        for future in running:
            future.cancel()
    return campaign


def _collect_rarely() -> None:
    """A world is garbage at once and in one piece; looking for it every 700 objects takes a sixth of the time."""
    gc.set_threshold(50_000, 20, 20)


def run_block(start: int, count: int) -> Campaign:
    """Some seeds, one after the other."""
    part = Campaign()
    for seed in range(start, start + count):
        outcome = simulate(seed)
        part.totals += outcome.totals
        if outcome.violations:
            lines = "\n".join(f"  {violation}" for violation in outcome.violations[:5])
            part.failures[seed] = (
                f"seed {seed}: {len(outcome.violations)} violations\n{lines}\n  {replay_command(seed)}"
            )
    return part
