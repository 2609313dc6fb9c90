"""The names of tokens: which token an address or a symbol means.

An exact address wins, then an exact symbol, then a unique symbol regardless of case; several: ambiguous.
Off the default chain the address on the wire is ``chain:address``, because chains share EVM addresses;
exchange pairs are ``venue:SYMBOL``. EVM addresses compare regardless of case, all others exactly.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from tokenwire_server.market.trades import TokenInfo

__all__ = [
    "AMBIGUOUS_TOKEN",
    "DEFAULT_CHAIN",
    "MAX_CANDIDATES",
    "NOT_FOUND",
    "TOKEN_NOT_FOUND",
    "Registry",
    "Resolution",
    "address_key",
    "wire_address",
]

TOKEN_NOT_FOUND: Final = "TOKEN_NOT_FOUND"  # noqa: S105 - an error code
AMBIGUOUS_TOKEN: Final = "AMBIGUOUS_TOKEN"  # noqa: S105 - an error code
DEFAULT_CHAIN: Final = "solana"
MAX_CANDIDATES: Final = 10  # addresses named in an ambiguous answer

_EVM: Final = re.compile(r"((?:[^:]+:)?)(0x[0-9a-fA-F]{40})")


class Resolution(msgspec.Struct, frozen=True):
    """What a name means: an ``address``, or a ``code`` (with the first ``candidates`` if ambiguous)."""

    address: str | None = None
    code: str | None = None
    candidates: tuple[str, ...] = ()


NOT_FOUND: Final = Resolution(code=TOKEN_NOT_FOUND)


def wire_address(info: TokenInfo, default_chain: str = DEFAULT_CHAIN) -> str:
    """The token's identity on the wire and in trades: prefixed by its chain unless that is the default."""
    prefix = f"{info.chain}:"
    if info.chain in ("", default_chain) or info.address.startswith(prefix):
        return info.address
    return prefix + info.address


class Registry:
    """Tokens by address and by symbol. It holds at most ``max_tokens``; none is ever removed or renamed,
    so an address once given out keeps its meaning whatever collides with its symbol later."""

    def __init__(self, max_tokens: int, default_chain: str = DEFAULT_CHAIN) -> None:
        self._max_tokens = max_tokens
        self._default_chain = default_chain
        self._addresses: dict[str, str] = {}  # comparison key -> address as first announced
        self._exact: dict[str, list[str]] = {}  # symbol -> addresses, in order of arrival
        self._folded: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def __iter__(self) -> Iterator[str]:
        """Addresses in order of arrival."""
        return iter(self._addresses.values())

    def add(self, info: TokenInfo) -> str | None:
        """Register a token and return its wire address; the known one if it is there already.

        None: the registry is full.
        """
        address = wire_address(info, self._default_chain)
        key = address_key(address)
        known = self._addresses.get(key)
        if known is not None:
            return known
        if len(self._addresses) >= self._max_tokens:
            return None
        self._addresses[key] = address
        self._exact.setdefault(info.symbol, []).append(address)
        self._folded.setdefault(info.symbol.casefold(), []).append(address)
        return address

    def find(self, address: str) -> str | None:
        """The registered spelling of an address, or None."""
        return self._addresses.get(address_key(address))

    def resolve(self, name: str) -> Resolution:
        """What ``name`` (an address or a symbol) means now."""
        address = self.find(name)
        if address is not None:
            return Resolution(address)
        found = self._exact.get(name) or self._folded.get(name.casefold())
        if not found:
            return NOT_FOUND
        if len(found) == 1:
            return Resolution(found[0])
        return Resolution(code=AMBIGUOUS_TOKEN, candidates=tuple(found[:MAX_CANDIDATES]))


def address_key(address: str) -> str:
    """What addresses compare by: those of EVM chains regardless of case."""
    if "0x" in address and (match := _EVM.fullmatch(address)) is not None:
        return match[1] + match[2].lower()
    return address
