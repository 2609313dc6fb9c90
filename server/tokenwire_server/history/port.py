"""The history port: what is asked of a store of bars and trades. The embedded default is SQLite."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import Batch, Beginning, NumberedTrade, StoredToken

__all__ = ["History", "HistoryError"]


class HistoryError(Exception):
    """The history can't be read or written; the message says why. Trying again may help (a full disk)."""


class History(Protocol):
    """Bars and trades that outlive the process. Addresses are those on the wire, intervals are their length in ms.

    What :meth:`commit` returned for survives the end of the process and of the machine. Every method raises
    :class:`HistoryError` if the store fails.
    """

    async def begin(self, reserved: int | None, stream: str) -> Beginning:
        """Go on from what is stored; called once, before anything else.

        ``reserved``: no more trades than that were numbered by whoever wrote last (None: not known). If it did not say
        that it had finished, the numbers it may have given out are skipped, of every token. ``stream`` names the
        lineage of versions if there is none yet.
        """

    async def commit(self, batch: Batch) -> None:
        """Store all of ``batch`` durably before returning. After an error the same one may be given again, whether
        it was stored or not."""

    async def tokens(self) -> Sequence[StoredToken]:
        """Every token that was ever stored, in order of arrival."""

    async def bars(
        self, address: str, interval_ms: int, from_ms: int, before_ms: int, limit: int, *, newest: bool = False
    ) -> list[Bar]:
        """At most ``limit`` bars that begin within ``[from_ms, before_ms)``, oldest first: the oldest ones, or those
        closest to ``before_ms``."""

    async def turnovers(self, address: str, interval_ms: int, from_ms: int) -> list[tuple[int, Decimal]]:
        """Beginning and turnover of every bar that begins at ``from_ms`` or later, ascending."""

    async def trades(self, address: str, after: int, limit: int) -> list[NumberedTrade]:
        """The first ``limit`` trades with a number above ``after``, ascending."""

    async def trades_before(self, address: str, before: int, limit: int) -> list[NumberedTrade]:
        """The last ``limit`` trades with a number below ``before``, ascending."""

    async def oldest(self, address: str) -> int | None:
        """The number of the first trade that is stored, if any."""

    async def known_ids(self, address: str, ids: Sequence[str]) -> set[str]:
        """Which of these trade ids are stored."""

    async def prune(self) -> int:
        """Delete what is older than it is to be kept, counted back from the event time of each token; how many rows
        that were. Batches need not wait for it."""

    async def close(self) -> None:
        """Finish what was begun. Afterwards nothing else may be called."""
