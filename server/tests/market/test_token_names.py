"""What names mean where tokens are looked up by key: what the registry says, whatever the names are."""

from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.registry import MAX_CANDIDATES, NOT_FOUND, Registry, Resolution, address_key
from tokenwire_server.market.token_names import TokenNames, asked_fields, meaning
from tokenwire_server.market.trades import TokenInfo

EVM = "0xAbCdEf0123456789aBcDeF0123456789ABCDEF01"
NAMES = ["a", "A", "b", "ß", "SS", "ss", "=", "[", "a:A", EVM, EVM.lower(), EVM.upper().replace("X", "x"), f"bsc:{EVM}"]


def asked(addresses: set[str], names: TokenNames, name: str) -> Resolution:
    """As a cache does it."""
    for address in (name, address_key(name)):
        if address in addresses:
            return Resolution(address)
    field = next((names.fields[each] for each in asked_fields(name) if each in names.fields), None)
    return NOT_FOUND if field is None else meaning(field)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=30))
def test_they_mean_what_the_registry_says(tokens: list[tuple[str, str]]) -> None:
    registry, names = Registry(1_000), TokenNames()
    for address, symbol in tokens:
        before = len(registry)
        known = registry.add(TokenInfo(address, symbol))
        if len(registry) > before:
            assert known is not None
            names.add(known, symbol)
    for name in (*NAMES, "nothing", f"BSC:{EVM}"):
        assert asked(set(registry), names, name) == registry.resolve(name), name


def test_of_a_symbol_that_very_many_have_the_first_are_kept() -> None:
    names = TokenNames()
    for number in range(1_000):
        names.add(f"v:{number}", "SAME")
    found = meaning(names.fields["symbol:SAME"])
    assert found.candidates == tuple(f"v:{number}" for number in range(MAX_CANDIDATES))
    assert len(names.fields) == 2
