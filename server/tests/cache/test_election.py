"""The election in virtual time: instances that stop, answers that are lost, clocks that stand still."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.cache.election import LEASE_MS, RENEW_MS, RETRY_MS, Due, Election
from tokenwire_server.cache.memory import MemoryCache
from tokenwire_server.cache.port import FencedError, Grant
from tokenwire_server.market.token_index import IndexOrder, TokenIndex

from .world import LOCK

STEP_MS = 250
ONE = TokenIndex({"v": b"{}"}, {})


@dataclass
class Instance:
    name: str
    election: Election = field(default_factory=Election)
    paused_until_ms: int = 0

    async def turn(self, cache: MemoryCache, now_ms: int, *, loses_question: bool, loses_answer: bool) -> None:
        due = self.election.due(now_ms)
        if due is Due.NOTHING:
            return
        if loses_question:
            self.election.unanswered(now_ms)
            return
        if due is Due.ACQUIRE:
            grant = await cache.acquire(LOCK, self.name, LEASE_MS)
            if not loses_answer:
                self.election.granted(grant, now_ms)
        else:
            is_held = await cache.renew(LOCK, self.name, LEASE_MS)
            if not loses_answer:
                self.election.renewed(is_held, now_ms)
        if loses_answer:
            self.election.unanswered(now_ms)

    async def publish(self, cache: MemoryCache) -> bool:
        try:
            await cache.publish(ONE, LOCK, self.election.fence)
        except FencedError:
            self.election.fenced(self.election.fence)
            return False
        return True


class Clock:
    now_ms = 0


# What happens to an instance in a step: nothing, it is paused for a while, or its question or the answer is lost.
events = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["pause", "question", "answer"]), st.integers(1, 80)), max_size=40
)


@given(events, st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_what_is_published_never_comes_from_an_earlier_leader_and_a_place_is_taken_in_time(
    happenings: list[tuple[int, str, int]], gap: int
) -> None:
    async def run() -> None:
        clock = Clock()
        cache = MemoryCache(lambda: clock.now_ms)
        instances = [Instance(name) for name in "abc"]
        pending = list(happenings)
        newest_fence = 0
        lost: dict[tuple[int, str], int] = {}
        for step in range(400):
            clock.now_ms = step * STEP_MS
            if pending and step % (gap + 1) == 0:
                who, what, steps = pending.pop()
                if what == "pause":
                    instances[who].paused_until_ms = clock.now_ms + steps * STEP_MS
                else:
                    lost[who, what] = clock.now_ms + steps * STEP_MS
            accepted = set()
            for who, instance in enumerate(instances):
                if instance.paused_until_ms > clock.now_ms:
                    continue
                if instance.election.leads:  # a paused one wakes up and does this before it hears anything
                    fence = instance.election.fence
                    if await instance.publish(cache):
                        assert fence >= newest_fence
                        newest_fence = fence
                        accepted.add(instance.name)
                await instance.turn(
                    cache,
                    clock.now_ms,
                    loses_question=lost.get((who, "question"), 0) > clock.now_ms,
                    loses_answer=lost.get((who, "answer"), 0) > clock.now_ms,
                )
            assert len(accepted) <= 2  # two only in the very step in which the place passes on
        # Once nothing happens any more, somebody leads within a lease and an attempt, and nobody else believes so.
        begun_ms = max(clock.now_ms, *(instance.paused_until_ms for instance in instances), *lost.values(), 0)
        for now_ms in range(begun_ms, begun_ms + LEASE_MS + RETRY_MS + 2 * STEP_MS, STEP_MS):
            clock.now_ms = now_ms
            for instance in instances:
                await instance.turn(cache, now_ms, loses_question=False, loses_answer=False)
                if instance.election.leads:
                    await instance.publish(cache)
        assert sum([instance.election.leads for instance in instances]) == 1

    asyncio.run(run())


async def test_the_place_of_a_leader_that_is_gone_is_taken_within_its_lease_and_one_attempt() -> None:
    clock = Clock()
    cache = MemoryCache(lambda: clock.now_ms)
    gone, other = Instance("a"), Instance("b")
    await gone.turn(cache, 0, loses_question=False, loses_answer=False)
    for clock.now_ms in range(0, 60_000, 50):
        if clock.now_ms <= 30_000:
            await gone.turn(cache, clock.now_ms, loses_question=False, loses_answer=False)
            assert not other.election.leads
        await other.turn(cache, clock.now_ms, loses_question=False, loses_answer=False)
        if other.election.leads:
            break
    assert 30_000 < clock.now_ms <= 30_000 + LEASE_MS + RETRY_MS
    assert await other.publish(cache)
    assert not await gone.publish(cache)
    assert not gone.election.leads


async def test_a_leader_that_the_cache_does_not_answer_goes_on_until_it_hears_of_another() -> None:
    election = Election()
    election.granted(Grant(1, LEASE_MS), 0)
    assert (election.due(RENEW_MS - 1), election.wait_ms(1)) == (Due.NOTHING, RENEW_MS - 1)
    for now_ms in range(RENEW_MS, 10 * LEASE_MS, RETRY_MS):
        assert election.due(now_ms) is Due.RENEW
        election.unanswered(now_ms)
        assert election.leads
    election.renewed(False, 10 * LEASE_MS)
    assert election.leads  # nobody may have taken its place
    assert election.due(10 * LEASE_MS) is Due.ACQUIRE
    election.granted(Grant(0, 700), 10 * LEASE_MS)
    assert not election.leads
    assert election.wait_ms(10 * LEASE_MS) == 701


@pytest.mark.parametrize("fence", [0, 3])
async def test_fences_begin_above_nothing(fence: int) -> None:
    cache = MemoryCache(lambda: 0)
    with pytest.raises(FencedError):
        await cache.publish(TokenIndex({"v": b"{}"}, dict[object, IndexOrder]()), LOCK, fence)  # type: ignore[arg-type]


def test_a_refusal_of_what_was_published_before_the_last_grant_says_nothing() -> None:
    election = Election()
    election.granted(Grant(1, LEASE_MS), 0)
    election.granted(Grant(2, LEASE_MS), 0)
    election.fenced(1)
    assert election.fence == 2
    election.fenced(2)
    assert not election.leads
    assert election.due(0) is Due.ACQUIRE
