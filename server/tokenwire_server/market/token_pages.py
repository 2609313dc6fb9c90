"""Pages through all tokens in some order, such that a walk meets every token once, while values change meanwhile.

The first page freezes the order as it is then; the pages after it are cut from the frozen order, though each row has
the newest values. A frozen order is forgotten ``ORDER_KEPT_MS`` after it was last asked for, or sooner when all of them
together grow beyond ``MAX_KEPT_PLACES``; a cursor into it is then refused. Tokens that arrive during a walk are met by
the next one. Where there are very many tokens, a page of a search can have fewer rows than were asked for, and yet a
next page.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.ranking import Ranked, Ranking, SortKey
from tokenwire_server.market.values import TokenFacts

__all__ = [
    "DEFAULT_LIMIT",
    "MAX_CURSOR_CHARS",
    "MAX_KEPT_PLACES",
    "MAX_LIMIT",
    "MAX_LOOKED_AT",
    "MAX_SEARCH_CHARS",
    "NO_FACTS",
    "ORDER_KEPT_MS",
    "CursorError",
    "CursorExpiredError",
    "SingleToken",
    "TokenPage",
    "TokenPages",
    "TokenQuery",
    "read_cursor",
    "row_text",
    "write_cursor",
]

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000
MAX_SEARCH_CHARS: Final = 64
MAX_CURSOR_CHARS: Final = 64
MAX_LOOKED_AT: Final = 10_000  # tokens, for one page of a search
ORDER_KEPT_MS: Final = 60_000
MAX_KEPT_PLACES: Final = 2_000_000  # in all frozen orders, of 8 bytes each
NO_FACTS: Final = b"[]"

_CURSOR: Final = re.compile(r"([0-9]{1,16})-([0-9]{1,9})-([0-9a-f]{8})")


class CursorError(ValueError):
    """A cursor that was not given for this question; begin anew without one."""


class CursorExpiredError(CursorError):
    """The order that the cursor points into is no longer kept; begin anew without one."""

    def __init__(self) -> None:
        super().__init__("the order it points into is no longer kept; leave it out to begin anew")


class TokenQuery(NamedTuple):
    """Which tokens, in which order. ``search`` is a part of symbol, name or address, in any case."""

    sort: SortKey = SortKey.VOLUME
    is_reversed: bool = False
    search: str = ""

    @property
    def check(self) -> str:
        """Tells cursors of different questions apart."""
        return f"{crc32(repr(tuple(self)).encode()):08x}"


class TokenPage(NamedTuple):
    """Rows of JSON. ``next_cursor`` asks for the page after this one, None: there is no more. ``age_ms`` is how old the
    rows are, where they are known to be: what they come from can't be reached, or is not kept up to date."""

    rows: list[bytes]
    next_cursor: str | None
    age_ms: int | None = None


class SingleToken(NamedTuple):
    """One token: its row of JSON, and a list in JSON of what its value was merged from. ``age_ms`` as of
    :class:`TokenPage`."""

    row: bytes
    facts: bytes
    age_ms: int | None = None


def write_cursor(number: int, place: int, query: TokenQuery) -> str:
    """What asks for the tokens from ``place`` on in the order of this number."""
    return f"{number}-{place}-{query.check}"


def read_cursor(cursor: str, query: TokenQuery) -> tuple[int, int]:
    """The order's number, and the place in it. Raises CursorError if it was given for another query."""
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise CursorError("not one that this server gave; leave it out to begin anew")
    if match[3] != query.check:
        raise CursorError("it was given for another sort, order or q: repeat those, or leave it out to begin anew")
    return int(match[1]), int(match[2])


def row_text(symbol: str, name: str, address: str) -> str:
    """What a search looks through, where case makes no difference."""
    return f"{symbol}\n{name}\n{address}".casefold()


class _Frozen:
    """An order that somebody walks through."""

    __slots__ = ("number", "ranked", "used_ms")

    def __init__(self, number: int, ranked: Ranked, now_ms: int) -> None:
        self.number = number
        self.ranked = ranked
        self.used_ms = now_ms


class TokenPages:
    """Cuts pages. ``encode`` gives the JSON of a token that has a value: the fields of a ``token_update`` with
    ``version`` and ``sourceTime``.

    ``first_number`` is the first frozen order's; it must be above those that an earlier process gave (Unix ms will
    do), so that old cursors are known for what they are.
    """

    def __init__(
        self,
        ranking: Ranking,
        encode: Callable[[TokenState], bytes],
        first_number: int,
        max_kept_places: int = MAX_KEPT_PLACES,
    ) -> None:
        self._ranking = ranking
        self._encode = encode
        self._next_number = first_number
        self._max_kept_places = max_kept_places
        self._frozen: dict[int, _Frozen] = {}  # by number, the one used last at the end
        self._kept_places = 0
        self._tails: dict[TokenState, bytes] = {}
        self._texts: dict[TokenState, str] = {}

    @property
    def kept_places(self) -> int:
        """Places in all frozen orders."""
        return self._kept_places

    def page(self, query: TokenQuery, cursor: str | None, limit: int, now_ms: int) -> TokenPage:
        """The first page, or the one that ``cursor`` asks for. ``now_ms`` is a clock that never goes back.

        Raises:
            CursorExpiredError: begin anew.
            CursorError: the cursor is not one of this query.
        """
        self._forget(now_ms)
        if cursor is None:
            frozen, place = None, 0
            ranked = self._ranking.ranked(query.sort, now_ms)
        else:
            frozen, place = self._continued(query, cursor, now_ms)
            ranked = frozen.ranked
        found, after = self._cut(ranked, query, place, limit)
        rows = [self.row(token) for token in found]
        if after is None:
            return TokenPage(rows, None)
        if frozen is None:
            frozen = self._freeze(ranked, now_ms)
        return TokenPage(rows, write_cursor(frozen.number, after, query))

    def row(self, token: TokenState) -> bytes:
        """One token as JSON."""
        tail = self._tails.get(token)
        if tail is None:
            named = {"symbol": token.symbol, "name": token.name, "chain": token.chain, "source": token.source_name}
            tail = self._tails[token] = b"," + msgspec.json.encode(named)[1:]
        if token.has_value:
            return self._encode(token)[:-1] + tail
        unknown = b'{"address":%b,"price":null,"marketCap":null,"volume":null,"version":%d,"sourceTime":null%b'
        return unknown % (msgspec.json.encode(token.address), token.version, tail)

    def detail(self, token: TokenState) -> SingleToken:
        """One token, and what its value was merged from."""
        facts = token.facts
        return SingleToken(self.row(token), msgspec.json.encode(list(map(_fact, facts))) if facts else NO_FACTS)

    def _cut(self, ranked: Ranked, query: TokenQuery, place: int, limit: int) -> tuple[list[TokenState], int | None]:
        """At most ``limit`` tokens from ``place`` on, and the place where there may be more of them."""
        looked_at = MAX_LOOKED_AT if query.search else limit
        found: list[TokenState] = []
        end = place
        wanted = query.search.casefold()
        texts = self._texts
        for token in ranked.after(place, looked_at, is_reversed=query.is_reversed):
            if wanted and wanted not in (texts.get(token) or self._text(token)):
                end += 1
                continue
            if len(found) == limit:
                break
            found.append(token)
            end += 1
        return found, end if end < len(ranked.tokens) else None

    def _text(self, token: TokenState) -> str:
        text = self._texts[token] = row_text(token.symbol, token.name, token.address)
        return text

    def _continued(self, query: TokenQuery, cursor: str, now_ms: int) -> tuple[_Frozen, int]:
        number, place = read_cursor(cursor, query)
        frozen = self._frozen.pop(number, None)
        if frozen is None:
            raise CursorExpiredError
        frozen.used_ms = now_ms
        self._frozen[number] = frozen
        return frozen, place

    def _freeze(self, ranked: Ranked, now_ms: int) -> _Frozen:
        frozen = next((each for each in reversed(self._frozen.values()) if each.ranked is ranked), None)
        if frozen is None:
            frozen = _Frozen(self._next_number, ranked, now_ms)
            self._next_number += 1
            self._kept_places += len(ranked.tokens)
        else:
            del self._frozen[frozen.number]
            frozen.used_ms = now_ms
        self._frozen[frozen.number] = frozen
        self._forget(now_ms)
        return frozen

    def _forget(self, now_ms: int) -> None:
        frozen = self._frozen
        while frozen:
            oldest = next(iter(frozen.values()))
            is_over = now_ms - oldest.used_ms > ORDER_KEPT_MS
            if not is_over and (self._kept_places <= self._max_kept_places or len(frozen) == 1):
                return
            del frozen[oldest.number]
            self._kept_places -= len(oldest.ranked.tokens)


def _fact(said: TokenFacts) -> dict[str, Any]:
    numbers = {
        "price": said.price,
        "native": said.native,
        "liquidity": said.liquidity,
        "marketCap": said.market_cap,
        **{"h24": said.h24, "h1": said.h1, "m5": said.m5},
    }
    texts = {name: None if value is None else canonical(value) for name, value in numbers.items()}
    return {"source": said.source, "heardTime": said.heard_ms, "quote": said.quote, **texts}
