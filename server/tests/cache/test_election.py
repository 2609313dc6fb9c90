"""The election in virtual time: instances that stop or may not lead, answers that are lost, clocks that stand still."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.cache.election import CHECK_MS, LEASE_MS, RENEW_MS, RETRY_MS, Due, Election
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
    may_lead: bool = True

    async def turn(self, cache: MemoryCache, now_ms: int, *, loses_question: bool, loses_answer: bool) -> None:
        self.election.allow(may_lead=self.may_lead)
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
        elif due is Due.RENEW:
            is_held = await cache.renew(LOCK, self.name, LEASE_MS)
            if not loses_answer:
                self.election.renewed(is_held, now_ms)
        else:
            await cache.release(LOCK, self.name)
            if not loses_answer:
                self.election.released(now_ms)
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


def allowed() -> Election:
    """One that may lead."""
    election = Election()
    election.allow(may_lead=True)
    return election


# What happens to an instance in a step: nothing; it is paused, or may not lead, for a while; its question or the answer
# is lost.
events = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["pause", "old", "question", "answer"]), st.integers(1, 80)),
    max_size=40,
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
                instance.may_lead = lost.get((who, "old"), 0) <= clock.now_ms
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
                assert instance.may_lead or not instance.election.leads
            assert len(accepted) <= 2  # two only in the very step in which the place passes on
        # Once nothing happens any more, somebody leads within a lease and an attempt, and nobody else believes so.
        begun_ms = max(clock.now_ms, *(instance.paused_until_ms for instance in instances), *lost.values(), 0)
        for now_ms in range(begun_ms, begun_ms + LEASE_MS + RETRY_MS + 2 * STEP_MS, STEP_MS):
            clock.now_ms = now_ms
            for instance in instances:
                instance.may_lead = True
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
    election = allowed()
    election.granted(Grant(1, LEASE_MS), 0)
    assert (election.due(RENEW_MS - 1), election.wait_ms(1)) == (Due.NOTHING, CHECK_MS)
    assert election.wait_ms(RENEW_MS - 1) == 1
    for now_ms in range(RENEW_MS, 10 * LEASE_MS, RETRY_MS):
        assert election.due(now_ms) is Due.RENEW
        election.unanswered(now_ms)
        assert election.leads
    election.renewed(False, 10 * LEASE_MS)
    assert election.leads  # nobody may have taken its place
    assert election.due(10 * LEASE_MS) is Due.ACQUIRE
    election.granted(Grant(0, 700), 10 * LEASE_MS)
    assert not election.leads
    assert [election.due(10 * LEASE_MS + ms) for ms in (700, 701)] == [Due.NOTHING, Due.ACQUIRE]


@pytest.mark.parametrize("fence", [0, 3])
async def test_fences_begin_above_nothing(fence: int) -> None:
    cache = MemoryCache(lambda: 0)
    with pytest.raises(FencedError):
        await cache.publish(TokenIndex({"v": b"{}"}, dict[object, IndexOrder]()), LOCK, fence)  # type: ignore[arg-type]


def test_a_refusal_of_what_was_published_before_the_last_grant_says_nothing() -> None:
    election = allowed()
    election.granted(Grant(1, LEASE_MS), 0)
    election.granted(Grant(2, LEASE_MS), 0)
    election.fenced(1)
    assert election.fence == 2
    election.fenced(2)
    assert not election.leads
    assert election.due(0) is Due.ACQUIRE


def test_one_that_may_not_lead_takes_no_part() -> None:
    election = Election()
    for now_ms in range(0, 3 * LEASE_MS, CHECK_MS):
        assert (election.due(now_ms), election.wait_ms(now_ms)) == (Due.NOTHING, CHECK_MS)
    election.allow(may_lead=True)
    assert election.due(3 * LEASE_MS) is Due.ACQUIRE


def test_a_leader_that_may_not_lead_any_more_stops_at_once_and_lets_go() -> None:
    election = allowed()
    election.granted(Grant(1, LEASE_MS), 0)
    election.allow(may_lead=False)
    assert not election.leads
    assert election.due(1) is Due.RELEASE
    election.unanswered(1)
    assert [election.due(ms) for ms in (RETRY_MS, RETRY_MS + 1)] == [Due.NOTHING, Due.RELEASE]
    election.released(RETRY_MS + 1)
    assert election.due(10 * LEASE_MS) is Due.NOTHING
    election.allow(may_lead=True)
    assert election.due(10 * LEASE_MS) is Due.ACQUIRE


def test_a_lock_that_was_granted_by_an_answer_that_got_lost_is_let_go_of_too() -> None:
    election = allowed()
    election.unanswered(0)
    election.allow(may_lead=False)
    assert election.due(1) is Due.RELEASE


def test_whoever_may_lead_again_before_it_let_go_asks_for_a_new_grant() -> None:
    election = allowed()
    election.granted(Grant(1, LEASE_MS), 0)
    election.allow(may_lead=False)
    election.allow(may_lead=True)
    assert not election.leads
    assert election.due(1) is Due.ACQUIRE


async def test_the_place_of_one_that_may_not_lead_any_more_is_taken_without_waiting_for_its_lease() -> None:
    clock = Clock()
    cache = MemoryCache(lambda: clock.now_ms)
    old, other = Instance("a"), Instance("b")
    for clock.now_ms in range(0, 60_000, 50):
        old.may_lead = clock.now_ms < 30_000
        for instance in (old, other):
            await instance.turn(cache, clock.now_ms, loses_question=False, loses_answer=False)
        assert old.election.leads is old.may_lead
        if other.election.leads:
            break
    assert 30_000 <= clock.now_ms <= 30_000 + RETRY_MS
    assert await other.publish(cache)
