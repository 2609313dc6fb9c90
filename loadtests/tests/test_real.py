"""Real sockets, a real server process, real faults; what dead readers cost."""

import pytest

from loadtests.dead_readers import measure
from loadtests.faults.real import run_campaign


@pytest.mark.proof(only=True)
async def test_100_clients_lose_nothing_whatever_dies(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = await run_campaign(100, seed=1)
    with capsys.disabled():
        print(f"\n{outcome.line()}")
    assert outcome.violations == []
    counts = outcome.counts
    for fault in ("reset", "cut", "half_open", "blackhole", "stall", "unreachable"):
        assert counts[f"fault {fault}"] > 0, f"the campaign had no {fault}"
    for name in ("frames", "delivered", "replayed", "gaps", "resumed", "reconnects"):
        assert counts[name] > 0, name


async def test_dead_readers_cost_the_others_nothing() -> None:
    figures = await measure(healthy=57, dead=3, seconds=4)
    assert figures.fewest == figures.most > 10, "somebody got fewer updates than another"
    assert figures.growth_bytes < 4 * 1_048_576, "a dead reader holds at most its window, not what it misses"
