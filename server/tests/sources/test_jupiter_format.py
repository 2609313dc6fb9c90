"""Jupiter's answers: documented ones exactly, and every trap in them."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.values import TokenFacts
from tokenwire_server.sources.frames import FormatError, load
from tokenwire_server.sources.jupiter import Jupiter
from tokenwire_server.sources.jupiter_format import MAX_TOKENS, read_prices, read_tokens
from tokenwire_server.sources.poller_findings import Answer, Findings, Question

from .poller_service import HTML, JUP, PRICES, SOL, TOKENS, USDC

NOW = 1_771_800_000_000


def token(**changes: Any) -> dict[str, Any]:
    """The documented token, with changes; a change to ... is a missing key."""
    row: dict[str, Any] = json.loads(TOKENS)[0] | changes
    return {key: value for key, value in row.items() if value is not ...}


def only(row: dict[str, Any]) -> TokenFacts:
    facts, refused = read_tokens(load(json.dumps([row])), "jupiter", NOW, {JUP})
    assert not refused
    return facts[0]


def test_the_documented_token() -> None:
    assert read_tokens(load(TOKENS), "jupiter", NOW, {JUP}) == (
        [
            TokenFacts(
                source="jupiter",
                chain="solana",
                address=JUP,
                heard_ms=NOW,
                symbol="JUP",
                name="Jupiter",
                price=Decimal("0.1415"),
                liquidity=Decimal("2992387.89"),
                market_cap=Decimal("459171256.1"),
                h24=Decimal("3838164.79"),  # bought and sold
                h1=Decimal(0),
                m5=Decimal(0),
            )
        ],
        [],
    )


def test_the_documented_prices() -> None:
    facts, refused = read_prices(load(PRICES), "jupiter", NOW, [SOL, JUP, USDC])
    assert not refused
    assert [(fact.address, fact.price, fact.liquidity) for fact in facts] == [
        (SOL, Decimal("147.48"), Decimal("621679197.67")),
        (USDC, Decimal("0.9999"), Decimal("522175174.66")),
    ]


def test_numbers_never_pass_through_float() -> None:
    text = TOKENS.replace("0.1415", "6.565744293276485e-06").replace("459171256.1", "0.1234567890123456789012345")
    fact = read_tokens(load(text), "jupiter", NOW, {JUP})[0][0]
    assert (fact.price, str(fact.market_cap)) == (Decimal("0.000006565744293276485"), "0.1234567890123456789012345")


@pytest.mark.parametrize("price", [..., None, "abc", 0, -1, True, [], {}])
def test_a_useless_price_is_no_price(price: Any) -> None:
    fact = only(token(usdPrice=price))
    assert (fact.price, fact.symbol) == (None, "JUP")


@pytest.mark.parametrize("stats", [..., None, [], "x", {}, {"buyVolume": None, "sellVolume": "x"}, {"buyVolume": -1}])
def test_volumes_that_are_not_stated_are_unknown(stats: Any) -> None:
    fact = only(token(stats24h=stats))
    assert (fact.h24, fact.h1, fact.m5) == (None, None, None)


def test_one_side_of_a_volume_is_enough_and_other_windows_are_empty() -> None:
    fact = only(token(stats24h=..., stats5m={"buyVolume": 5}))
    assert (fact.h24, fact.h1, fact.m5) == (0, 0, 5)


def test_a_valuation_is_no_market_cap() -> None:
    assert only(token(mcap=None)).market_cap is None


def test_what_was_not_asked_for_or_is_no_token_is_rejected_and_the_rest_used() -> None:
    rows = [None, 5, {}, {"id": None}, token(id=JUP.lower()), token(), token(usdPrice=9)]
    facts, refused = read_tokens(load(json.dumps(rows)), "jupiter", NOW, {JUP})
    assert [fact.price for fact in facts] == [Decimal("0.1415")]  # the first of two
    assert [error.reason for error in refused] == ["not_a_token"] * 4 + ["not_asked_for"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "not_a_list"),
        ('{"error":"Unauthorized"}', "not_a_list"),
        ("null", "not_a_list"),
        (json.dumps([{}] * (MAX_TOKENS + 1)), "too_many_tokens"),
        (HTML, "not_json"),
        (TOKENS[:-1], "not_json"),
        ("[NaN]", "not_json"),
    ],
)
def test_what_is_no_answer_of_the_search(text: str, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_tokens(load(text), "jupiter", NOW, {JUP})
    assert caught.value.reason == reason


@pytest.mark.parametrize("document", [[], None, 5, "x"])
def test_what_is_no_answer_of_the_price_api(document: Any) -> None:
    with pytest.raises(FormatError) as caught:
        read_prices(document, "jupiter", NOW, {JUP})
    assert caught.value.reason == "not_an_object"


@pytest.mark.parametrize("row", [5, [], "x", {}, {"usdPrice": None}, {"usdPrice": 0}, {"usdPrice": "NaN"}])
def test_a_price_that_is_none_is_rejected(row: Any) -> None:
    facts, refused = read_prices({JUP: row, SOL: None}, "jupiter", NOW, [JUP, SOL])
    assert facts == []
    assert [error.reason for error in refused] == ["bad_price"]


@given(st.dictionaries(st.sampled_from([*token(), "stats5m", "stats1h"]), st.from_type(object) | st.text(), max_size=4))
def test_no_row_breaks_the_reader(changes: dict[str, Any]) -> None:
    facts, refused = read_tokens([token() | changes], "jupiter", NOW, {JUP})
    assert len(facts) + len(refused) == 1


# --- What is asked -------------------------------------------------------------------------------------------------


def converse(api: Jupiter, *answers: Any) -> tuple[list[Question], Findings]:
    """All questions of a cycle that is answered so; None is no answer."""
    findings = Findings()
    steps = api.cycle("jupiter", findings)
    asked = [next(steps)]
    for document in answers:
        try:
            asked.append(steps.send(None if document is None else Answer(document, NOW)))
        except StopIteration:
            break
    else:
        steps.close()
    return asked, findings


def test_a_hundred_mints_at_a_time() -> None:
    mints = [f"Mint{n}" for n in range(201)]
    asked, findings = converse(Jupiter(mints), None, None, None)
    assert asked == [
        Question("/tokens/v2/search", (("query", ",".join(mints[first : first + 100])),)) for first in (0, 100, 200)
    ]
    assert (findings.facts, findings.missing) == ([], 0)


def test_prices_are_asked_for_what_has_none_fifty_at_a_time() -> None:
    mints = [SOL, JUP, *(f"Mint{n}" for n in range(60))]
    asked, findings = converse(Jupiter(mints), load(TOKENS), load(PRICES), None)
    unpriced = [mint for mint in mints if mint != JUP]
    assert asked[1:] == [Question("/price/v3", (("ids", ",".join(batch)),)) for batch in (unpriced[:50], unpriced[50:])]
    assert {fact.address: fact.price for fact in findings.facts} == {JUP: Decimal("0.1415"), SOL: Decimal("147.48")}
    assert findings.missing == 60


def test_a_price_completes_what_the_search_said() -> None:
    row = token(id=SOL, symbol="SOL", usdPrice=None, liquidity=None, mcap=7)
    _, findings = converse(Jupiter([SOL]), load(json.dumps([row])), load(PRICES))
    (fact,) = findings.facts
    assert (fact.symbol, fact.price, fact.market_cap) == ("SOL", Decimal("147.48"), 7)
    assert fact.liquidity == Decimal("621679197.67")


def test_a_cycle_that_breaks_off_keeps_what_it_found() -> None:
    _, findings = converse(Jupiter([JUP, SOL]), load(TOKENS))
    assert [fact.address for fact in findings.facts] == [JUP]


def test_an_answer_of_a_wrong_shape_is_counted() -> None:
    _, findings = converse(Jupiter([JUP]), {"error": "x"})
    assert (findings.unusable, [reason for reason, _ in findings.rejections]) == (1, ["not_a_list"])


def test_the_key_is_a_header_and_raises_the_rate() -> None:
    assert Jupiter([JUP]).headers == {}
    assert Jupiter([JUP], "secret").headers == {"x-api-key": "secret"}
    assert (Jupiter([]).requests_per_minute, Jupiter([], "secret").requests_per_minute) == (30, 60)
