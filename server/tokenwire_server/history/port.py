"""The history port: what is asked of a store of bars and trades. The embedded default is SQLite; the other one is
PostgreSQL, with TimescaleDB where it is."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import Batch, Beginning, NumberedTrade, StoredToken

__all__ = [
    "ForeignHistoryError",
    "History",
    "HistoryAwayError",
    "HistoryError",
    "HistoryTakenError",
    "Reservation",
    "Stored",
]


class HistoryError(Exception):
    """The history can't be read or written; the message says why. Trying again may help (a full disk)."""


class HistoryAwayError(HistoryError):
    """It can't be reached, or refuses who asks: trying again helps once somebody has mended that there."""


class HistoryTakenError(HistoryError):
    """Another process writes the history; this one can once that has ended, after it has opened it again."""


class ForeignHistoryError(HistoryError):
    """What is stored must not be gone on from by whoever asked; trying again does not help."""


class Stored(Protocol):
    """Bars and trades that are stored, to be read. Addresses are those on the wire, intervals are their length in ms.
    Every method raises :class:`HistoryError` if the store fails."""

    async def bars(
        self, address: str, interval_ms: int, from_ms: int, before_ms: int, limit: int, *, newest: bool = False
    ) -> list[Bar]:
        """At most ``limit`` bars that begin within ``[from_ms, before_ms)``, oldest first: the oldest ones, or those
        closest to ``before_ms``."""

    async def trades(self, address: str, after: int, limit: int) -> list[NumberedTrade]:
        """The first ``limit`` trades with a number above ``after``, ascending."""

    async def trades_before(self, address: str, before: int, limit: int) -> list[NumberedTrade]:
        """The last ``limit`` trades with a number below ``before``, ascending."""

    async def oldest(self, address: str) -> int | None:
        """The number of the first trade that is stored, if any."""


class History(Stored, Protocol):
    """Bars and trades that outlive the process.

    What :meth:`commit` returned for survives the end of the process and of the machine. Every method raises
    :class:`HistoryError` if the store fails.
    """

    @property
    def engine(self) -> str:
        """What it is stored in, and the version of that: ``sqlite 3.40.1``."""

    async def begin(self, reserved: int | None, stream: str, *, follows: bool = False) -> Beginning:
        """Go on from what is stored; called once, before anything else.

        ``reserved``: no more trades than that were numbered by whoever wrote last (None: not known). If it did not say
        that it had finished, the numbers it may have given out are skipped, of every token. ``stream`` names the
        lineage of versions if there is none yet. ``follows``: numbers and versions come from the log that ``stream``
        names, so none are skipped.

        Raises:
            ForeignHistoryError: it follows a log, and ``follows`` is not said; or the other way round; or another one.
        """

    async def commit(self, batch: Batch) -> None:
        """Store all of ``batch`` durably before returning. After an error the same one may be given again, whether
        it was stored or not."""

    async def tokens(self) -> Sequence[StoredToken]:
        """Every token that was ever stored, in order of arrival."""

    async def turnovers(self, address: str, interval_ms: int, from_ms: int) -> list[tuple[int, Decimal]]:
        """Beginning and turnover of every bar that begins at ``from_ms`` or later, ascending."""

    async def known_ids(self, address: str, ids: Sequence[str]) -> set[str]:
        """Which of these trade ids are stored."""

    async def prune(self) -> int:
        """Delete what is older than it is to be kept, counted back from the event time of each token; how many rows
        that were. Batches need not wait for it."""

    async def close(self) -> None:
        """Finish what was begun. Afterwards nothing else may be called."""


class Reservation(Protocol):
    """How many trades may be numbered before they are stored.

    Trades are told to clients before they are durable, and after a crash no number may mean another trade. So a bound
    on how many were ever numbered is durable before the trades are: whoever starts after a crash skips up to it.
    """

    @property
    def upto(self) -> int | None:
        """The bound that is known to be durable; None: none was found, or it is damaged."""

    @property
    def ahead(self) -> int:
        """How many are to be reserved at least beyond those that are given."""

    async def reserve(self, count: int) -> None:
        """Have a bound of ``count`` or more durable before returning.

        Raises:
            HistoryError: that can't be for now.
        """

    def reserve_now(self, count: int) -> None:
        """The same without letting anything else happen meanwhile: numbers have run out. Not every store can.

        Raises:
            HistoryError: that can't be.
        """

    def close(self) -> None:
        """Afterwards nothing else may be called."""
