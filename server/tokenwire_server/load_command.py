"""What ``tokenwire-server load`` does: the processors' log and bars from Kafka into PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from tokenwire_server.command_progress import stopping
from tokenwire_server.errors import UserError
from tokenwire_server.history.port import History
from tokenwire_server.history.service import require_asyncpg
from tokenwire_server.roles import RoleAnswers, RoleStatus, build_role_metrics, instance_of, open_bus, serve_health
from tokenwire_server.settings import Settings
from tokenwire_server.stream.loader import Loader
from tokenwire_server.stream.topics import topics_of
from tokenwire_server.tasks import end
from tokenwire_server.telemetry.metrics import Kind, Metrics

__all__ = ["ROLE_PLACE", "load_log"]

ROLE_PLACE: Final = 3  # of its port in a range of role ports
_ROLE: Final = "load"


async def load_log(
    settings: Settings, *, accepts_gaps: bool = False, announce: Callable[[str], None] = lambda _: None
) -> dict[str, int]:
    """Load until Ctrl-C or SIGTERM; how many rows of each kind were stored. ``announce`` is told the URL of the role
    port.

    Raises:
        UserError: the brokers or the database are not named, an extra is missing, the role port is taken, or as
            :meth:`Loader.run`.
    """
    bus = open_bus(settings, _ROLE)
    try:
        status = RoleStatus(_ROLE, instance_of(settings), ("kafka", "history"))
        loader = Loader(bus, topics_of(settings), _opener(settings), status.tell, accepts_gaps=accepts_gaps)
        status.details = lambda: {"lag": sum(loader.lags().values())}
        metrics = build_role_metrics(status, settings.otlp_endpoint)
        _observe(metrics, loader)
        try:
            with stopping() as stop:
                port = settings.port_of_role(ROLE_PLACE)
                async with serve_health(RoleAnswers(status, metrics), settings.host, port) as url:
                    announce(url)
                    await _until(stop, status, loader)
        finally:
            metrics.shutdown()
    finally:
        await bus.close()
    return loader.rows


async def _until(stop: asyncio.Event, status: RoleStatus, loader: Loader) -> None:
    loading = asyncio.create_task(loader.run(), name=_ROLE)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        status.is_stopping = True
        loader.close()
        await loading
    finally:
        await end(loading, stopped)


def _opener(settings: Settings) -> Callable[[], Awaitable[History]]:
    if settings.timescale_host is None:
        raise UserError("load needs a database to store in: TIMESCALE_HOST")
    require_asyncpg()
    from tokenwire_server.history.postgres import PostgresHistory  # noqa: PLC0415 - an extra
    from tokenwire_server.history.postgres_place import place_of  # noqa: PLC0415

    place = place_of(settings)
    # It commits every few seconds, so that another one may take it for dead that does not.
    return lambda: PostgresHistory.open(place, settings.retention, replaces_silent=True)


def _observe(metrics: Metrics, loader: Loader) -> None:
    metrics.observe(
        "loader_records",
        description="Records read, by topic.",
        kind=Kind.COUNTER,
        read=lambda: [(count, {"topic": topic}) for topic, count in loader.records.items()],
    )
    metrics.observe(
        "loader_rows",
        description="Rows stored, by kind; a bar or token that changed is stored again.",
        kind=Kind.COUNTER,
        read=lambda: [(count, {"kind": kind}) for kind, count in loader.rows.items()],
    )
    metrics.observe(
        "loader_batches",
        description="Transactions in which rows, and how far the log was read, were stored.",
        kind=Kind.COUNTER,
        read=lambda: [(loader.batches, {})],
    )
    metrics.observe(
        "loader_commit_failures",
        description="Transactions that failed; they are tried again.",
        kind=Kind.COUNTER,
        read=lambda: [(loader.failures, {})],
    )
    metrics.observe(
        "loader_missing_records",
        description="Records that the log has lost before they were stored, passed over with --accept-gap.",
        kind=Kind.COUNTER,
        read=lambda: [(loader.missing, {})],
    )
    metrics.observe(
        "loader_lag_records",
        description="Offsets that are not stored yet, by topic and partition; marks of transactions among them.",
        kind=Kind.GAUGE,
        read=lambda: [
            (lag, {"topic": place.topic, "partition": str(place.partition)}) for place, lag in loader.lags().items()
        ],
    )
