"""Which token a name means, where tokens are looked up by key somewhere else: the answers are those of ``registry``.

A field for each symbol, as it is written and regardless of case, and for each address that compares regardless of case,
holds the token that it means; or the first few, if there are several.
"""

from typing import Final

import msgspec

from tokenwire_server.market.registry import AMBIGUOUS_TOKEN, MAX_CANDIDATES, Resolution, address_key

__all__ = ["TokenNames", "asked_fields", "meaning"]

_ONE: Final = b"="  # before an address; several are a JSON list


class TokenNames:
    """``fields`` as they are stored; tokens are added in order of arrival."""

    def __init__(self) -> None:
        self.fields: dict[str, bytes] = {}
        self._meant: dict[str, list[str]] = {}

    def add(self, address: str, symbol: str) -> None:
        """One more token."""
        key = address_key(address)
        if key != address:
            self.fields[f"address:{key}"] = _ONE + address.encode()
        for field in _symbol_fields(symbol):
            meant = self._meant.setdefault(field, [])
            if len(meant) == MAX_CANDIDATES:
                continue
            meant.append(address)
            self.fields[field] = msgspec.json.encode(meant) if len(meant) > 1 else _ONE + address.encode()


def asked_fields(name: str) -> tuple[str, ...]:
    """The fields that tell what ``name`` means, if it is not an address as it is written: the first one that is there
    does."""
    return (f"address:{address_key(name)}", *_symbol_fields(name))


def meaning(field: bytes) -> Resolution:
    """What a field says."""
    if field.startswith(_ONE):
        return Resolution(field.removeprefix(_ONE).decode())
    return Resolution(code=AMBIGUOUS_TOKEN, candidates=msgspec.json.decode(field, type=tuple[str, ...]))


def _symbol_fields(symbol: str) -> tuple[str, str]:
    return f"symbol:{symbol}", f"folded:{symbol.casefold()}"
