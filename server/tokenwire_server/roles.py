"""What the roles of a server past one machine have in common: how each is, told over HTTP, and how it gets its bus."""

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from aiohttp import web

from tokenwire_server.errors import UserError
from tokenwire_server.gateway.http import Answer, problem
from tokenwire_server.ports import PartState
from tokenwire_server.preflight import bind_socket, tls_context
from tokenwire_server.settings import Settings
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.telemetry.metrics import Kind, Metrics, build_metrics

if TYPE_CHECKING:
    from tokenwire_server.bus.kafka import KafkaBus

__all__ = [
    "HealthAnswers",
    "Part",
    "PartState",
    "RoleAnswers",
    "RoleStatus",
    "build_role_metrics",
    "instance_of",
    "observe_ready",
    "open_bus",
    "serve_health",
]

_log = get_log(__name__)

HTTP_SHUTDOWN_S: Final = 1.0
_MAX_REASON_CHARS: Final = 500


class Part(NamedTuple):
    """Something that the role needs, and how it is."""

    state: PartState
    reason: str = ""
    engine: str = ""
    """What it is, where that is worth telling: ``postgresql 15.18``."""


class RoleStatus:
    """How one role is: ready while all its ``parts`` (``kafka``, ``history`` …) are well and it is not stopping.

    The log tells of each change of a part's state, once.
    """

    def __init__(self, role: str, instance: str, parts: Iterable[str]) -> None:
        self.role: Final = role
        self.instance: Final = instance
        self.is_stopping = False
        self.parts: dict[str, Part] = dict.fromkeys(parts, Part(PartState.STARTING))
        self.details: Callable[[], Mapping[str, object]] = dict
        """Asked at each request to ``/ready`` for what else the role tells of itself."""

    def tell(self, part: str, state: PartState, reason: str = "", engine: str = "") -> None:
        """``part`` is so from now on."""
        before = self.parts[part]
        self.parts[part] = Part(state, reason[:_MAX_REASON_CHARS], engine or before.engine)
        if before.state is not state:
            tell = _log.warning if state is PartState.FAILING else _log.info
            tell(f"{part} {state}", role=self.role, **({"reason": reason} if reason else {}))

    @property
    def trouble(self) -> str | None:
        """Why it is not ready; None when it is."""
        if self.is_stopping:
            return "the process is shutting down"
        bad = ((name, part) for name, part in self.parts.items() if part.state is not PartState.OK)
        return "; ".join(f"{name} {part.state}: {part.reason}".rstrip(": ") for name, part in bad) or None

    def body(self) -> dict[str, object]:
        """What ``/ready`` says."""
        trouble = self.trouble
        body: dict[str, object] = {"ready": trouble is None, "role": self.role, "instance": self.instance}
        if trouble is not None:
            body["reason"] = trouble
        for name, (state, reason, engine) in self.parts.items():
            body[name] = {
                "state": str(state),
                **({"reason": reason} if reason else {}),
                **({"engine": engine} if engine else {}),
            }
        return {**body, **self.details()}


class HealthAnswers(Protocol):
    """The three answers that probes and scrapers ask for."""

    def health(self) -> Answer:
        """The process runs and its event loop turns."""

    def ready(self) -> Answer:
        """Whether it does its work; 503 if not."""

    def metrics(self) -> Answer:
        """All metrics in the Prometheus text format."""


class RoleAnswers:
    """See :class:`HealthAnswers`: of one role."""

    def __init__(self, status: RoleStatus, metrics: Metrics) -> None:
        self._status = status
        self._metrics = metrics

    def health(self) -> Answer:
        """As of :class:`HealthAnswers`."""
        return 200, b"OK", {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}

    def ready(self) -> Answer:
        """As of :class:`HealthAnswers`."""
        body = self._status.body()
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        return 200 if body["ready"] else 503, json.dumps(body).encode(), headers

    def metrics(self) -> Answer:
        """As of :class:`HealthAnswers`."""
        body, content_type = self._metrics.exposition()
        return 200, body, {"content-type": content_type, "cache-control": "no-store"}


def build_role_metrics(status: RoleStatus, otlp_endpoint: str | None) -> Metrics:
    """Metrics with what every role tells. Raises UserError if OTLP is asked for and not installed."""
    metrics = build_metrics(otlp_endpoint=otlp_endpoint, attributes={"service.instance.id": status.instance})
    observe_ready(metrics, lambda: status.trouble is None)
    return metrics


def observe_ready(metrics: Metrics, is_ready: Callable[[], bool]) -> None:
    """Have it measured whether a role does its work."""
    metrics.observe(
        "role_ready",
        description="1 while the role does its work, else 0.",
        kind=Kind.GAUGE,
        read=lambda: [(int(is_ready()), {})],
    )


def instance_of(settings: Settings) -> str:
    """The name of this process among those of its role."""
    return settings.instance or socket.gethostname()


def open_bus(settings: Settings, role: str) -> "KafkaBus":
    """The brokers that the settings name; nothing is asked of them yet.

    Raises:
        UserError: none are named, or the client for them is not installed.
    """
    if settings.kafka_bootstrap_servers is None:
        raise UserError(f"{role} needs the brokers: --kafka HOST:PORT, or KAFKA_BOOTSTRAP_SERVERS")
    try:
        from tokenwire_server.bus.kafka import KafkaBus  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "confluent_kafka":
            raise
        raise UserError(f"{role} needs confluent-kafka; install it: pip install 'tokenwire[kafka]'") from None
    return KafkaBus(settings.kafka_bootstrap_servers, settings.kafka_options, settings.kafka_replication)


@asynccontextmanager
async def serve_health(
    answers: HealthAnswers,
    host: str,
    port: int | None,
    flag: str = "--role-port",
    tls: tuple[Path | None, Path | None] = (None, None),
) -> AsyncIterator[str]:
    """Answer ``/health``, ``/ready`` and ``/metrics`` within the block, which gets the URL; without a port, nothing.
    ``flag`` is what names the port on the command line, ``tls`` certificate and key.

    Raises:
        UserError: the port can't be had, or the certificate not be used.
    """
    if port is None:
        yield ""
        return
    paths: dict[str, Callable[[], Answer]] = {
        "/health": answers.health,
        "/ready": answers.ready,
        "/metrics": answers.metrics,
    }

    async def answer(request: web.Request) -> web.Response:
        light = paths.get(request.path)
        if light is None:
            found = problem(404, f"there is nothing here but {', '.join(paths)}", request.path)
        elif request.method not in ("GET", "HEAD"):
            found = problem(
                405, f"{request.method} is not possible here; use GET", request.path, {"allow": "GET, HEAD"}
            )
        else:
            found = light()
        status, body, headers = found
        return web.Response(status=status, body=body, headers=headers)

    certificate, key = tls
    context = tls_context(certificate, key) if certificate is not None and key is not None else None
    listener = bind_socket(host, port, flag)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=HTTP_SHUTDOWN_S)
    try:
        await runner.setup()
        await web.SockSite(runner, listener, ssl_context=context).start()
        shown = f"[{host}]" if ":" in host else host
        yield f"{'http' if context is None else 'https'}://{shown}:{listener.getsockname()[1]}/"
    finally:
        await runner.cleanup()
        listener.close()
