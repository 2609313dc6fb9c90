"""One token's order book, against a plain dictionary of the venue's whole book."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market import book as module
from tokenwire_server.market.book import (
    MAX_DEPTH_LEVELS,
    BookCondition,
    BookDelta,
    BookSnapshot,
    Level,
    OrderBook,
)
from tokenwire_server.market.decimals import canonical

T0 = 1_700_000_000_000
Book = dict[Decimal, Decimal]


def levels(text: str) -> list[Level]:
    """``"101*2 102*0"``: prices and amounts."""
    return [(Decimal(price), Decimal(amount)) for price, amount in (each.split("*") for each in text.split())]


def snapshot(bids: str = "", asks: str = "", time_ms: int = T0, limit_levels: int = 0) -> BookSnapshot:
    return BookSnapshot(levels(bids), levels(asks), time_ms, limit_levels)


def delta(bids: str = "", asks: str = "", time_ms: int = T0) -> BookDelta:
    return BookDelta(levels(bids), levels(asks), time_ms)


def shown(book: OrderBook, depth: int = 10) -> str:
    top = book.top(depth)
    return " ".join("*".join(row) for row in top.bids) + " | " + " ".join("*".join(row) for row in top.asks)


def test_the_best_levels_come_first_as_canonical_text() -> None:
    book = OrderBook("PEPE")
    assert book.apply(snapshot("0.10*5 0.30*1.50 0.20*2", "0.50*7 0.40*1E+2 0.60*0")) is BookCondition.SOUND
    assert shown(book) == "0.3*1.5 0.2*2 0.1*5 | 0.4*100 0.5*7"
    assert shown(book, 1) == "0.3*1.5 | 0.4*100"
    assert book.levels == 5


def test_a_delta_sets_adds_and_removes() -> None:
    book = OrderBook("PEPE")
    book.apply(snapshot("1*1 2*2", "3*3 4*4"))
    book.apply(delta("2.0*0 1.5*9 7.7*0", "4.00*5", T0 + 7))
    assert shown(book) == "1.5*9 1*1 | 3*3 4*5"
    assert book.time_ms == book.top(1).time_ms == T0 + 7


def test_what_changes_nothing_makes_no_revision_but_moves_the_time() -> None:
    book = OrderBook("PEPE", revision=40)
    book.apply(snapshot("1*1", "3*3"))
    assert book.revision == 41
    before = book.top(5)
    assert book.top(5) is before
    book.apply(delta("1.0*1.00 0.5*0", "", T0 + 5))
    assert book.top(5) is not before
    assert (book.revision, book.top(5).time_ms, book.top(5).bids) == (41, T0 + 5, before.bids)
    book.apply(snapshot("1*1", "3*3", T0 + 6))
    assert book.revision == 41
    book.apply(delta("1*2"))
    assert (book.revision, before.bids, book.time_ms) == (42, (("1", "1"),), T0)


def test_a_book_is_stale_until_its_first_snapshot_and_after_a_loss() -> None:
    book = OrderBook("PEPE")
    assert book.apply(delta("1*1")) is BookCondition.STALE
    assert (book.is_filled, book.is_stale, book.lose(), book.revision, shown(book)) == (False, True, False, 0, " | ")
    book.apply(snapshot("1*1", "2*2"))
    assert (book.is_filled, book.is_stale, book.revision) == (True, False, 1)
    assert book.lose()
    assert not book.lose()
    assert (book.top(3).is_stale, book.revision, shown(book)) == (True, 2, "1*1 | 2*2")
    assert book.apply(delta("1*5")) is BookCondition.STALE
    assert shown(book) == "1*1 | 2*2"
    book.apply(snapshot("1*1", "2*2"))
    assert (book.top(3).is_stale, book.revision) == (False, 3)


@pytest.mark.parametrize("bid", ["2", "2.5"])
def test_a_crossed_book_is_stale(bid: str) -> None:
    book = OrderBook("PEPE")
    book.apply(snapshot("1*1", "2*2"))
    assert book.apply(delta(f"{bid}*1")) is BookCondition.CROSSED
    assert (book.is_stale, book.is_crossed) == (True, True)
    assert book.apply(delta(f"{bid}*0")) is BookCondition.STALE
    assert book.apply(snapshot("1*1", "2*2")) is BookCondition.SOUND
    assert book.apply(snapshot("3*1", "2*2")) is BookCondition.CROSSED


def test_prices_of_seventy_digits_are_not_rounded() -> None:
    price = "12345678901234567890123456789012345678.00000000000000000000000000000000000001"
    book = OrderBook("PEPE")
    book.apply(snapshot(f"{price}*1", f"{price}1*1"))
    assert not book.is_stale
    assert book.top(1).bids == ((price, "1"),)


def test_beyond_a_cut_nothing_is_known() -> None:
    book = OrderBook("PEPE")
    assert book.apply(snapshot("9*1 8*1 7*1", "11*1 12*1", limit_levels=3)) is BookCondition.SHALLOW
    book.apply(delta("6*1 7.5*1", "99*1"))  # the bids were cut at 7, the asks are all there are
    assert shown(book) == "9*1 8*1 7.5*1 7*1 | 11*1 12*1 99*1"
    book.apply(delta("9*0 8*0 7.5*0 7*0"))
    assert shown(book) == " | 11*1 12*1 99*1"
    book.apply(delta("6.5*1 7*2"))
    assert shown(book) == "7*2 | 11*1 12*1 99*1"


def test_too_many_levels_cut_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BOOK_LEVELS", 3)
    book = OrderBook("PEPE")
    book.apply(snapshot("1*1 2*1", "11*1 12*1 13*1 14*1"))
    assert shown(book) == "2*1 1*1 | 11*1 12*1 13*1"
    assert book.apply(delta("3*1 4*1", "")) is BookCondition.SHALLOW
    assert shown(book) == "4*1 3*1 2*1 | 11*1 12*1 13*1"
    book.apply(delta("1*7 1.5*1 3*0", "12*0 14*8"))
    assert shown(book) == "4*1 2*1 | 11*1 13*1"


@pytest.mark.parametrize("depth", [0, MAX_DEPTH_LEVELS + 1])
def test_a_depth_out_of_range(depth: int) -> None:
    with pytest.raises(ValueError, match="1 to 100 levels"):
        OrderBook("PEPE").top(depth)


PLACES = st.integers(1, 40)
AMOUNTS = st.integers(0, 3)
CHANGES = st.lists(st.tuples(PLACES, AMOUNTS), max_size=12)
STEPS = st.lists(st.one_of(st.tuples(CHANGES, CHANGES), st.integers(0, 12)), max_size=25)


@given(STEPS, st.integers(2, 9), st.integers(1, 30))
def test_a_book_is_the_beginning_of_the_venues(steps: list[object], most: int, depth: int) -> None:
    """The model is a dictionary of everything; bids lie below 41, asks above, so that they do not cross."""
    bids: Book = {}
    asks: Book = {}
    book = OrderBook("PEPE")
    book.apply(snapshot())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_BOOK_LEVELS", most)
        for step in steps:
            before, revision = shown(book, 100), book.revision
            if isinstance(step, int):  # a snapshot of so many levels
                listed = [sorted(side.items(), reverse=is_bid) for side, is_bid in ((bids, True), (asks, False))]
                cut = [side[:step] if step else side for side in listed]
                book.apply(BookSnapshot(cut[0], cut[1], T0, step))
                top = book.top(100)
                known = min(step or most, most)
                assert [len(top.bids), len(top.asks)] == [min(known, len(bids)), min(known, len(asks))]
            else:
                assert isinstance(step, tuple)
                changes = BookDelta(
                    [(Decimal(place), Decimal(amount)) for place, amount in step[0]],
                    [(Decimal(100 - place), Decimal(amount)) for place, amount in step[1]],
                    T0,
                )
                for side, changed in ((bids, changes.bids), (asks, changes.asks)):
                    for price, amount in changed:
                        side[price] = amount
                        if not amount:
                            del side[price]
                book.apply(changes)
            top = book.top(depth)
            for rows, side, is_bid in ((top.bids, bids, True), (top.asks, asks, False)):
                whole = [(canonical(p), canonical(a)) for p, a in sorted(side.items(), reverse=is_bid)]
                assert list(rows) == whole[: len(rows)]
                assert len(rows) <= min(depth, most)
            assert book.revision - revision in ((1,) if shown(book, 100) != before else (0, 1))


@given(st.lists(st.tuples(CHANGES, CHANGES), max_size=20))
def test_with_room_for_all_nothing_is_missing(steps: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]) -> None:
    model: tuple[Book, Book] = ({}, {})
    book = OrderBook("PEPE")
    book.apply(snapshot())
    for step in steps:
        sides = [
            [(Decimal(abs(place - 100 * which)), Decimal(amount)) for place, amount in changes]
            for which, changes in enumerate(step)
        ]
        changed = False
        for side, changes in zip(model, sides, strict=True):
            before = dict(side)
            for price, amount in changes:
                side[price] = amount
            for price in [price for price, amount in side.items() if not amount]:
                del side[price]
            changed |= side != before
        revision = book.revision
        assert book.apply(BookDelta(sides[0], sides[1], T0)) is BookCondition.SOUND
        top = book.top(100)
        assert list(top.bids) == [(canonical(p), canonical(a)) for p, a in sorted(model[0].items(), reverse=True)]
        assert list(top.asks) == [(canonical(p), canonical(a)) for p, a in sorted(model[1].items())]
        assert not changed or book.revision == revision + 1
