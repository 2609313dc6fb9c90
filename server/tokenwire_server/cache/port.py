"""What is asked of a cache: pages of an index that one instance publishes and all read, open bars, and locks.

The embedded default is the memory of one process (``cache.memory``); what several share is Redis (``cache.redis``).
Both pass one contract suite.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.registry import Resolution
from tokenwire_server.market.token_index import TokenIndex
from tokenwire_server.market.token_pages import SingleToken, TokenPage, TokenQuery

__all__ = [
    "AgainError",
    "Cache",
    "CacheError",
    "CacheState",
    "CacheStatus",
    "FencedError",
    "Grant",
    "Loaded",
    "OpenBar",
    "TokenIndexPages",
]


class CacheError(Exception):
    """The cache can't be reached, or refuses; the message says why, without any secret. Trying again may help."""


class AgainError(CacheError):
    """It answers, and this was refused, or something came in between."""


class FencedError(CacheError):
    """Another instance leads since: what this one publishes is not taken any more."""


class Grant(NamedTuple):
    """The answer to whoever wants a lock. ``fence`` is above those of all earlier holders, 0: another one holds it;
    ``free_in_ms`` is when that ends if it is not renewed."""

    fence: int
    free_in_ms: int


class OpenBar(NamedTuple):
    """The bar that runs now. ``symbol`` names the token, ``row`` is JSON, and it is forgotten after ``ttl_ms``."""

    symbol: str
    interval: str
    row: bytes
    ttl_ms: int


class Loaded(NamedTuple):
    """A generation as a whole, published ``age_ms`` ago. ``since`` tells in which generation each order became what it
    is: cursors name that."""

    generation: int
    tokens: TokenIndex
    since: Mapping[SortKey, int]
    age_ms: int


class CacheState(StrEnum):
    """``degraded``: it can't be reached, and what was known last is served."""

    OK = "ok"
    DEGRADED = "degraded"


class CacheStatus(NamedTuple):
    """How the shared cache is. ``role`` is ``leading`` or ``standby``, ``generation`` the last one seen."""

    state: CacheState
    reason: str
    engine: str
    role: str
    generation: int

    def body(self) -> dict[str, object]:
        """What ``/ready`` says of it."""
        return {name: value for name, value in {**self._asdict(), "state": str(self.state)}.items() if value}


class TokenIndexPages(Protocol):
    """Where pages of tokens come from, and single ones."""

    async def page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage:
        """The first page, or the one that ``cursor`` asks for. Raises CursorError, CursorExpiredError."""

    async def token(self, name: str) -> SingleToken | Resolution | None:
        """The token that a name means, or why it means none; None: nothing is published."""


class Cache(Protocol):
    """Every method raises CacheError."""

    async def page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage | None:
        """The first page, or the one that ``cursor`` asks for, with its age; None: nothing is published.

        Raises:
            CursorError: the cursor is not one of this query.
            CursorExpiredError: begin anew.
        """

    async def token(self, name: str) -> SingleToken | Resolution | None:
        """The token that an address or a symbol means, with its age, or why it means none; None: nothing is
        published."""

    async def publish(self, index: TokenIndex, lock: str, fence: int) -> int | None:
        """Put ``index`` in place of the one before, all of it or nothing; its generation. None: it is empty, and the
        one before stays. Raises FencedError unless ``fence`` is the highest that was granted of ``lock``."""

    async def load(self) -> Loaded | None:
        """The newest generation as a whole; None: nothing is published."""

    async def put_bars(self, bars: Sequence[OpenBar]) -> None:
        """Let everybody know these open bars."""

    async def tidy(self, max_age_ms: int) -> int:
        """Remove an index that nobody refreshed for so long, and what half-done refreshes left; how many keys."""

    async def acquire(self, lock: str, owner: str, lease_ms: int) -> Grant:
        """Take the lock if nobody has it."""

    async def renew(self, lock: str, owner: str, lease_ms: int) -> bool:
        """Hold it longer; False: it is not this owner's any more."""

    async def release(self, lock: str, owner: str) -> None:
        """Give it back, if it is still this owner's."""
