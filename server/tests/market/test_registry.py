"""What names mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.registry import (
    AMBIGUOUS_TOKEN,
    MAX_CANDIDATES,
    TOKEN_NOT_FOUND,
    Registry,
    Resolution,
    wire_address,
)
from tokenwire_server.market.trades import TokenInfo

EVM = "0xAbCdEf0123456789aBcDeF0123456789ABCDEF01"


def registry(*infos: TokenInfo, max_tokens: int = 100) -> Registry:
    made = Registry(max_tokens)
    for info in infos:
        made.add(info)
    return made


@pytest.mark.parametrize(
    ("info", "address"),
    [
        (TokenInfo("So11", "SOL", chain="solana"), "So11"),
        (TokenInfo("So11", "SOL"), "So11"),
        (TokenInfo(EVM, "X", chain="base"), f"base:{EVM}"),
        (TokenInfo(f"base:{EVM}", "X", chain="base"), f"base:{EVM}"),
        (TokenInfo("binance:BTCUSDT", "BTCUSDT"), "binance:BTCUSDT"),
    ],
)
def test_wire_addresses(info: TokenInfo, address: str) -> None:
    assert wire_address(info) == address


def test_an_exact_address_wins_over_a_symbol() -> None:
    names = registry(TokenInfo("addr1", "addr2"), TokenInfo("addr2", "TWO"))
    assert names.resolve("addr2") == Resolution("addr2")


def test_an_exact_symbol_wins_over_another_case() -> None:
    names = registry(TokenInfo("a1", "Doge"), TokenInfo("a2", "DOGE"))
    assert names.resolve("DOGE").address == "a2"
    assert names.resolve("Doge").address == "a1"
    assert names.resolve("doge") == Resolution(code=AMBIGUOUS_TOKEN, candidates=("a1", "a2"))


def test_a_unique_symbol_is_found_in_any_case() -> None:
    assert registry(TokenInfo("a1", "PEPE")).resolve("pEpE").address == "a1"


def test_candidates_are_bounded() -> None:
    names = registry(*(TokenInfo(f"a{n}", "MOON") for n in range(50)))
    found = names.resolve("MOON")
    assert (found.address, found.code) == (None, AMBIGUOUS_TOKEN)
    assert found.candidates == tuple(f"a{n}" for n in range(MAX_CANDIDATES))


def test_unknown_names() -> None:
    assert registry().resolve("NOPE") == Resolution(code=TOKEN_NOT_FOUND)
    assert registry(TokenInfo("So11abc", "SOL")).resolve("so11ABC").code == TOKEN_NOT_FOUND


@pytest.mark.parametrize("prefix", ["", "base:"])
def test_evm_addresses_compare_in_any_case(prefix: str) -> None:
    names = registry(TokenInfo(prefix + EVM, "X"))
    body = EVM[2:]
    for spelled in (EVM, "0x" + body.lower(), "0x" + body.upper()):
        assert names.resolve(prefix + spelled).address == prefix + EVM
    assert names.resolve("BASE:" + EVM).code == TOKEN_NOT_FOUND
    assert names.resolve(prefix + EVM[:-1]).code == TOKEN_NOT_FOUND


def test_one_evm_address_on_two_chains_is_two_tokens() -> None:
    names = registry(TokenInfo(EVM, "X", chain="base"), TokenInfo(EVM, "X", chain="ethereum"))
    assert names.resolve(f"base:{EVM}").address == f"base:{EVM}"
    assert names.resolve(f"ethereum:{EVM}").address == f"ethereum:{EVM}"
    assert names.resolve("X").code == AMBIGUOUS_TOKEN


def test_repeated_tokens_are_one_and_the_number_is_bounded() -> None:
    names = Registry(2)
    assert names.add(TokenInfo(EVM, "X")) == EVM
    assert names.add(TokenInfo(EVM.lower(), "Y")) == EVM
    assert names.add(TokenInfo("b", "B")) == "b"
    assert names.add(TokenInfo("c", "C")) is None
    assert names.add(TokenInfo("b", "B")) == "b"
    assert list(names) == [EVM, "b"]
    assert names.resolve("C").code == TOKEN_NOT_FOUND
    assert names.resolve("Y").code == TOKEN_NOT_FOUND


@given(st.lists(st.tuples(st.text("ab:", min_size=1, max_size=3), st.text("abAB", min_size=1, max_size=2))))
def test_a_later_collision_never_moves_an_address(pairs: list[tuple[str, str]]) -> None:
    names = Registry(1_000)
    given_out: set[str] = set()
    for address, symbol in pairs:
        wire = names.add(TokenInfo(address, symbol))
        assert wire is not None
        given_out.add(wire)
        for known in given_out:
            assert names.resolve(known).address == known
