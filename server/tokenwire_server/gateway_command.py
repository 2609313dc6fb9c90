"""What ``tokenwire-server gateway`` does: it serves clients from the log that processors write."""

import asyncio
import time
from typing import Final

from tokenwire_server.app import Running, announce, serving, until_finished
from tokenwire_server.bus.port import Bus, BusError
from tokenwire_server.cache.service import open_cache
from tokenwire_server.command_progress import stopping
from tokenwire_server.following import FollowedMarket
from tokenwire_server.gateway.http import Answer, Answers
from tokenwire_server.history.service import open_view
from tokenwire_server.ports import PartState
from tokenwire_server.roles import (
    HealthAnswers,
    RoleAnswers,
    RoleStatus,
    build_role_metrics,
    instance_of,
    observe_ready,
    open_bus,
    serve_health,
)
from tokenwire_server.settings import Settings
from tokenwire_server.stream.topics import GATEWAY, Topics, topics_of
from tokenwire_server.telemetry.logs import get_log

__all__ = ["ROLE_PLACE", "serve_log"]

_log = get_log(__name__)

ROLE_PLACE: Final = 2  # of its port in a range of role ports
ANNOUNCE_WITHIN_S: Final = 3.0
FIRST_RETRY_S: Final = 0.25
MAX_RETRY_S: Final = 5.0
_ROLE: Final = "gateway"


async def serve_log(settings: Settings) -> str | None:
    """Serve until Ctrl-C or SIGTERM; why the log could not be followed any further, if that ended it.

    Raises:
        UserError: the brokers are not named, an extra is missing, a port is taken, or as ``app.serving``.
    """
    bus = open_bus(settings, _ROLE)
    try:
        return await _serve(settings, bus)
    finally:
        await bus.close()


async def _serve(settings: Settings, bus: Bus) -> str | None:
    topics = topics_of(settings)
    status = RoleStatus(_ROLE, instance_of(settings), ("kafka",))
    metrics = build_role_metrics(status, None)
    answers = _Answers(RoleAnswers(status, metrics))
    async with serve_health(answers, settings.host, settings.port_of_role(ROLE_PLACE)) as url:
        with stopping() as stop:
            _log.info("waiting for Kafka", ready=f"{url}ready")
            lineage = await _lineage(bus, topics, status, stop)
        metrics.shutdown()
        if lineage is None:
            return None
        view = await open_view(settings)
        feed = FollowedMarket(settings, topics, bus, lineage, view)
        try:
            async with (
                open_cache(settings) as cache,
                serving(settings, feed, cache, handle_signals=True) as started,
            ):
                served = Answers(started.pipeline, started.metrics.exposition)
                observe_ready(started.metrics, lambda: served.trouble() is None)
                answers.now = served
                await _known(started)
                announce(settings, started)
                await until_finished(started)
        finally:
            if view is not None:
                await view.close()
        return feed.failure


async def _known(started: Running) -> None:
    """Return when there are tokens to tell of, or soon."""
    until_s = time.monotonic() + ANNOUNCE_WITHIN_S
    while not len(started.pipeline.market) and time.monotonic() < until_s and not started.server.should_exit:
        await asyncio.sleep(FIRST_RETRY_S)


class _Answers:
    """Those of the role until it serves; then those of the server."""

    def __init__(self, now: HealthAnswers) -> None:
        self.now = now

    def health(self) -> Answer:
        return self.now.health()

    def ready(self) -> Answer:
        return self.now.ready()

    def metrics(self) -> Answer:
        return self.now.metrics()


async def _lineage(bus: Bus, topics: Topics, status: RoleStatus, stop: asyncio.Event) -> str | None:
    """Which log it is, as soon as the brokers say so; None if that is not waited for any longer."""
    retry_s = FIRST_RETRY_S
    while not stop.is_set():
        try:
            await bus.ensure(topics.specs(GATEWAY))
            lineage = await bus.lineage(topics.log)
        except BusError as error:
            status.tell("kafka", PartState.FAILING, str(error))
        else:
            status.tell("kafka", PartState.OK)
            return None if stop.is_set() else lineage
        try:
            async with asyncio.timeout(retry_s):
                await stop.wait()
        except TimeoutError:
            retry_s = min(2 * retry_s, MAX_RETRY_S)
    return None
