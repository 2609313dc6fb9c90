"""The one connection that writes a PostgreSQL history: its lock, its epoch, its transactions.

Who writes holds an advisory lock for as long as the connection lives, and every transaction looks at the epoch that
was written when the process took over. So a process that lost its connection and was replaced can't commit any more,
whatever it still believes.

A process that is stopped or hangs keeps its connection, and with it the lock. Whoever promises to say something every
few seconds (``replaces_silent``) may be replaced by another that promises it too, once it has said nothing for longer.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from tokenwire_server.history.port import HistoryTakenError
from tokenwire_server.history.postgres_place import (
    FAILURES,
    STATEMENT_TIMEOUT_S,
    PostgresPlace,
    connect,
    explained,
)
from tokenwire_server.history.postgres_schema import STAGED, engine_of, migrate

__all__ = ["PostgresWriter"]

LOCK_CLASS: Final = 0x746F6B77  # "tokw": advisory locks of this program
TAKE_OVER_S: Final = 3.0  # within which the end of whoever wrote before is noticed by the database
MAX_SILENCE_S: Final = 15.0  # of a process that says something every few seconds
_ASK_AGAIN_S: Final = 0.05
_FOLLOWER: Final = "follower"
# A living process gives up a statement that takes too long by itself.
_END_SILENT: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'"
    " AND granted AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid::bigint = $1 AND objid::bigint = hashtext($2)::bigint & 4294967295"
    " AND application_name LIKE $3 || ' %' AND clock_timestamp() - state_change"
    " > CASE state WHEN 'active' THEN $5::float8 ELSE $4::float8 END * interval '1 second'"
)

T = TypeVar("T")


class PostgresWriter:
    """Made by :meth:`open`. It is connected again by whoever needs it, at most one at a time."""

    def __init__(self, place: PostgresPlace, *, replaces_silent: bool = False) -> None:
        self.epoch = 0
        self.engine = ""
        self.ids: dict[str, int] = {}  # of every stored token, by address
        self._place = place
        self._replaces_silent = replaces_silent
        self._connection: Any = None
        self._backend: tuple[int, str] | None = None  # what the database calls our newest connection
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, place: PostgresPlace, *, replaces_silent: bool = False) -> "PostgresWriter":
        """Take over the writing, with the tables as they are to be.

        Raises:
            HistoryTakenError: another process writes (the message says which).
            HistoryError: the database can't be reached or used.
        """
        writer = cls(place, replaces_silent=replaces_silent)
        try:
            writer._connection = await writer._connected()
        except FAILURES as error:
            raise explained(place, error) from None
        return writer

    async def transact(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do ``work`` in one transaction, with the others after each other.

        Raises:
            HistoryTakenError: another process writes by now.
            HistoryError: it failed, or it is not known whether it was committed.
        """
        async with self._turn:
            try:
                connection = self._connection = await self._connected()
                await connection.execute("BEGIN")
                # Whoever takes over waits here for what is under way, and we for whoever takes over.
                epoch = await connection.fetchval("SELECT epoch FROM writer FOR UPDATE")
                if epoch != self.epoch:
                    raise await self._replaced(connection)
                result = await work(connection)
                await connection.execute("COMMIT")
                return result
            except BaseException as error:
                # Its end is the end of the transaction, if that was not committed; the next one looks what is stored.
                if self._connection is not None:
                    self._connection.terminate()
                if isinstance(error, FAILURES):
                    raise explained(self._place, error) from None
                raise

    async def close(self) -> None:
        """Let another process write."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                return
            try:
                await self._connection.close(timeout=TAKE_OVER_S)
            except FAILURES:
                self._connection.terminate()

    async def _connected(self) -> Any:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        connection = await connect(self._place, _FOLLOWER if self._replaces_silent else "writer")
        try:
            await self._lock(connection)
            if self.epoch == 0:
                await migrate(connection, self._place)
                self.engine = await engine_of(connection)
                self.epoch = await connection.fetchval(
                    "UPDATE writer SET epoch = epoch + 1, holder = $1, since = now() RETURNING epoch",
                    f"process {os.getpid()} on {socket.gethostname()}",
                )
            # What is promised to survive must not depend on how the database happens to be set up.
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
            await connection.execute(STAGED)
            self.ids = dict(await connection.fetch("SELECT address, id FROM tokens"))
            self._backend = await connection.fetchrow(
                "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _lock(self, connection: Any) -> None:
        if self._backend is not None:  # our former one may not know yet that we are gone
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2",
                *self._backend,
            )
        until_s = asyncio.get_running_loop().time() + TAKE_OVER_S
        while not await connection.fetchval(
            "SELECT pg_try_advisory_lock($1, hashtext($2))", LOCK_CLASS, self._place.schema
        ):
            if self._replaces_silent:
                silence_s = (MAX_SILENCE_S, MAX_SILENCE_S + STATEMENT_TIMEOUT_S)
                await connection.execute(
                    _END_SILENT, LOCK_CLASS, self._place.schema, f"tokenwire {_FOLLOWER}", *silence_s
                )
            if asyncio.get_running_loop().time() > until_s:
                raise HistoryTakenError(
                    f"the history in {self._place} is in use by {await _holder(connection)}; stop it, or name another "
                    "schema with TIMESCALE_SCHEMA"
                )
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _replaced(self, connection: Any) -> HistoryTakenError:
        holder = await _holder(connection)
        return HistoryTakenError(
            f"the history in {self._place} was taken over by {holder} while this process was cut off from it; restart "
            "this one if it is to write"
        )


async def _holder(connection: Any) -> str:
    """Who writes, as far as it said so."""
    if await connection.fetchval("SELECT to_regclass('writer')") is None:
        return "another process"
    return str(await connection.fetchval("SELECT holder || ', since ' || since::text FROM writer"))
