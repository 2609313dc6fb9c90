"""The order books of all tokens, kept only while somebody looks at them.

A source *offers* books and delivers those that are *wanted*: the ones that a subscriber holds
(:meth:`MarketBooks.hold`, until :meth:`MarketBooks.release`), and for :data:`LINGER_MS` those that somebody looked at
once (:meth:`MarketBooks.look`). Books that nobody looks at cost nothing, neither here nor at the venue.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

from tokenwire_server.market.book import BookCondition, BookUpdate, OrderBook

__all__ = ["LINGER_MS", "MAX_BOOKS", "BookRefusal", "BookRefusedError", "MarketBooks"]

MAX_BOOKS: Final = 200  # at once; a full one takes some 0.6 MB
LINGER_MS: Final = 60_000  # a book that was looked at is kept up to date this long


class BookRefusal(StrEnum):
    """Why there is no book."""

    NOT_OFFERED = "not_offered"  # no source has a book of this token
    TOO_MANY = "too_many"  # as many others are held as there may be


class BookRefusedError(Exception):
    """There is no book of the token; ``reason`` says why."""

    def __init__(self, reason: BookRefusal) -> None:
        super().__init__(reason)
        self.reason = reason


class _Wanted:
    """A book and who wants it: ``holders`` subscribers, and lookers until ``lingers_until_ms``."""

    __slots__ = ("book", "holders", "lingers_until_ms", "source")

    def __init__(self, book: OrderBook, source: str) -> None:
        self.book: Final = book
        self.source: Final = source
        self.holders = 0
        self.lingers_until_ms = 0


class MarketBooks:
    """All books. ``on_change(address)`` is called after each change of a book that a reader can see.

    ``first_revision`` is what revisions begin above; a later start of the server must give a higher one, so that a
    reader who comes back never takes one book for another. Times are of any one monotonic clock, in ms.
    """

    def __init__(
        self,
        on_change: Callable[[str], None] = lambda address: None,
        first_revision: int = 0,
        max_books: int = MAX_BOOKS,
    ) -> None:
        self.crossed = 0
        """Times that a book was crossed."""
        self._on_change = on_change
        self._max_books = max_books
        self._offers: dict[str, str] = {}  # address -> source
        self._wanted: dict[str, _Wanted] = {}  # by address, the one looked at longest ago first
        self._of_source: dict[str, dict[str, OrderBook]] = {}
        self._revision = first_revision

    def __len__(self) -> int:
        """Books at hand."""
        return len(self._wanted)

    # --- readers ---------------------------------------------------------------------------------------------

    def is_offered(self, address: str) -> bool:
        """Whether a source has a book of this token."""
        return address in self._offers

    def get(self, address: str) -> OrderBook | None:
        """The book at hand, if somebody wants it; perhaps not filled yet, perhaps stale."""
        wanted = self._wanted.get(address)
        return None if wanted is None else wanted.book

    def source_of(self, address: str) -> str | None:
        """The source that offers the book."""
        return self._offers.get(address)

    def hold(self, address: str) -> OrderBook:
        """Have the book kept up to date until :meth:`release`, which must follow once.

        Raises:
            BookRefusedError: no source offers it, or too many others are held.
        """
        wanted = self._want(address)
        wanted.holders += 1
        return wanted.book

    def release(self, address: str) -> None:
        """One holder less; the last one's book is dropped, unless it lingers."""
        wanted = self._wanted.get(address)
        if wanted is None or wanted.holders == 0:
            raise ValueError(f"nobody holds the book of {address}")
        wanted.holders -= 1
        if wanted.holders == 0 and not wanted.lingers_until_ms:
            self._drop(address)

    def look(self, address: str, now_ms: int) -> OrderBook:
        """The book, which is kept up to date for a while from now on. Raises as :meth:`hold`."""
        self.advance(now_ms)
        wanted = self._want(address)
        wanted.lingers_until_ms = now_ms + LINGER_MS
        self._wanted[address] = self._wanted.pop(address)
        return wanted.book

    def advance(self, now_ms: int) -> None:
        """Drop the books whose time is over."""
        over = []
        for address, wanted in self._wanted.items():
            if wanted.lingers_until_ms > now_ms:
                break  # those looked at later follow
            wanted.lingers_until_ms = 0
            if wanted.holders == 0:
                over.append(address)
        for address in over:
            self._drop(address)

    # --- the sources' side -----------------------------------------------------------------------------------

    def offer(self, source: str, addresses: Sequence[str]) -> None:
        """These tokens have books at ``source``; the first source to offer one has it."""
        for address in addresses:
            self._offers.setdefault(address, source)

    def wanted(self, source: str) -> Mapping[str, OrderBook]:
        """The books that ``source`` is to keep up to date, by address; a view that follows."""
        return self._of_source.setdefault(source, {})

    def apply(self, source: str, address: str, update: BookUpdate) -> BookCondition:
        """Take over an update whose numbers are valid."""
        wanted = self._wanted.get(address)
        if wanted is None or wanted.source != source:
            return BookCondition.CLOSED
        book = wanted.book
        before = book.revision
        condition = book.apply(update)
        if condition is BookCondition.CROSSED:
            self.crossed += 1
        if book.revision != before:
            self._changed(book)
        return condition

    def lose(self, source: str, address: str) -> None:
        """Changes of this book may have been missed: it is stale until the next snapshot."""
        wanted = self._wanted.get(address)
        if wanted is not None and wanted.source == source and wanted.book.lose():
            self._changed(wanted.book)

    def lose_all(self, source: str) -> None:
        """The source does not deliver any more: all its books are stale."""
        for address in list(self.wanted(source)):
            self.lose(source, address)

    def _want(self, address: str) -> _Wanted:
        wanted = self._wanted.get(address)
        if wanted is not None:
            return wanted
        source = self._offers.get(address)
        if source is None:
            raise BookRefusedError(BookRefusal.NOT_OFFERED)
        if len(self._wanted) >= self._max_books:
            idle = next((each for each, wanted in self._wanted.items() if wanted.holders == 0), None)
            if idle is None:
                raise BookRefusedError(BookRefusal.TOO_MANY)
            self._drop(idle)
        # Begins above every revision there was, so that a book that is opened again goes on upwards.
        wanted = self._wanted[address] = _Wanted(OrderBook(address, self._revision), source)
        self._of_source.setdefault(source, {})[address] = wanted.book
        return wanted

    def _drop(self, address: str) -> None:
        wanted = self._wanted.pop(address)
        self._revision = max(self._revision, wanted.book.revision)
        del self._of_source[wanted.source][address]

    def _changed(self, book: OrderBook) -> None:
        self._on_change(book.address)
