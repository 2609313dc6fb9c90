"""What every history must do, whatever it is made of. A module that tests one defines the fixture ``reopen``."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal

import pytest

from tokenwire_server.history.port import History
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import Batch, NumberedTrade, StoredToken
from tokenwire_server.market.retention import Retention
from tokenwire_server.market.trades import Side, TokenInfo, Trade

BEGIN_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
SECOND, MINUTE, DAY = 1_000, 60_000, 86_400_000
A, B = "chain:A", "venue:B"

Reopen = Callable[..., Awaitable[History]]
"""``await reopen()``: what was open before ends without a word, as in a crash, and a new one opens the same store.
``await reopen(retention=…)`` with these settings."""


def token(address: str = A, trades: int = 0, now_ms: int = BEGIN_MS, price: str = "1") -> StoredToken:
    info = TokenInfo(address, address.upper(), "Name", "chain", Decimal("1e9"))
    return StoredToken(info, "source", trades, now_ms, Decimal(price), now_ms)


def trade(number: int, address: str = A, time_ms: int = BEGIN_MS, price: str = "1.50") -> NumberedTrade:
    return NumberedTrade(number, Trade(address, f"id-{number}", Decimal(price), Decimal("2E-7"), Side.SELL, time_ms))


def bar(open_ms: int, close: str = "2", trades: int = 3, revision: int = 0) -> Bar:
    one = Decimal("1.10")
    huge = Decimal("12345678901234567890123456789012345678.00000000000000000000000000000000000001")
    return Bar(open_ms, one, huge, one, Decimal(close), huge, one, one, one, trades, open_ms, open_ms + 9, revision)


def bars(*all_bars: Bar) -> dict[int, Bar]:
    return {each.open_ms: each for each in all_bars}


def batch(
    number: int,
    tokens: Sequence[StoredToken] = (),
    trades: Mapping[str, Sequence[NumberedTrade]] | None = None,
    numbered: int = 0,
    *,
    is_last: bool = False,
    **more: object,
) -> Batch:
    return Batch(
        number=number, tokens=tokens or [token()], trades=trades or {}, numbered=numbered, is_last=is_last, **more  # type: ignore[arg-type]
    )  # fmt: skip


class HistoryContract:
    """Inherited by the tests of each implementation."""

    @pytest.fixture
    async def history(self, reopen: Reopen) -> History:
        history = await reopen()
        await history.begin(None, "lineage")
        return history

    async def test_a_new_one_is_empty(self, reopen: Reopen) -> None:
        history = await reopen()
        assert await history.begin(None, "lineage") == ("lineage", 0, 0, 0, {})
        assert await history.tokens() == []
        assert await history.bars(A, SECOND, 0, 1 << 53, 10) == []
        assert await history.trades(A, 0, 10) == []
        assert await history.oldest(A) is None
        assert await history.known_ids(A, ["id-1"]) == set()
        assert await history.turnovers(A, SECOND, 0) == []

    async def test_what_was_committed_is_there_after_a_crash(self, history: History, reopen: Reopen) -> None:
        stored = batch(
            1,
            [token(A, 2), token(B, 1)],
            {A: [trade(1), trade(2)], B: [trade(1, B)]},
            3,
            bars={(A, SECOND): bars(bar(BEGIN_MS), bar(BEGIN_MS + SECOND)), (A, MINUTE): bars(bar(BEGIN_MS))},
            offsets={"source": "7", "other": "x y"},
            version=99,
        )
        await history.commit(stored)
        history = await reopen()
        assert await history.begin(3, "another") == ("lineage", 99, 3, 0, {"source": "7", "other": "x y"})
        assert await history.tokens() == [token(A, 2), token(B, 1)]
        assert await history.trades(A, 0, 10) == [trade(1), trade(2)]
        assert await history.trades(B, 0, 10) == [trade(1, B)]
        found = await history.bars(A, SECOND, 0, 1 << 53, 10)
        assert found == [bar(BEGIN_MS), bar(BEGIN_MS + SECOND)]
        assert str(found[0].volume) == str(bar(0).volume), "exactly"
        assert await history.turnovers(A, SECOND, BEGIN_MS + 1) == [(BEGIN_MS + SECOND, Decimal("1.10"))]

    async def test_a_bar_takes_the_place_of_its_former_self(self, history: History) -> None:
        await history.commit(batch(1, bars={(A, SECOND): bars(bar(BEGIN_MS))}))
        await history.commit(batch(2, bars={(A, SECOND): bars(bar(BEGIN_MS, "7", 4, 1))}))
        assert await history.bars(A, SECOND, 0, 1 << 53, 10) == [bar(BEGIN_MS, "7", 4, 1)]

    async def test_late_trades_are_merged_into_what_is_stored(self, history: History) -> None:
        await history.commit(batch(1, bars={(A, SECOND): bars(bar(BEGIN_MS, trades=3))}))
        late = bar(BEGIN_MS, "5", 1, 1)
        expected = bar(BEGIN_MS, trades=3)
        expected.merge(late)
        expected.revision = 1
        await history.commit(batch(2, late={(A, SECOND): bars(late, bar(BEGIN_MS + SECOND, "6", 1, 1))}))
        assert await history.bars(A, SECOND, 0, 1 << 53, 10) == [expected, bar(BEGIN_MS + SECOND, "6", 1, 1)]

    async def test_late_trades_of_a_bar_that_is_stored_beside_them_are_merged_into_the_one_before(
        self, history: History
    ) -> None:
        await history.commit(batch(1, bars={(A, SECOND): bars(bar(BEGIN_MS, trades=3))}))
        both = {(A, SECOND): bars(bar(BEGIN_MS, "9", 9))}
        await history.commit(batch(2, bars=both, late={(A, SECOND): bars(bar(BEGIN_MS, "5", 1, 1))}))
        expected = bar(BEGIN_MS, trades=3)
        expected.merge(bar(BEGIN_MS, "5", 1, 1))
        expected.revision = 1
        assert await history.bars(A, SECOND, 0, 1 << 53, 10) == [expected]

    async def test_a_batch_that_is_tried_again_is_stored_once(self, history: History) -> None:
        again = batch(1, [token(A, 1)], {A: [trade(1)]}, 1, late={(A, SECOND): bars(bar(BEGIN_MS, "5", 1, 1))})
        await history.commit(again)
        await history.commit(again)
        assert await history.bars(A, SECOND, 0, 1 << 53, 10) == [bar(BEGIN_MS, "5", 1, 1)]
        assert await history.trades(A, 0, 10) == [trade(1)]

    async def test_pages_of_bars(self, history: History) -> None:
        listed = [bar(BEGIN_MS + n * SECOND) for n in range(10)]
        await history.commit(batch(1, bars={(A, SECOND): bars(*listed), (A, MINUTE): bars(bar(BEGIN_MS))}))
        begin, end = BEGIN_MS + 2 * SECOND, BEGIN_MS + 8 * SECOND
        assert await history.bars(A, SECOND, begin, end, 100) == listed[2:8], "the end is not part of it"
        assert await history.bars(A, SECOND, begin, end, 2) == listed[2:4]
        assert await history.bars(A, SECOND, begin, end, 2, newest=True) == listed[6:8]
        assert await history.bars(B, SECOND, begin, end, 2) == []

    async def test_pages_of_trades(self, history: History) -> None:
        listed = [trade(n) for n in (3, 4, 5, 9, 10)]
        await history.commit(batch(1, [token(A, 10)], {A: listed}, 10))
        assert await history.trades(A, 0, 2) == listed[:2]
        assert await history.trades(A, 4, 2) == listed[2:4]
        assert await history.trades_before(A, 10, 2) == listed[2:4]
        assert await history.trades_before(A, 100, 100) == listed
        assert await history.oldest(A) == 3

    async def test_stored_ids_are_known_of_their_token_only(self, history: History) -> None:
        odd = Trade(A, 'quote " comma, 🐸', Decimal(1), Decimal(1), Side.BUY, BEGIN_MS)
        await history.commit(batch(1, [token(A, 2), token(B, 1)], {A: [trade(1), NumberedTrade(2, odd)]}, 3))
        assert await history.known_ids(A, ["id-1", "id-2", odd.trade_id]) == {"id-1", odd.trade_id}
        assert await history.known_ids(B, ["id-1"]) == set()
        assert await history.known_ids("nobody", ["id-1"]) == set()
        assert await history.known_ids(A, []) == set()

    async def test_after_a_crash_numbers_that_may_be_known_are_skipped(self, history: History, reopen: Reopen) -> None:
        await history.commit(batch(1, [token(A, 5), token(B, 2)], numbered=7))
        history = await reopen()
        assert await history.begin(100, "x") == ("lineage", 0, 100, 93, {})
        assert [stored.trades for stored in await history.tokens()] == [98, 95]
        history = await reopen()
        assert await history.begin(100, "x") == ("lineage", 0, 100, 93, {}), "nothing was numbered meanwhile"
        assert [stored.trades for stored in await history.tokens()] == [98, 95]

    async def test_after_a_good_end_numbers_go_on_where_they_ended(self, history: History, reopen: Reopen) -> None:
        await history.commit(batch(1, [token(A, 5)], numbered=5, is_last=True))
        history = await reopen()
        assert await history.begin(1_000, "x") == ("lineage", 0, 5, 0, {})
        assert [stored.trades for stored in await history.tokens()] == [5]
        history = await reopen()
        assert (await history.begin(1_000, "x")).numbered == 1_000, "this one did not end well"

    async def test_a_lost_reservation_skips_more_than_was_ever_unsaved(self, history: History, reopen: Reopen) -> None:
        await history.commit(batch(1, [token(A, 5)], numbered=5))
        history = await reopen()
        assert (await history.begin(None, "x")).numbered > 100_000_000

    async def test_what_is_old_is_deleted_by_the_time_of_its_token(self, reopen: Reopen) -> None:
        history = await reopen(retention=Retention(10 * MINUTE, {SECOND: 5 * MINUTE}))
        await history.begin(None, "x")
        now_ms = BEGIN_MS + 20 * MINUTE
        minutes = [BEGIN_MS + n * MINUTE for n in range(20)]
        await history.commit(
            batch(
                1,
                [token(A, 20, now_ms), token(B, 20, BEGIN_MS)],
                {each: [trade(n + 1, each, time_ms) for n, time_ms in enumerate(minutes)] for each in (A, B)},
                40,
                bars={(each, length): bars(*map(bar, minutes)) for each in (A, B) for length in (SECOND, MINUTE)},
            )
        )
        assert await history.prune() == 10 + 15
        assert [each.open_ms for each in await history.bars(A, SECOND, 0, 1 << 53, 100)] == minutes[15:]
        assert [each.number for each in await history.trades(A, 0, 100)] == list(range(11, 21))
        assert len(await history.bars(A, MINUTE, 0, 1 << 53, 100)) == 20, "for ever"
        assert len(await history.trades(B, 0, 100)) == 20, "nothing newer has come"
        assert await history.prune() == 0
