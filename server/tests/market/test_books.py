"""All order books: who wants which, for how long, and how many there may be."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.book import BookCondition, BookDelta, BookSnapshot
from tokenwire_server.market.books import LINGER_MS, BookRefusal, BookRefusedError, MarketBooks
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import BookSink, Sink, SourceState

FULL = BookSnapshot([(Decimal(1), Decimal(5))], [(Decimal(2), Decimal(5))], 1_000)
CROSSING = BookDelta([(Decimal(3), Decimal(5))], [], 1_001)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def books(told: list[str]) -> MarketBooks:
    books = MarketBooks(told.append, first_revision=100, max_books=3)
    books.offer("sim", ["A", "B", "C", "D"])
    books.offer("other", ["A", "X"])
    return books


def test_only_wanted_books_are_kept(books: MarketBooks, told: list[str]) -> None:
    assert books.apply("sim", "A", FULL) is BookCondition.CLOSED
    assert (len(books), books.get("A"), list(books.wanted("sim"))) == (0, None, [])
    wanted = books.wanted("sim")
    book = books.hold("A")
    assert list(wanted) == ["A"]
    assert books.hold("A") is book is books.get("A") is wanted["A"]
    assert books.apply("sim", "A", FULL) is BookCondition.SOUND
    assert told == ["A"]
    books.release("A")
    assert books.get("A") is book
    books.release("A")
    assert (books.get("A"), len(books), len(wanted)) == (None, 0, 0)
    with pytest.raises(ValueError, match="nobody holds the book of A"):
        books.release("A")


def test_a_book_belongs_to_the_source_that_offered_it_first(books: MarketBooks) -> None:
    books.hold("A")
    assert (books.source_of("A"), books.source_of("X"), books.source_of("Y")) == ("sim", "other", None)
    assert books.apply("other", "A", FULL) is BookCondition.CLOSED
    books.apply("sim", "A", FULL)
    books.lose("other", "A")
    books.lose_all("other")
    book = books.get("A")
    assert book is not None
    assert not book.is_stale


def test_a_book_that_was_looked_at_lingers(books: MarketBooks) -> None:
    first = books.look("A", 0)
    books.look("B", 10_000)
    assert books.look("A", 20_000) is first
    books.advance(10_000 + LINGER_MS)
    assert (books.get("A"), books.get("B")) == (first, None)
    books.advance(20_000 + LINGER_MS)
    assert len(books) == 0


def test_a_held_book_outlives_its_lingering_and_the_reverse(books: MarketBooks) -> None:
    books.hold("A")
    books.look("A", 0)
    books.look("B", 0)
    books.hold("B")
    books.release("B")
    books.advance(LINGER_MS - 1)
    assert set(books.wanted("sim")) == {"A", "B"}
    books.advance(LINGER_MS)
    assert set(books.wanted("sim")) == {"A"}
    books.release("A")
    assert len(books) == 0


def test_a_new_book_takes_the_place_of_the_one_looked_at_longest_ago(books: MarketBooks) -> None:
    books.hold("A")
    books.look("B", 1)
    books.look("C", 2)
    books.look("B", 3)
    books.hold("D")
    assert set(books.wanted("sim")) == {"A", "B", "D"}
    books.hold("B")
    with pytest.raises(BookRefusedError) as refused:
        books.look("C", 4)
    assert refused.value.reason is BookRefusal.TOO_MANY
    books.release("D")
    books.look("C", 5)


def test_what_no_source_offers_is_refused(books: MarketBooks) -> None:
    assert books.is_offered("A")
    assert not books.is_offered("Z")
    for want in (books.hold, lambda address: books.look(address, 0)):
        with pytest.raises(BookRefusedError) as refused:
            want("Z")
        assert refused.value.reason is BookRefusal.NOT_OFFERED


def test_revisions_rise_also_over_a_book_that_was_dropped(books: MarketBooks) -> None:
    book = books.hold("A")
    books.apply("sim", "A", FULL)
    books.lose("sim", "A")
    assert book.revision == 102
    books.release("A")
    books.apply("sim", "B", FULL)
    again = books.hold("A")
    books.apply("sim", "A", FULL)
    assert again is not book
    assert again.revision == 103


def test_every_visible_change_is_told_once(books: MarketBooks, told: list[str]) -> None:
    books.hold("A")
    books.hold("X")
    books.apply("sim", "A", FULL)
    books.apply("sim", "A", FULL)
    books.apply("other", "X", FULL)
    books.lose_all("sim")
    books.lose_all("sim")
    assert told == ["A", "X", "A"]
    books.apply("sim", "A", FULL)
    assert books.apply("sim", "A", CROSSING) is BookCondition.CROSSED
    assert (books.crossed, told) == (1, ["A", "X", "A", "A", "A"])


@given(
    st.lists(st.tuples(st.sampled_from(["hold", "release", "look"]), st.sampled_from("ABCDX"), st.integers(0, 40_000)))
)
def test_as_many_as_may_be_and_none_that_nobody_wants(steps: list[tuple[str, str, int]]) -> None:
    books = MarketBooks(max_books=2)
    books.offer("sim", ["A", "B", "C", "D"])
    books.offer("other", ["X"])
    holders = dict.fromkeys("ABCDX", 0)
    now_ms, looked = 0, dict.fromkeys("ABCDX", -LINGER_MS)
    for what, address, wait_ms in steps:
        now_ms += wait_ms
        books.advance(now_ms)
        try:
            if what == "hold":
                books.hold(address)
                holders[address] += 1
            elif what == "look":
                books.look(address, now_ms)
                looked[address] = now_ms
            elif holders[address]:
                holders[address] -= 1
                books.release(address)
        except BookRefusedError:
            assert sum(map(bool, holders.values())) == 2
        kept = {each for each in holders if books.get(each)}
        held = {each for each, count in holders.items() if count}
        assert held <= kept <= held | {each for each, at_ms in looked.items() if now_ms - at_ms < LINGER_MS}
        assert len(books) == len(kept) <= 2
        assert kept == set(books.wanted("sim")) | set(books.wanted("other"))


class Silent:
    """A source with one token and its book, which does what a test says."""

    name, cadence_ms = "silent", 1_000

    def use_books(self, books: BookSink) -> None:
        self.books = books
        books.offer("silent", ["P"])

    async def run(self, sink: Sink) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("end", [SourceState.RECONNECTING, SourceState.FAILED, SourceState.ENDED])
def test_the_books_of_a_source_that_is_not_live_are_stale(end: SourceState) -> None:
    pipeline, source = _running(lambda: 0)
    heard: list[str] = []
    pipeline.book_listeners.append(heard.append)
    book = pipeline.look_at_book("P")
    assert pipeline.book("P") is book
    source.books.apply("silent", "P", FULL)
    assert not book.is_stale
    pipeline.state("silent", SourceState.LIVE)
    assert not book.is_stale
    pipeline.state("silent", end)
    assert book.is_stale
    assert heard == ["P", "P"]


def test_the_books_of_a_source_that_fell_silent_are_stale() -> None:
    now = 0
    pipeline, source = _running(lambda: now)
    book = pipeline.books.hold("P")
    source.books.apply("silent", "P", FULL)
    now = 15_000
    for callback in pipeline.tick_callbacks:
        callback(0.0)
    assert not book.is_stale
    now = 15_001
    for callback in pipeline.tick_callbacks:
        callback(0.0)
    assert book.is_stale


def test_a_tick_drops_what_nobody_looks_at() -> None:
    now = 0
    pipeline, _ = _running(lambda: now)
    pipeline.look_at_book("P")
    now = LINGER_MS
    for callback in pipeline.tick_callbacks:
        callback(0.0)
    assert pipeline.book("P") is None


def test_a_later_start_has_higher_revisions() -> None:
    early, late = (Pipeline(10, lambda: 0, lambda at=at: at) for at in (1_700_000_000_000, 1_700_000_060_000))
    for pipeline in (early, late):
        pipeline.books.offer("s", ["P"])
    for _ in range(600):
        early.books.offer("s", ["P"])
        early.books.hold("P")
        early.books.apply("s", "P", FULL)
        early.books.release("P")
    assert early.books.hold("P").revision < late.books.hold("P").revision < 2**53


def _running(now: Callable[[], int]) -> tuple[Pipeline, Silent]:
    pipeline, source = Pipeline(10, now, lambda: 1_700_000_000_000), Silent()
    pipeline.add_source(source)
    pipeline.tokens("silent", [TokenInfo("P", "P")])
    pipeline.state("silent", SourceState.LIVE)
    return pipeline, source
