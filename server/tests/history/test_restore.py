"""A market that was restored: whose its tokens are, and which numbers their trades get."""

from decimal import Decimal
from pathlib import Path

from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.history.restore import restore
from tokenwire_server.market.intervals import DEFAULT_INTERVALS
from tokenwire_server.market.market import UNOWNED, Market
from tokenwire_server.market.trades import Side, TokenInfo, Trade

from .world import SOURCE, Life, Sent, Step

BEGIN_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000


def trades(address: str, name: str, count: int) -> list[Step]:
    one = Decimal(1)
    return [Trade(address, f"{name}-{n}", one, one, Side.BUY, BEGIN_MS + n) for n in range(count)]


async def test_after_a_crash_other_trades_get_other_numbers(place: Path | PostgresPlace) -> None:
    """As of a live feed, which does not repeat what it sent; ``Sent`` looks at every number."""
    sent = Sent()
    life = await Life(place, sent, DEFAULT_INTERVALS, 1_000).open()
    life.feed(trades("X", "stored", 10), 10)
    await life.recorder.settled()
    life.at = 0
    life.feed([*trades("X", "lost", 5), *trades("Y", "lost", 7)], 12)
    await life.crash()
    life = await Life(place, sent, DEFAULT_INTERVALS, 1_000).open()
    life.at = 0
    life.feed([*trades("X", "new", 20), *trades("Y", "new", 20)], 40)
    await life.recorder.settled()
    numbers = {address: sorted(n for a, n in sent.numbers if a == address) for address in ("X", "Y")}
    assert [len(found) for found in numbers.values()] == [35, 27]
    assert [found[:8] for found in numbers.values()] == [list(range(1, 9)), [*range(1, 8), numbers["Y"][7]]]
    assert [number for number, _ in await life.history.trades("X", 0, 100)] == numbers["X"][:10] + numbers["X"][15:]
    await life.end()
    life = await Life(place, sent, DEFAULT_INTERVALS, 1_000).open()
    life.at = 0
    life.feed(trades("X", "more", 1), 1)
    assert max(n for a, n in sent.numbers if a == "X") == numbers["X"][-1] + 1, "after a good end, without a hole"
    await life.end()


async def test_the_clock_of_whoever_brings_a_token_next_closes_its_bars_and_empties_its_windows(
    place: Path | PostgresPlace,
) -> None:
    life = await Life(place, Sent(), DEFAULT_INTERVALS, 1_000).open()
    life.feed(trades("X", "t", 3), 3)
    await life.end()
    life = await Life(place, Sent(), DEFAULT_INTERVALS, 1_000).open()
    market = Market(lambda token: None, 0)
    assert await restore(market, life.history, 0, set()) == 1
    await life.end()
    token, bars = market.get("X"), market.bars.get("X")
    assert token is not None
    assert bars is not None
    market.advance(SOURCE, BEGIN_MS + 600_000)
    assert (token.source, token.volumes) == (UNOWNED, (3, 3, 3)), "nobody's"
    assert bars.open_bar(0) is not None
    market.advance("other", BEGIN_MS + 1_000)
    market.add_tokens("other", [TokenInfo("X", "X")])
    market.advance("other", BEGIN_MS + 400_000)
    assert (token.source, token.volumes) == ("other", (3, 3, 0))
    assert bars.open_bar(0) is None
    assert len(bars.closed_bars(2, 0, 1 << 53, 10)) == 1
    market.apply(SOURCE, Trade("X", "new", Decimal(9), Decimal(1), Side.BUY, BEGIN_MS + 400_000))
    assert (token.price, market.foreign) == (1, 1)
