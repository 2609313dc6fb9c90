"""Engines of the run's own, every role as a process, and HAProxy in front of the gateways."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from server.tests.services.engine import Engine
from server.tests.services.haproxy import Gateway, HAProxy, balancing
from server.tests.services.kafka import Kafka
from server.tests.services.ports import free_port
from server.tests.services.postgres import Postgres
from server.tests.services.redis import Redis
from server.tests.services.share import private

from loadtests.distributed.roles import RoleProcess
from loadtests.engines import DATABASE, kafka_settings, postgres_settings

__all__ = ["DATABASE", "SCHEMA", "Cluster", "lacking"]

SCHEMA: Final = "proof"
PARTITIONS: Final = 4
PROCESSORS: Final = 2
GATEWAYS: Final = 2
_ENGINES: Final[tuple[type[Engine], ...]] = (Kafka, Postgres, Redis, HAProxy)


def lacking() -> str:
    """What to install before the proof can run here; empty when nothing is missing."""
    return "; ".join(f"{kind.name}: {text}" for kind in _ENGINES if (text := kind.lacking()))


class Cluster:
    """Everything that takes part, as a context manager: at its end nothing of it is left but logs in ``folder``.

    ``tapes``: each is played by a collector of its own. Processes are not started yet.
    """

    def __init__(self, folder: Path, tapes: Sequence[Path], *, drain_s: float = 2.0) -> None:
        self.roles: dict[str, RoleProcess] = {}
        self._folder = folder
        self._tapes = tapes
        self._drain_s = drain_s
        self._stack = ExitStack()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._launch)
        except BaseException:
            self._stack.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(role.kill() for role in self.roles.values()))
        await asyncio.to_thread(self._stack.close)

    @property
    def address(self) -> str:
        """Where clients connect: ``host:port``."""
        return self.balancer.address

    def engine(self, name: str) -> Engine:
        """The engine of this name."""
        return self.engines[name]

    def gateways_url(self) -> list[str]:
        """Each gateway's own address, past the balancer."""
        return [f"127.0.0.1:{gateway.port}" for gateway in self._gateways]

    def of(self, role: str) -> list[RoleProcess]:
        """The processes of a role."""
        return [each for each in self.roles.values() if each.role == role]

    def _launch(self) -> None:
        enter = self._stack.enter_context
        self.kafka, self.postgres, self.redis = enter(private(Kafka)), enter(private(Postgres)), enter(private(Redis))
        self.engines: dict[str, Engine] = {each.name: each for each in (self.kafka, self.postgres, self.redis)}
        self._gateways = [Gateway(free_port(), free_port()) for _ in range(GATEWAYS)]
        self.balancer = enter(balancing(self._gateways))
        shared = self._environment()
        for number, tape in enumerate(self._tapes, 1):
            self._add(f"collector-{number}", "collect", ["--source", f"tape:{tape}"], shared)
        for number in range(1, PROCESSORS + 1):
            self._add(f"processor-{number}", "process", [], shared)
        for number, gateway in enumerate(self._gateways, 1):
            environment = {**shared, "TOKENWIRE_PORT": str(gateway.port)}
            self._add(f"gateway-{number}", "gateway", [], environment, gateway.ready_port)
        self._add("loader-1", "load", [], shared)

    def _add(
        self, name: str, role: str, words: Sequence[str], environment: dict[str, str], role_port: int | None = None
    ) -> None:
        own = {**environment, "TOKENWIRE_INSTANCE": name}
        self.roles[name] = RoleProcess(name, role, words, own, self._folder, role_port=role_port)

    def _environment(self) -> dict[str, str]:
        return {
            **kafka_settings(self.kafka),
            **postgres_settings(self.postgres),
            "TOKENWIRE_KAFKA_PARTITIONS": str(PARTITIONS),
            "TOKENWIRE_TIMESCALE_SCHEMA": SCHEMA,
            "REDIS_URL": self.redis.url(),
            # All clients of the proof are one address.
            "TOKENWIRE_REST_RATE_LIMIT": "0",
            "TOKENWIRE_DRAIN_S": str(self._drain_s),
            "TOKENWIRE_UPDATE_INTERVAL_S": "1",
            "TOKENWIRE_RETENTION_TRADES": "forever",
        }
