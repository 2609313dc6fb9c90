"""All tokens at one moment, as a shared index keeps them: the row of each, what names mean, and every order with a
score for each place.

Scores are what sorted sets sort by. They are the values themselves, as doubles; where two would be equal, or doubles
can't tell them apart, the later one is made the next smaller double: so the set has exactly the order of ``Ranking``,
those of equal value in order of arrival, and whoever reads it finds the values. Tokens without a value score about -1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from math import inf, nextafter
from types import MappingProxyType
from typing import Final, NamedTuple

from tokenwire_server.market.market import TokenState
from tokenwire_server.market.ranking import Ranked, SortKey

__all__ = ["UNPRICED_BELOW", "IndexOrder", "TokenIndex", "index_order", "index_values"]

UNPRICED_BELOW: Final = -0.5
"""Tokens without a value have lower scores; all others have higher ones."""
_UNPRICED: Final = -1.0


class IndexOrder(NamedTuple):
    """Addresses in the natural order of a key, with their scores: descending where the key is, else 0, 1, 2 …"""

    members: tuple[str, ...]
    scores: tuple[float, ...]
    priced: int
    """So many of the first have a value."""


class TokenIndex(NamedTuple):
    """``rows`` are JSON by address, ``facts`` likewise of tokens whose value was merged from several sources; ``names``
    are fields of ``token_names``."""

    rows: Mapping[str, bytes]
    orders: Mapping[SortKey, IndexOrder]
    names: Mapping[str, bytes] = MappingProxyType({})
    facts: Mapping[str, bytes] = MappingProxyType({})


def index_values(key: SortKey, ranked: Ranked, first: int, end: int) -> list[float]:
    """What the tokens from place ``first`` to before ``end`` are in order by. It takes a while: ask for few at once."""
    end = min(end, len(ranked.tokens))
    if not key.is_descending:
        return list(map(float, range(first, end)))
    if key is SortKey.NEW:
        return list(map(float, range(len(ranked.tokens) - 1 - first, len(ranked.tokens) - 1 - end, -1)))
    read = _READ[key]
    values = [float(read(token)) for token in ranked.tokens[first : min(end, ranked.priced)]]
    return values + [_UNPRICED] * (end - first - len(values))


def index_order(key: SortKey, ranked: Ranked, values: Sequence[float]) -> IndexOrder:
    """An order as the index keeps it; ``values`` are those of all its tokens."""
    members = tuple([token.address for token in ranked.tokens])
    return IndexOrder(members, tuple(_apart(values) if key.is_descending else values), ranked.priced)


def _apart(values: Iterable[float]) -> Iterable[float]:
    last = inf
    for value in values:
        last = value if value < last else nextafter(last, -inf)
        yield last


_READ: Final[Mapping[SortKey, Callable[[TokenState], Decimal | int]]] = {
    SortKey.VOLUME: lambda token: token.volumes[0],
    SortKey.VOLUME_H1: lambda token: token.volumes[1],
    SortKey.VOLUME_M5: lambda token: token.volumes[2],
    SortKey.MARKET_CAP: lambda token: token.market_cap,
    SortKey.PRICE: lambda token: token.price or Decimal(0),
    SortKey.UPDATED: lambda token: token.source_time_ms,
}
