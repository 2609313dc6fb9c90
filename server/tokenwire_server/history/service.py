"""A history as a server opens, attaches and closes it: of a data directory, or in PostgreSQL."""

import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenwire_server.errors import AwayError, UserError
from tokenwire_server.history.export import Reader, StoredReader
from tokenwire_server.history.lock import DirectoryLock
from tokenwire_server.history.pages import HistoryPages
from tokenwire_server.history.port import History, HistoryAwayError, HistoryError, Reservation
from tokenwire_server.history.recorder import Recorder
from tokenwire_server.history.reservation import FileReservation
from tokenwire_server.history.restore import restore
from tokenwire_server.history.sqlite import SqliteHistory
from tokenwire_server.market.market import Market
from tokenwire_server.market.records import Beginning
from tokenwire_server.market.retention import Retention
from tokenwire_server.settings import Settings
from tokenwire_server.telemetry.logs import get_log

if TYPE_CHECKING:
    from tokenwire_server.history.postgres_view import PostgresView

__all__ = ["DataDirectory", "KeptHistory", "open_history", "open_reader", "open_view", "require_asyncpg"]

_log = get_log(__name__)

_STREAM_BYTES: Final = 9


class KeptHistory:
    """A history that this process alone writes, opened and begun. :meth:`attach` it once, and :meth:`close` it."""

    def __init__(
        self,
        history: History,
        reservation: Reservation,
        beginning: Beginning,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.history = history
        self.beginning = beginning
        self._reservation = reservation
        self._release = release
        self._recorder: Recorder | None = None

    async def attach(self, market: Market, sources: Collection[str]) -> tuple[Recorder, HistoryPages]:
        """Restore ``market``, which is empty, and begin to store what is told to the recorder's builder. Tokens of
        sources that are not among ``sources`` belong to the first one that brings them.

        Raises:
            UserError: the history can't be read, or holds more tokens than there is room for.
        """
        try:
            await restore(market, self.history, self.beginning.floor, sources)
            recorder = Recorder(market, self.history, self._reservation)
            await recorder.start(self.beginning.numbered)
        except HistoryError as error:
            raise UserError(str(error)) from None
        self._recorder = recorder
        return recorder, HistoryPages(self.history, recorder)

    async def close(self) -> None:
        """Store what is left, and let another process write."""
        if self._recorder is not None:
            await self._recorder.close()
        await self.history.close()
        self._reservation.close()
        self._release()


class DataDirectory(KeptHistory):
    """The history in a data directory. Made by :meth:`open`."""

    @classmethod
    async def open(cls, folder: Path, retention: Retention | None = None) -> "DataDirectory":
        """Open the history in ``folder``, which is made if there is none, and begin to go on from it.

        Raises:
            UserError: another process holds it, it can't be written, or what is in it can't be used.
        """
        lock = DirectoryLock(folder)
        reservation: FileReservation | None = None
        history: SqliteHistory | None = None
        try:
            reservation = FileReservation(folder)
            history = await SqliteHistory.open(folder, retention)
            beginning = await history.begin(reservation.upto, secrets.token_urlsafe(_STREAM_BYTES))
            return cls(history, reservation, beginning, lock.release)
        except (HistoryError, OSError) as error:
            if history is not None:
                await history.close()
            if reservation is not None:
                reservation.close()
            lock.release()
            raise UserError(str(error)) from None


async def open_history(settings: Settings, data: Path | None = None) -> KeptHistory | None:
    """The history in ``data``, else in what the settings name, PostgreSQL or a directory; None if that is neither.

    Raises:
        AwayError: the database can't be reached, or refuses.
        UserError: it can't be used, or another process writes it.
    """
    folder = data or settings.data
    if folder is not None:
        return await DataDirectory.open(folder, settings.retention)
    return None if settings.timescale_host is None else await _in_postgres(settings)


def require_asyncpg() -> None:
    """Raises UserError, which says how to get it, if asyncpg is missing."""
    try:
        import asyncpg  # noqa: F401, PLC0415 - an extra
    except ModuleNotFoundError:
        raise UserError("TIMESCALE_HOST needs asyncpg; install it: pip install 'tokenwire[timescale]'") from None


def open_reader(settings: Settings, data: Path | None = None) -> Reader:
    """What reads the history in ``data``, else in what the settings name.

    Raises:
        UserError: that is neither, or it can't be read.
    """
    folder = data or settings.data
    if folder is not None:
        return StoredReader(folder)
    if settings.timescale_host is None:
        raise UserError("name what to export: --data DIR, or TIMESCALE_HOST")
    require_asyncpg()
    from tokenwire_server.history.postgres_export import PostgresReader  # noqa: PLC0415 - an extra
    from tokenwire_server.history.postgres_place import place_of  # noqa: PLC0415

    return PostgresReader(place_of(settings))


async def open_view(settings: Settings) -> "PostgresView | None":
    """What reads the history that a loader writes into PostgreSQL; None where the settings name none. The database
    need not be there yet.

    Raises:
        UserError: asyncpg is missing.
    """
    if settings.timescale_host is None:
        return None
    require_asyncpg()
    from tokenwire_server.history.postgres_place import place_of  # noqa: PLC0415 - an extra
    from tokenwire_server.history.postgres_view import PostgresView  # noqa: PLC0415

    return await PostgresView.view(place_of(settings))


async def _in_postgres(settings: Settings) -> KeptHistory:
    require_asyncpg()
    from tokenwire_server.history.postgres import PostgresHistory, PostgresReservation  # noqa: PLC0415 - an extra
    from tokenwire_server.history.postgres_place import place_of  # noqa: PLC0415

    place = place_of(settings)
    try:
        history = await PostgresHistory.open(place, settings.retention)
        try:
            beginning = await history.begin(history.reserved, secrets.token_urlsafe(_STREAM_BYTES))
        except BaseException:
            await history.close()
            raise
    except HistoryAwayError as error:
        raise AwayError(str(error)) from None
    except HistoryError as error:
        raise UserError(str(error)) from None
    _log.info("history opened", engine=history.engine, place=str(place))
    return KeptHistory(history, PostgresReservation(history), beginning)
