"""Where a PostgreSQL or TimescaleDB database is, how it is reached, and what its errors mean to whoever runs it."""

import asyncio
import os
import socket
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from tokenwire_server.history.port import HistoryAwayError
from tokenwire_server.settings import Settings

__all__ = ["FAILURES", "PostgresPlace", "arguments_of", "connect", "explained", "place_of", "prepare"]

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 20.0
LOCK_TIMEOUT_S: Final = 10.0
IDLE_TRANSACTION_S: Final = 30.0  # a writer that stopped in mid-transaction: another may take over after this
KEEPALIVE_IDLE_S: Final = 10  # a client whose machine is gone is noticed by the server after some 25 s
KEEPALIVE_INTERVAL_S: Final = 5
KEEPALIVE_COUNT: Final = 3
_MAX_REASON_CHARS: Final = 200
_EPOCH_2000_MS: Final = 946_684_800_000  # from which PostgreSQL counts

FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What may go wrong between here and the database; a time-out is an OSError."""


@dataclass(frozen=True, kw_only=True)
class PostgresPlace:
    """A schema of a database. ``host`` may be a folder, that of a local server's socket."""

    host: str
    port: int = 5432
    database: str = "tokenwire"
    user: str = "tokenwire"
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    schema: str = "tokenwire"

    def __str__(self) -> str:
        """For messages: nothing secret."""
        return f"{self.user}@{self.host}:{self.port}/{self.database} (schema {self.schema})"


def place_of(settings: Settings) -> PostgresPlace:
    """What the settings name; ``timescale_host`` is set."""
    assert settings.timescale_host is not None
    password = settings.timescale_password
    return PostgresPlace(
        host=settings.timescale_host,
        port=settings.timescale_port,
        database=settings.timescale_db,
        user=settings.timescale_user,
        password=None if password is None else password.get_secret_value(),
        sslmode=settings.timescale_sslmode,
        schema=settings.timescale_schema,
    )


def settings_of(place: PostgresPlace, *, writes: bool, name: str = "") -> dict[str, str]:
    """What a connection has set for its whole life."""
    called = name or ("writer" if writes else "reader")
    return {
        "application_name": f"tokenwire {called} {socket.gethostname()}:{os.getpid()}"[:63],
        "search_path": f'"{place.schema}"',
        "statement_timeout": f"{STATEMENT_TIMEOUT_S:.0f}s",
        "lock_timeout": f"{LOCK_TIMEOUT_S:.0f}s",
        "idle_in_transaction_session_timeout": f"{IDLE_TRANSACTION_S:.0f}s",
        "default_transaction_read_only": "off" if writes else "on",
        "tcp_keepalives_idle": str(KEEPALIVE_IDLE_S),
        "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_S),
        "tcp_keepalives_count": str(KEEPALIVE_COUNT),
    }


def arguments_of(place: PostgresPlace, *, writes: bool, name: str = "") -> dict[str, Any]:
    """What asyncpg is given; time-outs in seconds. ``name`` is what the connection is called in the database."""
    return {
        "host": place.host,
        "port": place.port,
        "database": place.database,
        "user": place.user,
        "password": place.password,
        "ssl": "disable" if place.host.startswith("/") else place.sslmode,
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": STATEMENT_TIMEOUT_S + 1,  # the server's own is to come first
        "server_settings": settings_of(place, writes=writes, name=name),
    }


async def connect(place: PostgresPlace, name: str = "writer") -> Any:
    """A connection that writes, called so in the database. Raises one of ``FAILURES``."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        connection = await asyncpg.connect(**arguments_of(place, writes=True, name=name))
        try:
            await prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection


async def prepare(connection: Any) -> None:
    """Have times be Unix ms here and ``timestamptz`` there, exactly."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda ms: ((ms - _EPOCH_2000_MS) * 1_000,),
        decoder=lambda value: value[0] // 1_000 + _EPOCH_2000_MS,
    )


def explained(place: PostgresPlace, error: BaseException) -> HistoryAwayError:
    """What is wrong, and what to do about it, in one line."""
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        text = "it does not answer in time"
    elif isinstance(error, OSError) and error.strerror and "Multiple exceptions" not in error.strerror:
        text = error.strerror
    return HistoryAwayError(
        f"the history in {place} can't be used: {' '.join(text.split())[:_MAX_REASON_CHARS]}; {_advice(error)}"
    )


def _advice(error: BaseException) -> str:
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):  # a wrong password is one
        return "check TIMESCALE_USER and TIMESCALE_PASSWORD"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "create the database, or name another with TIMESCALE_DB"
    # Without USAGE a schema is as if it were not there.
    if isinstance(
        error, asyncpg.InsufficientPrivilegeError | asyncpg.InvalidSchemaNameError | asyncpg.UndefinedTableError
    ):
        return "grant the user of TIMESCALE_USER what deploy/README.md lists (or check TIMESCALE_SCHEMA)"
    if isinstance(error, asyncpg.DiskFullError):
        return "free some space"
    if isinstance(error, asyncpg.CannotConnectNowError | asyncpg.PostgresConnectionError | asyncpg.AdminShutdownError):
        return "see whether the database is starting or ending"
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return "raise max_connections of the database, or the CONNECTION LIMIT of the user"
    if isinstance(error, asyncpg.PostgresError):
        return "see the database's log"
    if isinstance(error, OSError):
        return "check TIMESCALE_HOST, TIMESCALE_PORT, TIMESCALE_SSLMODE, and whether the database runs"
    return "check the database"
