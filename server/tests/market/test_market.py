"""The market: values, versions, clocks and counters."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_schemas.messages import TokenUpdateData, Volume
from tokenwire_server.market.market import DEDUPE_TRADES, VERSION_SHIFT, Market, TokenState
from tokenwire_server.market.trades import Side, TokenInfo, Trade

T0 = 1_700_000_000_000
FIRST = T0 << VERSION_SHIFT


class World:
    """A market and everything it told."""

    def __init__(self, **options: int) -> None:
        self.told: list[tuple[str, int, TokenUpdateData]] = []
        self.market = Market(self._note, T0, **options)
        self.market.add_tokens("s", [TokenInfo("a", "A", supply=Decimal(1000)), TokenInfo("b", "B")])

    def _note(self, token: TokenState) -> None:
        self.told.append((token.address, token.version, token.data()))

    def trade(self, number: int, price: str, amount: str = "1", at_ms: int = 0, address: str = "a") -> None:
        trade = Trade(address, str(number), Decimal(price), Decimal(amount), Side.BUY, T0 + at_ms)
        self.market.apply("s", trade)

    @property
    def a(self) -> TokenState:
        token = self.market.get("a")
        assert token is not None
        return token


def test_a_trade_makes_a_value() -> None:
    world = World()
    assert not world.a.has_value
    assert world.a.version == FIRST
    with pytest.raises(ValueError, match="no value"):
        world.a.data()
    world.trade(1, "0.00002500", "400.0", at_ms=5)
    assert world.a.has_value
    assert world.a.source_time_ms == T0 + 5
    assert world.told == [
        ("a", FIRST + 1, TokenUpdateData("a", "0.000025", "0.025", Volume("0.01", "0.01", "0.01"))),
    ]


def test_market_cap_is_0_while_the_supply_is_unknown() -> None:
    world = World()
    world.trade(1, "2", address="b")
    assert world.told[-1][2].market_cap == "0"
    world.market.add_tokens("s", [TokenInfo("b", "B", supply=Decimal("1.5"))])
    assert world.told[-1][2].market_cap == "3"
    assert [version for _, version, _ in world.told] == [FIRST + 1, FIRST + 2]
    world.market.add_tokens("s", [TokenInfo("b", "B", supply=Decimal("1.50")), TokenInfo("b", "B")])
    assert len(world.told) == 2


def test_versions_rise_across_restarts() -> None:
    stored = FIRST + 5_000
    assert World(version_floor=stored).a.version == stored
    assert World(version_floor=7).a.version == FIRST
    assert FIRST + 1_000_000 < 2**53


def test_duplicates_are_dropped_within_the_window() -> None:
    world = World()
    for number in range(DEDUPE_TRADES):
        world.trade(number, "1")
    world.trade(0, "9")
    assert (world.market.duplicates, world.market.trades) == (1, DEDUPE_TRADES)
    assert world.a.price == 1
    for number in range(DEDUPE_TRADES, 10 * DEDUPE_TRADES):
        world.trade(number, "1")
    assert len(world.a._recent_ids) + len(world.a._older_ids) <= 2 * DEDUPE_TRADES


def test_the_same_id_of_another_token_is_no_duplicate() -> None:
    world = World()
    world.trade(1, "1")
    world.trade(1, "1", address="b")
    assert (world.market.duplicates, world.market.trades) == (0, 2)


def test_a_late_trade_changes_volume_but_not_price() -> None:
    world = World()
    world.trade(1, "5", at_ms=10_000)
    world.trade(2, "3", at_ms=4_000)
    assert world.market.late == 1
    assert world.a.data() == TokenUpdateData("a", "5", "5000", Volume("8", "8", "8"))
    assert world.a.version == FIRST + 2


def test_of_trades_at_one_time_the_last_sets_the_price() -> None:
    world = World()
    world.trade(1, "5")
    world.trade(2, "6")
    assert world.a.price == 6
    assert world.market.late == 0


def test_a_trade_older_than_every_window_makes_no_version() -> None:
    world = World()
    world.trade(1, "5", at_ms=100_000_000)
    world.trade(2, "3")
    assert world.market.late == 1
    assert len(world.told) == 1


def test_expiry_without_a_trade_is_a_change() -> None:
    world = World()
    world.trade(1, "5")
    assert not world.market.advance("s", T0 + 299_000)
    assert world.market.advance("s", T0 + 300_000)
    assert world.told[-1][1:] == (FIRST + 2, TokenUpdateData("a", "5", "5000", Volume("5", "5", "0")))
    assert not world.market.advance("s", T0 + 300_000)
    assert not world.market.advance("s", T0)
    assert world.market.event_now_ms("s") == T0 + 300_000
    world.market.advance("s", T0 + 90_000_000)
    assert world.told[-1][2].volume == Volume("0", "0", "0")
    assert world.a.version == FIRST + 3  # h1 and h24 left in one step
    assert not world.market._clocks["s"].queue


def test_each_source_has_its_own_clock() -> None:
    world = World()
    world.market.add_tokens("tape", [TokenInfo("t", "T")])
    world.trade(1, "5")
    old = Trade("t", "1", Decimal(2), Decimal(2), Side.SELL, 1_600_000_000_000)
    world.market.apply("tape", old)
    world.market.advance("s", T0 + 299_999)
    token = world.market.get("t")
    assert token is not None
    assert token.data().volume.m5 == "4"
    assert world.market.event_now_ms("tape") == 0


def test_a_late_trade_brings_the_expiry_forward() -> None:
    world = World()
    world.trade(1, "5", at_ms=200_000)
    world.trade(2, "3", at_ms=0)
    world.market.advance("s", T0 + 300_000)
    assert world.a.data().volume.m5 == "5"
    world.market.advance("s", T0 + 500_000)
    assert world.a.data().volume.m5 == "0"


def test_many_late_trades_at_one_time_leave_a_usable_queue() -> None:
    world = World()
    number = 0
    for late_ms in range(0, 250_000, 1_000):
        for address in ("a", "b"):
            number += 1
            world.trade(number, "1", at_ms=250_000 - late_ms, address=address)
    queue = world.market._clocks["s"].queue
    for now_ms in range(250_000, 700_000, 500):
        world.market.advance("s", T0 + now_ms)
    assert len(queue) == 2  # one entry for each token; the void ones are gone
    assert world.a.data().volume.m5 == "0"


def test_what_is_not_ours_is_counted_and_dropped() -> None:
    world = World(max_tokens=3)
    world.trade(1, "1", address="nobody")
    world.market.apply("other", Trade("a", "1", Decimal(1), Decimal(1), Side.BUY, T0))
    world.market.add_tokens("other", [TokenInfo("a", "A", supply=Decimal(9))])
    world.market.add_tokens("s", [TokenInfo("", "X"), TokenInfo("c", "C"), TokenInfo("d", "D")])
    market = world.market
    assert (market.unknown, market.foreign, market.tokens_refused, market.trades) == (1, 2, 2, 0)
    assert [token.address for token in market] == ["a", "b", "c"]
    assert len(market) == 3
    assert not world.told


def test_evm_addresses_of_trades_may_differ_in_case() -> None:
    world = World()
    address = "base:0x" + "aB" * 20
    world.market.add_tokens("s", [TokenInfo(address, "E")])
    world.trade(1, "2", address="base:0x" + "ab" * 20)
    token = world.market.get(address)
    assert token is not None
    assert token.price == 2


steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(0, 30),
            st.sampled_from(["1", "1.0", "2", "0.5"]),
            st.integers(0, 400_000),
        ),
        st.tuples(st.just("advance"), st.integers(0, 4_000_000)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps)
def test_every_visible_change_is_one_version_and_one_call(moves: list[tuple[object, ...]]) -> None:
    world = World()
    shown: dict[str, TokenUpdateData] = {}
    versions = {"a": FIRST, "b": FIRST}
    now_ms = 0
    for move in moves:
        told = len(world.told)
        match move:
            case ("advance", int() as jump_ms):
                now_ms += jump_ms
                world.market.advance("s", T0 + now_ms)
            case (str() as address, int() as number, str() as price, int() as late_ms):
                world.trade(number, price, at_ms=now_ms - late_ms, address=address)
        fresh = world.told[told:]
        assert len({address for address, _, _ in fresh}) == len(fresh)
        for address, version, data in fresh:
            assert version == versions[address] + 1
            assert data != shown.get(address)
            versions[address], shown[address] = version, data
        for token in world.market:
            assert token.version == versions[token.address]
            assert not token.has_value or token.data() == shown[token.address]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 500_000), st.integers(0, 9_000)), min_size=1, max_size=40))
def test_the_queue_expires_exactly_like_a_full_scan(moves: list[tuple[int, int]]) -> None:
    """Volumes after every clock step equal those of a market that holds every trade and looks at all."""
    world = World()
    trades: list[int] = []
    now_ms = 0
    for number, (jump_ms, late_ms) in enumerate(moves):
        now_ms += jump_ms
        world.market.advance("s", T0 + now_ms)
        trades.append(T0 + now_ms - late_ms)
        world.trade(number, "1", at_ms=now_ms - late_ms)
        world.market.advance("s", T0 + now_ms + 1)
        for width_ms, buckets, shown in (
            (1_000, 300, world.a.data().volume.m5),
            (10_000, 360, world.a.data().volume.h1),
            (60_000, 1_440, world.a.data().volume.h24),
        ):
            newest = (T0 + now_ms + 1) // width_ms
            assert int(shown) == sum(newest - buckets < time_ms // width_ms <= newest for time_ms in trades)
