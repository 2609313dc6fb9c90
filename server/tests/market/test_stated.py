"""Values that a source states instead of trading: versions, their one writer, what is set aside."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from tokenwire_schemas.messages import TokenUpdateData, Volume
from tokenwire_server.market.market import VERSION_SHIFT, Market, TokenState
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.validation.trades import MAX_FUTURE_MS, MIN_TIME_MS, Reason, validate_value

T0 = 1_700_000_000_000
FIRST = T0 << VERSION_SHIFT


def value(price: str = "2.50", at_ms: int = 0, address: str = "a", **changes: Any) -> TokenValue:
    fields = {"market_cap": Decimal(1000), "h24": Decimal(3), "h1": Decimal(2), "m5": Decimal(0)}
    return TokenValue(address=address, price=Decimal(price), time_ms=T0 + at_ms, **fields | changes)


def trade(price: str = "9", address: str = "a", number: int = 1) -> Trade:
    return Trade(address, str(number), Decimal(price), Decimal(1), Side.BUY, T0)


@dataclass
class World:
    """A market with the tokens a and b of source s, and the versions and values it told."""

    told: list[tuple[int, TokenUpdateData]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.market = Market(self._note, T0)
        self.market.add_tokens("s", [TokenInfo("a", "A", supply=Decimal(7)), TokenInfo("b", "B")])

    def _note(self, token: TokenState) -> None:
        self.told.append((token.version, token.data()))


def test_what_is_stated_is_what_is_sent() -> None:
    world = World()
    world.market.state("s", value(at_ms=5))
    expected = TokenUpdateData("a", "2.5", "1000", Volume("3", "2", "0"))  # the supply plays no part
    assert world.told == [(FIRST + 1, expected)]
    token = world.market.get("a")
    assert token is not None
    assert (token.source_time_ms, token.market_cap, token.has_value) == (T0 + 5, 1000, True)


@pytest.mark.parametrize("part", ["price", "market_cap", "h24", "h1", "m5"])
def test_each_visible_part_makes_one_version(part: str) -> None:
    world = World()
    world.market.state("s", value())
    world.market.state("s", value(at_ms=1))
    world.market.state("s", value("2.5", 2, market_cap=Decimal("1e3")))  # the same numbers, written differently
    assert len(world.told) == 1
    changed = {"price": "8"} if part == "price" else {part: Decimal(8)}
    world.market.state("s", value(at_ms=3, **changed))  # type: ignore[arg-type]
    assert [version for version, _ in world.told] == [FIRST + 1, FIRST + 2]
    assert world.market.stated == 4


def test_an_older_statement_is_dropped_and_the_last_of_one_instant_counts() -> None:
    world = World()
    world.market.state("s", value("5", 10))
    world.market.state("s", value("4", 9))
    world.market.state("s", value("6", 10))
    assert world.market.late == 1
    assert [data.price for _, data in world.told] == ["5", "6"]


def test_one_writer_and_one_kind_for_a_token() -> None:
    world = World()
    market = world.market
    market.state("other", value())
    market.state("s", value(address="nobody"))
    assert (market.foreign, market.unknown) == (1, 1)
    market.state("s", value())
    market.apply("s", trade())
    market.apply("s", trade(address="b"))
    market.state("s", value(address="b"))
    assert market.mixed == 2
    assert [data.price for _, data in world.told] == ["2.5", "9"]
    assert not market.advance("s", T0 + 1_000_000) or world.told[-1][1].address == "b"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"address": ""}, Reason.ADDRESS),
        ({"price": "0"}, Reason.PRICE_NOT_POSITIVE),
        ({"price": "-1"}, Reason.PRICE_NOT_POSITIVE),
        ({"price": "NaN"}, Reason.PRICE_OUT_OF_BOUNDS),
        ({"price": "1e39"}, Reason.PRICE_OUT_OF_BOUNDS),
        ({"market_cap": Decimal("Infinity")}, Reason.MARKET_CAP),
        ({"market_cap": Decimal(-1)}, Reason.MARKET_CAP),
        ({"h24": Decimal("1e-39")}, Reason.VOLUME),
        ({"h1": Decimal("-0.1")}, Reason.VOLUME),
        ({"m5": Decimal("sNaN")}, Reason.VOLUME),
        ({"at_ms": MIN_TIME_MS - T0 - 1}, Reason.TIME_TOO_OLD),
        ({"at_ms": MAX_FUTURE_MS + 1}, Reason.TIME_IN_FUTURE),
    ],
)
def test_bad_statements(changes: dict[str, Any], reason: Reason) -> None:
    rejection = validate_value(value(**changes), T0)
    assert rejection is not None
    assert rejection.reason is reason


def test_good_statements() -> None:
    zero = Decimal(0)
    assert validate_value(value("1e-38", MAX_FUTURE_MS, market_cap=zero, h24=zero, h1=zero), T0) is None


def test_the_pipeline_counts_what_it_rejects_and_hands_on_the_rest() -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: T0)
    pipeline.tokens("s", [TokenInfo("a", "A")])
    pipeline.values("s", [value("0"), value("4")])
    assert pipeline.rejections == {("s", "price_not_positive"): 1}
    assert pipeline.values_taken == {"s": 1}
    assert pipeline.accepted == {}
    token = pipeline.value("a")
    assert token is not None
    assert token.data().price == "4"
    assert [row.value.address for row in pipeline.hub.board.commit()] == ["a"]
