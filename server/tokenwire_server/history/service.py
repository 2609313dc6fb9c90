"""The history of a data directory, as a server opens and closes it."""

import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tokenwire_server.errors import UserError
from tokenwire_server.history.lock import DirectoryLock
from tokenwire_server.history.pages import HistoryPages
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.recorder import Recorder
from tokenwire_server.history.reservation import Reservation
from tokenwire_server.history.restore import restore
from tokenwire_server.history.sqlite import SqliteHistory
from tokenwire_server.market.market import Market
from tokenwire_server.market.records import Beginning
from tokenwire_server.market.retention import Retention

__all__ = ["DataDirectory"]

_STREAM_BYTES: Final = 9


class DataDirectory:
    """A data directory that this process alone writes. Made by :meth:`open`; then :meth:`attach` once, and
    :meth:`close`."""

    def __init__(
        self, lock: DirectoryLock, history: SqliteHistory, reservation: Reservation, beginning: Beginning
    ) -> None:
        self.history = history
        self.beginning = beginning
        self._lock = lock
        self._reservation = reservation
        self._recorder: Recorder | None = None

    @classmethod
    async def open(cls, folder: Path, retention: Retention | None = None) -> "DataDirectory":
        """Open the history in ``folder``, which is made if there is none, and begin to go on from it.

        Raises:
            UserError: another process holds it, it can't be written, or what is in it can't be used.
        """
        lock = DirectoryLock(folder)
        reservation: Reservation | None = None
        history: SqliteHistory | None = None
        try:
            reservation = Reservation(folder)
            history = await SqliteHistory.open(folder, retention)
            beginning = await history.begin(reservation.upto, secrets.token_urlsafe(_STREAM_BYTES))
            return cls(lock, history, reservation, beginning)
        except (HistoryError, OSError) as error:
            if history is not None:
                await history.close()
            if reservation is not None:
                reservation.close()
            lock.release()
            raise UserError(str(error)) from None

    async def attach(self, market: Market, sources: Collection[str]) -> tuple[Recorder, HistoryPages]:
        """Restore ``market``, which is empty, and begin to store what is told to the recorder's builder. Tokens of
        sources that are not among ``sources`` belong to the first one that brings them.

        Raises:
            UserError: the history can't be read, or holds more tokens than there is room for.
        """
        try:
            await restore(market, self.history, self.beginning.floor, sources)
            recorder = Recorder(market, self.history, self._reservation)
            recorder.start(self.beginning.numbered)
        except (HistoryError, OSError) as error:
            raise UserError(str(error)) from None
        self._recorder = recorder
        return recorder, HistoryPages(self.history, recorder)

    async def close(self) -> None:
        """Store what is left, and let another process have the directory."""
        if self._recorder is not None:
            await self._recorder.close()
        await self.history.close()
        self._reservation.close()
        self._lock.release()
