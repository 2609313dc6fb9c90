"""Tokens in order of volume, market cap, price, name …: kept up incrementally, and looked at again once a second.

An order is made only while somebody asks for it. Between two looks most tokens stay where they are, so that sorting
the order of before costs little more than one comparison a token.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

from tokenwire_server.market.market import TokenState

__all__ = ["RANK_INTERVAL_MS", "TOKENS_PER_SECOND", "Ranked", "Ranking", "SortKey"]

RANK_INTERVAL_MS: Final = 1_000  # an order is at most this old …
TOKENS_PER_SECOND: Final = 50_000  # … unless there are so many tokens that looking at them is to be spread thinner

_UNPRICED: Final = Decimal(-1)  # below every price and volume


class SortKey(StrEnum):
    """What tokens are put in order of. Equal ones are in order of arrival."""

    VOLUME = "volume"
    """Turnover of 24 hours."""
    VOLUME_H1 = "volumeH1"
    VOLUME_M5 = "volumeM5"
    MARKET_CAP = "marketCap"
    PRICE = "price"
    NAME = "name"
    """The symbol where a token has no name; case is ignored, as it is for symbols."""
    SYMBOL = "symbol"
    NEW = "new"
    """Arrival at the server."""
    UPDATED = "updated"
    """Event time of the newest trade or stated value."""

    @property
    def is_descending(self) -> bool:
        """Whether the natural order begins with the largest (numbers, times) or with A (texts)."""
        return self not in (SortKey.NAME, SortKey.SYMBOL)

    @property
    def needs_value(self) -> bool:
        """Whether tokens without a price have nothing to be compared by; they come last, whatever the direction."""
        return self not in (SortKey.NAME, SortKey.SYMBOL, SortKey.NEW)


class Ranked(NamedTuple):
    """All tokens in the natural order of one key, at one moment. Only the first ``priced`` have a value of it."""

    tokens: tuple[TokenState, ...]
    priced: int

    def after(self, place: int, count: int, *, is_reversed: bool) -> Iterable[TokenState]:
        """At most ``count`` tokens from a place (0 is the first) on; reversed too, those without a value come last."""
        if not is_reversed:
            return self.tokens[place : place + count]
        end = self.priced - place
        turned = self.tokens[max(0, end - count) : end][::-1] if end > 0 else ()
        rest = max(place, self.priced)
        return (*turned, *self.tokens[rest : max(rest, place + count)])


class _Order:
    """What is remembered of one key, so that only what changed is looked at."""

    __slots__ = ("indices", "keys", "look", "ranked", "versions")

    def __init__(self) -> None:
        self.indices: list[int] = []  # of tokens in order of arrival; in order of the key
        self.keys: list[Any] = []  # by index
        self.versions: list[int] = []  # by index: of which the key is
        self.look = 0  # the one that all this is as of
        self.ranked = Ranked((), 0)


class Ranking:
    """Orders of the tokens that ``tokens()`` lists in order of arrival; none of them ever goes away."""

    def __init__(self, tokens: Callable[[], Iterable[TokenState]]) -> None:
        self._list = tokens
        self._tokens: list[TokenState] = []
        self._orders: dict[SortKey, _Order] = {}
        self._look = 0
        self._look_ms: int | None = None

    def top(self, key: SortKey, count: int, now_ms: int) -> list[TokenState]:
        """The first ``count`` tokens in the key's natural order (the largest, the newest, A …), of those that have a
        value. ``now_ms`` is a clock that never goes back."""
        ranked = self.ranked(key, now_ms)
        return list(ranked.tokens[: min(count, ranked.priced)])

    def ranked(self, key: SortKey, now_ms: int) -> Ranked:
        """All tokens in order of the key. While the order stays as it is, so does the object."""
        interval_ms = max(RANK_INTERVAL_MS, len(self._tokens) * 1_000 // TOKENS_PER_SECOND)
        if self._look_ms is None or now_ms - self._look_ms >= interval_ms:
            self._look_ms = now_ms
            self._look += 1
            self._tokens = list(self._list())
        order = self._orders.get(key)
        if order is None:
            order = self._orders[key] = _Order()
        if order.look != self._look:
            order.look = self._look
            self._renew(order, key)
        return order.ranked

    def _renew(self, order: _Order, key: SortKey) -> None:
        tokens, keys, versions = self._tokens, order.keys, order.versions
        key_of = _KEYS[key]
        known = len(keys)
        moved = set(range(known, len(tokens)))
        newer = [token.version for token in tokens]
        if newer != versions:
            for index, (before, version) in enumerate(zip(versions, newer, strict=False)):
                if before != version:
                    renewed = key_of(tokens[index], index)
                    if renewed != keys[index]:
                        keys[index] = renewed
                        moved.add(index)
            keys.extend([key_of(tokens[index], index) for index in range(known, len(tokens))])
            order.versions = newer
        if not moved:
            return
        sort_key = keys.__getitem__
        # Two sorted runs: that is what list.sort is best at.
        indices = [index for index in order.indices if index not in moved]
        indices += sorted(moved, key=sort_key, reverse=key.is_descending)
        indices.sort(key=sort_key, reverse=key.is_descending)
        order.indices = indices
        found = tuple([tokens[index] for index in indices])
        priced = bisect_left(found, True, key=_has_no_value) if key.needs_value else len(found)
        if (found, priced) != order.ranked:
            order.ranked = Ranked(found, priced)


def _has_no_value(token: TokenState) -> bool:
    return not token.has_value


def _number(read: Callable[[TokenState], Decimal]) -> Callable[[TokenState, int], tuple[float, Decimal, int]]:
    """Descending: of equal values, the one that arrived first is the larger.

    The float is there for speed alone: where it decides, the exact value would decide the same.
    """

    def key(token: TokenState, index: int) -> tuple[float, Decimal, int]:
        value = read(token) if token.has_value else _UNPRICED
        return float(value), value, -index

    return key


_KEYS: Final[dict[SortKey, Callable[[TokenState, int], Any]]] = {
    SortKey.VOLUME: _number(lambda token: token.volumes[0]),
    SortKey.VOLUME_H1: _number(lambda token: token.volumes[1]),
    SortKey.VOLUME_M5: _number(lambda token: token.volumes[2]),
    SortKey.MARKET_CAP: _number(lambda token: token.market_cap),
    SortKey.PRICE: _number(lambda token: token.price or _UNPRICED),
    SortKey.NAME: lambda token, index: ((token.name or token.symbol).casefold(), index),
    SortKey.SYMBOL: lambda token, index: (token.symbol.casefold(), index),
    SortKey.NEW: lambda token, index: index,
    SortKey.UPDATED: lambda token, index: (token.source_time_ms if token.has_value else -1, -index),
}
