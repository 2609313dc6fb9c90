"""Everything that what comes next depends on, of one token, as plain data.

Whoever loads the snapshots of a market and folds what came after them has the same versions, trade numbers, windows
and bars as whoever folded everything (property-tested). So a process takes over from another one without reading the
whole past, and any number of processes agree on every version they send.

Not kept, since nothing that is sent depends on it: trades at hand, closed bars that are too old to be told of again
when they are corrected, and around which price a next one would be odd.
"""

from decimal import Decimal

import msgspec

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import TokenValue

__all__ = ["BarsSnapshot", "LevelSnapshot", "TokenSnapshot", "WindowSnapshot"]


class LevelSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """The bars of one length: what of the open one is in no shorter bar, and the closed ones that may be told of
    again, which are all that begin at ``since_ms`` or later."""

    interval_ms: int
    bar: Bar | None
    since_ms: int
    closed: tuple[Bar, ...]


class BarsSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """All bars of one token; ``now_ms`` is the event time up to which they are closed."""

    now_ms: int
    levels: tuple[LevelSnapshot, ...]


class WindowSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """One rolling window: the number of its newest bucket, and what is in which bucket, ascending."""

    head: int
    sums: tuple[tuple[int, Decimal], ...]


class TokenSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """One token.

    ``info.address`` is the one on the wire, ``version`` that of its newest value, ``price_ms`` the event time of
    ``price`` (Unix ms), ``newest`` the number of its newest trade (None: it never traded) and ``skipped`` how many
    numbers the next one leaves out. ``ids`` and ``older_ids`` are those of trades that would be repeated ones.
    ``seq``: where there is a log, the number of the newest record that is in it.
    """

    info: TokenInfo
    source: str
    version: int
    price: Decimal | None = None
    price_ms: int = 0
    stated: TokenValue | None = None
    newest: int | None = None
    skipped: int = 0
    ids: tuple[str, ...] = ()
    older_ids: tuple[str, ...] = ()
    windows: tuple[WindowSnapshot, ...] = ()
    bars: BarsSnapshot | None = None
    seq: int = 0
