"""A cache in the memory of one process: for tests, and for what is known of Redis while it is away."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from tokenwire_server.cache.cutting import Slice, cut_page, natural_ranges
from tokenwire_server.cache.port import FencedError, Grant, Loaded, OpenBar
from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.registry import NOT_FOUND, Resolution, address_key
from tokenwire_server.market.token_index import IndexOrder, TokenIndex
from tokenwire_server.market.token_names import asked_fields, meaning
from tokenwire_server.market.token_pages import (
    NO_FACTS,
    ORDER_KEPT_MS,
    CursorExpiredError,
    SingleToken,
    TokenPage,
    TokenQuery,
)

__all__ = ["MAX_KEPT_PLACES", "MemoryCache"]

MAX_KEPT_PLACES: Final = 500_000  # in all orders that are kept for those who walk through them


class _Lock(NamedTuple):
    owner: str
    until_ms: int


class MemoryCache:
    """``now_ms`` is a clock that never goes back. ``first`` is the first generation's number."""

    def __init__(self, now_ms: Callable[[], int], first: int = 1, max_kept_places: int = MAX_KEPT_PLACES) -> None:
        self.bars: dict[tuple[str, str], bytes] = {}
        self.index: TokenIndex | None = None
        self.generation = first - 1
        self.published_ms = 0
        self._now_ms = now_ms
        self._max_kept_places = max_kept_places
        self._numbers: dict[SortKey, int] = {}  # the generation in which the order became what it is
        self._used_ms: dict[SortKey, int] = {}  # when somebody last walked on in the present order
        self._kept: dict[tuple[SortKey, int], tuple[int, IndexOrder]] = {}  # the one used last at the end
        self._locks: dict[str, _Lock] = {}
        self._fences: dict[str, int] = {}

    @property
    def kept_places(self) -> int:
        """Places of all orders that are kept."""
        return sum(len(order.members) for _, order in self._kept.values())

    async def page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage | None:
        """A page."""

        async def read(number: int | None, place: int, count: int) -> Slice | None:
            return self._slice(query, number, place, count)

        return await cut_page(read, query, cursor, limit)

    async def token(self, name: str) -> SingleToken | Resolution | None:
        """One token."""
        index = self.index
        if index is None:
            return None
        address = next((each for each in (name, address_key(name)) if each in index.rows), None)
        if address is None:
            field = next((index.names[each] for each in asked_fields(name) if each in index.names), None)
            found = NOT_FOUND if field is None else meaning(field)
            if found.address is None:
                return found
            address = found.address
        return SingleToken(index.rows[address], index.facts.get(address, NO_FACTS), self._age_ms())

    async def publish(self, index: TokenIndex, lock: str, fence: int) -> int | None:
        """Put ``index`` in place of the one before."""
        if not fence or fence != self._fences.get(lock):
            raise FencedError("another instance leads since")
        if not index.rows:
            return None
        return self.put(self.generation + 1, index)

    def put(
        self, generation: int, index: TokenIndex, since: Mapping[SortKey, int] | None = None, age_ms: int = 0
    ) -> int:
        """Have this one, whose number is known. ``since``: what :class:`Loaded` says; None: only what differs from the
        one before is of this generation."""
        now_ms = self._now_ms()
        self.published_ms = now_ms - age_ms
        before, self.index, self.generation = self.index, index, generation
        for key, order in index.orders.items():
            former = None if before is None else before.orders.get(key)
            if former == order:
                continue
            used_ms = self._used_ms.pop(key, None)
            if former is not None and used_ms is not None and now_ms - used_ms <= ORDER_KEPT_MS:
                self._kept[key, self._numbers[key]] = used_ms, former
            self._numbers[key] = generation if since is None else since[key]
        self._forget(now_ms)
        return generation

    async def load(self) -> Loaded | None:
        """All of it."""
        if self.index is None:
            return None
        return Loaded(self.generation, self.index, dict(self._numbers), self._age_ms())

    async def put_bars(self, bars: Sequence[OpenBar]) -> None:
        """Know these open bars."""
        self.bars |= {(bar.symbol, bar.interval): bar.row for bar in bars}

    async def tidy(self, max_age_ms: int) -> int:
        """Remove what is too old."""
        if self.index is None or self._now_ms() - self.published_ms <= max_age_ms:
            return 0
        self.index = None
        self._used_ms.clear()
        self._kept.clear()
        return 1

    async def acquire(self, lock: str, owner: str, lease_ms: int) -> Grant:
        """Take the lock."""
        now_ms = self._now_ms()
        held = self._locks.get(lock)
        if held is not None and held.until_ms > now_ms and held.owner != owner:
            return Grant(0, held.until_ms - now_ms)
        self._locks[lock] = _Lock(owner, now_ms + lease_ms)
        fence = self._fences[lock] = self._fences.get(lock, 0) + 1
        return Grant(fence, lease_ms)

    async def renew(self, lock: str, owner: str, lease_ms: int) -> bool:
        """Hold it longer."""
        now_ms = self._now_ms()
        held = self._locks.get(lock)
        if held is None or held.owner != owner or held.until_ms <= now_ms:
            return False
        self._locks[lock] = _Lock(owner, now_ms + lease_ms)
        return True

    async def release(self, lock: str, owner: str) -> None:
        """Give it back."""
        held = self._locks.get(lock)
        if held is not None and held.owner == owner:
            del self._locks[lock]

    def _slice(self, query: TokenQuery, number: int | None, place: int, count: int) -> Slice | None:
        if self.index is None:
            return None
        now_ms = self._now_ms()
        self._forget(now_ms)
        key = query.sort
        current = self._numbers[key]
        if number is None or number == current:
            number, order = current, self.index.orders[key]
            if place + count < len(order.members):
                self._used_ms[key] = now_ms
        else:
            kept = self._kept.pop((key, number), None)
            if kept is None:
                raise CursorExpiredError
            order = kept[1]
            self._kept[key, number] = now_ms, order
        (first, end), (rest, rest_end) = natural_ranges(order.priced, place, count, is_reversed=query.is_reversed)
        found = order.members[first:end]
        members = (*(found[::-1] if query.is_reversed else found), *order.members[rest:rest_end])
        rows = [self.index.rows.get(member) for member in members]
        return Slice(number, len(order.members), rows, self._age_ms())

    def _age_ms(self) -> int:
        return self._now_ms() - self.published_ms

    def _forget(self, now_ms: int) -> None:
        kept = self._kept
        places = self.kept_places
        while kept:
            first = next(iter(kept))
            used_ms, order = kept[first]
            if now_ms - used_ms <= ORDER_KEPT_MS and (places <= self._max_kept_places or len(kept) == 1):
                return
            places -= len(order.members)
            del kept[first]
