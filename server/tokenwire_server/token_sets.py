"""Sets of tokens that clients follow by name (Interpretation I-80).

==================  ==========================================================================
``set:all``         every token
``set:new[:N]``     the N that arrived last (50)
``set:top:KEY[:N]`` the N with the largest volume, volumeH1, volumeM5, marketCap or price (50)
==================  ==========================================================================
"""

from collections.abc import Callable, Sequence
from typing import Final

from tokenwire_schemas.limits import DEFAULT_SET_TOKENS, MAX_SET_TOKENS
from tokenwire_server.market.ranking import Ranking, SortKey

__all__ = ["SET_NAMES", "TokenLists"]

MAX_LISTS: Final = 256  # sets whose members are remembered
_MAX_DIGITS: Final = 4
_TOP: Final = {
    key.value: key for key in (SortKey.VOLUME, SortKey.VOLUME_H1, SortKey.VOLUME_M5, SortKey.MARKET_CAP, SortKey.PRICE)
}
SET_NAMES: Final = f"set:all, set:new[:N] and set:top:KEY[:N] (KEY: {', '.join(_TOP)}; N: 1 to {MAX_SET_TOKENS})"


class TokenLists:
    """Who is in which set. ``now_ms`` is a clock that never goes back."""

    def __init__(self, ranking: Ranking, now_ms: Callable[[], int]) -> None:
        self._ranking = ranking
        self._now_ms = now_ms
        self._members: dict[str, tuple[str, ...]] = {}

    def members(self, name: str) -> Sequence[str] | None:
        """The addresses in a set, the same object as long as they are the same; None: there is no such set."""
        wanted = _parse(name)
        if wanted is None:
            return None
        key, count = wanted
        ranked = self._ranking.ranked(key, self._now_ms())
        found = ranked.tokens if count is None else ranked.tokens[: min(count, ranked.priced)]
        addresses = tuple([token.address for token in found])
        known = self._members.get(name)
        if known == addresses:
            return known
        if name not in self._members and len(self._members) >= MAX_LISTS:
            del self._members[next(iter(self._members))]
        self._members[name] = addresses
        return addresses


def _parse(name: str) -> tuple[SortKey, int | None] | None:
    parts = name.split(":")
    if parts == ["set", "all"]:
        return SortKey.NEW, None
    if parts[:2] == ["set", "new"] and len(parts) <= 3:
        count = _count(parts[2:])
        return None if count is None else (SortKey.NEW, count)
    if parts[:2] == ["set", "top"] and 3 <= len(parts) <= 4 and parts[2] in _TOP:
        count = _count(parts[3:])
        return None if count is None else (_TOP[parts[2]], count)
    return None


def _count(parts: Sequence[str]) -> int | None:
    if not parts:
        return DEFAULT_SET_TOKENS
    text = parts[0]
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and not text.startswith("0")
    return int(text) if is_number and int(text) <= MAX_SET_TOKENS else None
