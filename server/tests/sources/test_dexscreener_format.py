"""DexScreener's answers: captured ones exactly, and every trap in them."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.values import TokenFacts
from tokenwire_server.sources.dexscreener import FULL_ANSWER_PAIRS, DexScreener
from tokenwire_server.sources.dexscreener_format import MAX_PAIRS, identity, read_pairs, tokens_of
from tokenwire_server.sources.frames import FormatError, load
from tokenwire_server.sources.poller_findings import Answer, Findings, Question

from .poller_service import ASYMMETRY, HTML, PAIRS, SOL, SYMMETRY, USDC, pair

NOW = 1_724_400_000_000
WETH = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
PEPE = "0x6982508145454Ce325dDbE47a25d4ec3d2311933"


def read(*rows: Any, wanted: set[str] | None = None) -> list[TokenFacts]:
    pairs, refused = read_pairs(load(json.dumps({"pairs": list(rows)})))
    assert not refused
    return tokens_of(pairs, "dexscreener", NOW, wanted)


def only(*rows: Any) -> TokenFacts:
    (fact,) = read(*rows)
    return fact


def test_a_captured_answer() -> None:
    pairs, refused = read_pairs(load(PAIRS))
    assert not refused
    symmetry, asymmetry = tokens_of(pairs, "dexscreener", NOW)
    assert symmetry == TokenFacts(
        source="dexscreener",
        chain="solana",
        address=SYMMETRY,
        heard_ms=NOW,
        symbol="sym",
        name="symmetry",
        price=Decimal("0.0007094"),
        liquidity=Decimal("98992.13"),
        market_cap=None,  # a fully diluted valuation is none
        h24=Decimal("5636909.86"),
        h1=Decimal("536959.95"),
        m5=Decimal("36029.97"),
    )
    assert (asymmetry.address, asymmetry.price) == (ASYMMETRY, Decimal("0.000007488"))


def test_numbers_never_pass_through_float() -> None:
    text = PAIRS.replace("5636909.86", "0.1234567890123456789012345").replace("98992.13", "1e-7")
    fact = tokens_of(read_pairs(load(text))[0], "dexscreener", NOW)[0]
    assert (str(fact.h24), fact.liquidity) == ("0.1234567890123456789012345", Decimal("1e-7"))


def test_the_price_is_of_the_deepest_pair_and_volumes_are_sums() -> None:
    small = pair(pairAddress="P1", priceUsd="9", liquidity={"usd": 1.5}, volume={"h24": 0.1, "m5": 2}, marketCap=8)
    large = pair(pairAddress="P2", priceUsd="2", liquidity={"usd": 10}, volume={"h24": 0.2})
    for rows in ((small, large), (large, small)):
        fact = only(*rows)
        assert (fact.price, fact.market_cap, fact.liquidity) == (2, 8, Decimal("11.5"))
        assert (fact.h24, fact.h1, fact.m5) == (Decimal("0.3"), 0, 2)


def test_a_pair_that_is_told_twice_counts_once() -> None:
    assert only(pair(), pair()).h24 == Decimal("5636909.86")


def test_the_asked_token_on_the_quote_side_says_nothing_of_it() -> None:
    asked = pair(baseToken={"address": SYMMETRY, "symbol": "sym"}, quoteToken={"address": SOL, "symbol": "SOL"})
    assert read(asked, wanted={SOL}) == []
    assert [fact.address for fact in read(asked, wanted={SYMMETRY, SOL})] == [SYMMETRY]


def test_base58_addresses_are_case_sensitive_and_evm_ones_are_not() -> None:
    assert identity(SYMMETRY) == SYMMETRY
    assert identity(PEPE) == identity("0X" + PEPE[2:].upper()) == PEPE.lower()
    assert identity("0x2::sui::SUI") == "0x2::sui::SUI"
    rows = [
        pair(chainId="ethereum", baseToken={"address": address, "symbol": "PEPE"}, pairAddress=str(number))
        for number, address in enumerate((PEPE, PEPE.lower()))
    ]
    assert [fact.address for fact in read(*rows)] == [PEPE.lower()]
    lower = pair(baseToken={"address": SYMMETRY.lower(), "symbol": "s"}, pairAddress="x")
    assert len(read(pair(), lower)) == 2


def test_one_address_on_two_chains_is_two_tokens() -> None:
    rows = [pair(chainId=chain, baseToken={"address": PEPE, "symbol": "P"}) for chain in ("base", "bsc")]
    assert {fact.chain for fact in read(*rows)} == {"base", "bsc"}


@pytest.mark.parametrize(
    ("chain", "quote", "expected"),
    [("solana", SOL, "SOL"), ("ethereum", WETH, "ETH"), ("ethereum", WETH.upper().replace("X", "x"), "ETH")],
)
def test_without_a_usd_price_there_is_the_native_one(chain: str, quote: str, expected: str) -> None:
    fact = only(pair(chainId=chain, priceUsd=..., quoteToken={"address": quote, "symbol": "?"}))
    assert (fact.price, fact.native, fact.quote) == (None, Decimal("0.000004873"), expected)


@pytest.mark.parametrize(
    "quote", [{"address": USDC, "symbol": "SOL"}, {"address": None, "symbol": None}, None, ..., [], {"address": 5}]
)
def test_a_quote_is_known_by_its_address_alone(quote: Any) -> None:
    fact = only(pair(priceUsd=None, quoteToken=quote))
    assert (fact.price, fact.native, fact.quote) == (None, None, "USD")


@pytest.mark.parametrize("price", [..., None, "", "abc", "NaN", "0", "-1", True, [], {}, "1e400", "9" * 200])
def test_a_useless_price_is_no_price(price: Any) -> None:
    fact = only(pair(priceUsd=price, priceNative=price))
    assert (fact.price, fact.native) == (None, None)
    assert fact.h24 == Decimal("5636909.86")


@pytest.mark.parametrize("key", ["liquidity", "volume", "marketCap"])
@pytest.mark.parametrize("value", [..., None, [], "x", -1, True, {"usd": None, "h24": "no"}, {"usd": -1, "h24": -1}])
def test_whatever_else_is_missing_or_wrong_is_unknown(key: str, value: Any) -> None:
    fact = only(pair(marketCap=5) | {key: value} if value is not ... else pair(**{"marketCap": 5, key: ...}))
    assert fact.price == Decimal("0.0007094")
    if key == "liquidity":
        assert fact.liquidity == 0
    elif key == "volume":
        assert (fact.h24, fact.h1, fact.m5) == (None, None, None)
    else:
        assert fact.market_cap is None


@pytest.mark.parametrize("symbol", [None, 5, "", "  ", "x" * 300, "a\nb", "\u202e"])
def test_an_unusable_symbol_is_none(symbol: Any) -> None:
    assert only(pair(baseToken={"address": SYMMETRY, "symbol": symbol})).symbol == ""


@pytest.mark.parametrize("document", ['{"schemaVersion":"1.0.0","pairs":null}', '{"pairs":[]}', "[]", "null"])
def test_nothing_found(document: str) -> None:
    assert read_pairs(load(document)) == ([], [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5", "no_pairs"),
        ('{"pairs":{}}', "no_pairs"),
        ('{"error":"x"}', "no_pairs"),
        ('"' + "x" * 9_999 + '"', "no_pairs"),
        (json.dumps([{}] * (MAX_PAIRS + 1)), "too_many_pairs"),
        (HTML, "not_json"),
        (PAIRS[:-5], "not_json"),
        ('{"pairs":[NaN]}', "not_json"),
        ("[" * 100_000, "not_json"),
        ('{"pairs":[{"priceUsd":' + "9" * 5_000 + "}]}", "not_json"),
    ],
)
def test_what_is_no_answer(text: str, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_pairs(load(text))
    assert caught.value.reason == reason
    assert len(caught.value.detail) < 1_000


def test_one_wrong_row_does_not_spoil_the_others() -> None:
    rows = [
        None,
        5,
        [],
        {},
        pair(chainId=None),
        pair(chainId="a:b"),
        pair(baseToken=None),
        pair(baseToken={"address": ""}),
    ]
    pairs, refused = read_pairs([*rows, pair()])
    assert [one.base for one in pairs] == [SYMMETRY]
    assert [error.reason for error in refused] == ["not_a_pair"] * 3 + ["bad_chain"] * 3 + ["bad_address"] * 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*pair(), "marketCap"]), json_values, max_size=4))
def test_no_row_breaks_the_reader(changes: dict[str, Any]) -> None:
    pairs, _ = read_pairs([pair() | changes])
    for fact in tokens_of(pairs, "dexscreener", NOW):
        assert all(
            n is None or n >= 0 for n in (fact.price, fact.liquidity, fact.market_cap, fact.h24, fact.h1, fact.m5)
        )


# --- What is asked -------------------------------------------------------------------------------------------------


def converse(api: DexScreener, *answers: Any) -> tuple[list[Question], Findings]:
    """All questions of a cycle that is answered so; None is no answer."""
    findings = Findings()
    steps = api.cycle("dexscreener", findings)
    asked = [next(steps)]
    for document in answers:
        try:
            asked.append(steps.send(None if document is None else Answer(document, NOW)))
        except StopIteration:
            break
    return asked, findings


def rows_of(*bases: str, count: int = 1) -> list[dict[str, Any]]:
    return [
        pair(baseToken={"address": base, "symbol": "S"}, pairAddress=f"{base}{n}")
        for base in bases
        for n in range(count)
    ]


def test_thirty_addresses_at_a_time() -> None:
    addresses = [f"Mint{n}" for n in range(70)]
    asked, findings = converse(DexScreener(addresses), None, None, None)
    assert [question.path for question in asked] == [
        "/latest/dex/tokens/" + ",".join(addresses[first : first + 30]) for first in (0, 30, 60)
    ]
    assert (findings.facts, findings.missing) == ([], 0)


def test_a_named_chain_is_asked_there_and_repeated_addresses_once() -> None:
    asked, _ = converse(
        DexScreener([f"ethereum:{PEPE}", SYMMETRY, f"ethereum:{PEPE.lower()}", "sui:0x2::sui::SUI"]), [], [], []
    )
    assert [question.path for question in asked] == [
        f"/tokens/v1/ethereum/{PEPE}",
        f"/latest/dex/tokens/{SYMMETRY}",
        "/tokens/v1/sui/0x2::sui::SUI",
    ]


def test_tokens_that_a_full_answer_hides_are_asked_for_again() -> None:
    full = rows_of("A", count=FULL_ANSWER_PAIRS)
    asked, findings = converse(DexScreener(["A", "B", "C"]), full, rows_of("B"), None)
    assert [question.path for question in asked] == ["/latest/dex/tokens/A,B,C", "/latest/dex/tokens/B,C"]
    assert ([fact.address for fact in findings.facts], findings.missing) == (["A", "B"], 1)


def test_asking_again_ends_when_it_brings_nobody_new() -> None:
    full = rows_of("Z", count=FULL_ANSWER_PAIRS)
    asked, findings = converse(DexScreener(["A", "B"]), full)
    assert (len(asked), findings.missing) == (1, 2)


def test_a_search_takes_every_token_it_finds() -> None:
    asked, findings = converse(DexScreener(search="sym & co"), load(PAIRS))
    assert asked == [Question("/latest/dex/search", (("q", "sym & co"),))]
    assert {fact.address for fact in findings.facts} == {SYMMETRY, ASYMMETRY}


def test_an_answer_of_a_wrong_shape_is_counted_and_the_next_batch_asked() -> None:
    addresses = [f"Mint{n}" for n in range(31)]
    asked, findings = converse(DexScreener(addresses), {"error": "x"}, [5, *rows_of("Mint30")])
    assert len(asked) == 2
    assert findings.unusable == 1
    assert [reason for reason, _ in findings.rejections] == ["no_pairs", "not_a_pair"]
    assert [fact.address for fact in findings.facts] == ["Mint30"]
