"""The plain-HTTP side: probes, the endpoint without an upgrade, the index, errors."""

import asyncio
import base64
import hashlib
import re
import subprocess
import sys
import threading
from typing import Any

import pytest

from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.ports import SourceState
from tokenwire_server.settings import Settings

from .asgi import FakeStatus, Reply, ask, no_bars

ENDPOINT = "/api/v1/ws/token-data"
LIGHT = ("/health", "/ready", "/metrics", "/")


@pytest.fixture
def status() -> FakeStatus:
    return FakeStatus()


@pytest.fixture
def app(status: FakeStatus) -> HttpApp:
    return build_http_app(status, lambda: (b"x 1\n", "text/plain; version=0.0.4"), Settings(), no_bars())


async def test_health_is_exactly_ok(app: HttpApp) -> None:
    reply = await ask(app, "/health")
    assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"OK", "2")
    assert reply.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("draining", "sources", "code", "reason"),
    [
        (False, {}, 200, None),
        (False, {"simulator": SourceState.LIVE}, 200, None),
        (False, {"tape": SourceState.ENDED}, 200, None),
        (False, {"a": SourceState.FAILED, "b": SourceState.LIVE}, 200, None),
        (False, {"a": SourceState.STARTING}, 503, "no source delivers"),
        (False, {"a": SourceState.RECONNECTING, "b": SourceState.FAILED}, 503, "no source delivers"),
        (True, {"simulator": SourceState.LIVE}, 503, "draining: the server is shutting down"),
        (True, {}, 503, "draining: the server is shutting down"),
    ],
)
async def test_ready(
    app: HttpApp,
    status: FakeStatus,
    draining: bool,
    sources: dict[str, SourceState],
    code: int,
    reason: str | None,
) -> None:
    status.draining, status.sources = draining, sources
    reply = await ask(app, "/ready")
    expected: dict[str, Any] = {"ready": code == 200, "sources": dict(sources)}
    assert (reply.status, reply.json) == (code, expected if reason is None else {**expected, "reason": reason})


async def test_metrics(app: HttpApp) -> None:
    reply = await ask(app, "/metrics")
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"x 1\n", "text/plain; version=0.0.4")


async def test_the_endpoint_without_an_upgrade(app: HttpApp) -> None:
    reply = await ask(app, ENDPOINT)
    assert (reply.status, reply.headers["upgrade"]) == (426, "websocket")
    assert "wscat" in reply.json["detail"]


def problem(reply: Reply, status: int) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.status == reply.json["status"] == status
    assert reply.json.keys() == {"type", "title", "status", "detail", "instance"}
    return dict(reply.json)


@pytest.mark.parametrize("path", ["/nothing", "/api/nothing", "/health/", "/docs/x", "/%2e", "/\u00e9"])
async def test_an_unknown_path_is_a_problem(app: HttpApp, path: str) -> None:
    assert problem(await ask(app, path), 404)["instance"] == path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
@pytest.mark.parametrize("path", [*LIGHT, ENDPOINT, "/api/v1/errors", "/openapi.json"])
async def test_another_method_is_a_problem(app: HttpApp, path: str, method: str) -> None:
    reply = await ask(app, path, method)
    problem(reply, 405)
    assert "GET" in reply.headers["allow"]


@pytest.mark.parametrize("path", [*LIGHT, ENDPOINT, "/api/v1/errors", "/openapi.json", "/docs", "/nothing"])
async def test_head_is_get_without_the_body(app: HttpApp, path: str) -> None:
    get, head = await ask(app, path), await ask(app, path, "HEAD")
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.body))
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_the_index_is_a_list_for_tools_and_a_page_for_browsers(app: HttpApp) -> None:
    listed = await ask(app, "/", headers={"accept": "*/*"})
    page = await ask(app, "/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert ENDPOINT in listed.json["endpoints"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert all(token in page.body.decode() for token in ("PEPE", "DOGE", "SHIB", "FLOKI", ENDPOINT))
    assert listed.headers["vary"] == page.headers["vary"] == "accept"


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_loads_nothing_from_elsewhere_and_its_policy_allows_its_own_code(app: HttpApp, path: str) -> None:
    page = await ask(app, path, headers={"accept": "text/html"})
    text, policy = page.body.decode(), page.headers["content-security-policy"]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert not re.search(r"\son\w+=", text)
    assert not re.search(r"\sstyle=|innerHTML|eval\(", text)
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_probes_do_not_import_the_described_api() -> None:
    probe = f"""
import asyncio, sys
from asgi import FakeStatus, ask, no_bars
from tokenwire_server.gateway.http import build_http_app
from tokenwire_server.settings import Settings
async def main():
    app = build_http_app(FakeStatus(), lambda: (b"", "text/plain"), Settings(), no_bars())
    for path in {(*LIGHT, ENDPOINT, "/wp-login.php")!r}:
        await ask(app, path)
    assert "fastapi" not in sys.modules and "starlette" not in sys.modules
    await ask(app, "/api/v1/errors")
    assert "fastapi" in sys.modules
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={"PYTHONPATH": __file__.rpartition("/")[0], "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_the_described_api_is_built_once_and_leaves_no_thread(app: HttpApp) -> None:
    before = threading.active_count()
    replies = await asyncio.gather(*(ask(app, "/api/v1/errors") for _ in range(5)))
    assert {reply.status for reply in replies} == {200}
    assert threading.active_count() == before


async def test_lifespan_is_answered(app: HttpApp) -> None:
    incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[str] = []

    async def receive() -> Any:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        (None, ["websocket.close"]),
        ({"websocket.http.response": {}}, ["websocket.http.response.start", "websocket.http.response.body"]),
    ],
)
async def test_a_websocket_elsewhere_is_refused(app: HttpApp, extensions: Any, expected: list[str]) -> None:
    sent: list[str] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "websocket", "path": "/x", "extensions": extensions}, receive, send)
    assert sent == expected
