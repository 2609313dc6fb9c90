"""A minimal ASGI client: one request in, the answer out."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from tokenwire_server.cache.port import CacheStatus
from tokenwire_server.gateway.http import ASGIApp
from tokenwire_server.history.recorder import HistoryStatus
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import FollowStatus, SourceState
from tokenwire_server.validation.wrong_clocks import WrongClocks


@dataclass
class FakeStatus:
    draining: bool = False
    sources: dict[str, SourceState] = field(default_factory=dict)
    follows: FollowStatus | None = None
    wrong_clocks: WrongClocks = field(default_factory=WrongClocks)

    def source_states(self) -> Mapping[str, SourceState]:
        return self.sources

    def follow_status(self) -> FollowStatus | None:
        return self.follows

    def history_status(self) -> HistoryStatus | None:
        return None

    def cache_status(self) -> CacheStatus | None:
        return None


def no_bars() -> Pipeline:
    """A market without a token."""
    return Pipeline(10, lambda: 0, lambda: 0)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: ASGIApp,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: Iterable[bytes] = (),
    client: tuple[str, int] | None = ("127.0.0.1", 1),
) -> Reply:
    sent: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode("latin-1"),
        "root_path": "",
        "query_string": path.partition("?")[2].encode("latin-1"),
        "client": client,
        "server": ("127.0.0.1", 8080),
        "headers": [
            (name.lower().encode(), value.encode()) for name, value in {"host": "h:8080", **(headers or {})}.items()
        ],
    }

    parts = chain(body, (b"",))

    async def receive() -> Any:
        part = next(parts)
        return {"type": "http.request", "body": part, "more_body": part != b""}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *bodies = sent
    assert start["type"] == "http.response.start"
    assert not bodies[-1].get("more_body", False)
    received = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], received, b"".join(message["body"] for message in bodies))
