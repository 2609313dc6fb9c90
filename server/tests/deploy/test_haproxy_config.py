"""The configuration of HAProxy, read by HAProxy itself and with gateways that answer as they are told."""

import os
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha1
from pathlib import Path

import pytest

from tokenwire_schemas import limits
from tokenwire_server.gateway.socketio_face import PING_INTERVAL_S

from ..services.fixtures import Balance
from ..services.haproxy import CONFIG, MAX_GATEWAYS, Gateway, HAProxy, find
from ..services.ports import free_port
from .gateways import ScriptedGateway, scripted

TEXT = CONFIG.read_text("utf-8")
_MAX_WAITING_BYTES = 1_048_576
_LOGS_S = 30
_QUIET_S = 2
"""Seconds in which nothing more is taken, so that all buffers are full."""
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


def timeout_ms(name: str) -> int:
    found = re.search(rf"^ *timeout {name} (\d+)(ms|s|m|h)$", TEXT, re.MULTILINE)
    assert found is not None, name
    return int(found[1]) * _UNITS_MS[found[2]]


def request(
    balancer: HAProxy, method: str = "GET", path: str = "/", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    asked = urllib.request.Request(
        f"http://{balancer.address}{path}", method=method, headers=dict(headers or {}),
        data=b"{}" if method == "POST" else None,
    )  # fmt: skip
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture
def one() -> Iterator[ScriptedGateway]:
    with scripted() as gateway:
        yield gateway


def test_a_tunnel_outlasts_the_pings_of_every_kind_of_connection() -> None:
    pings_ms = (limits.HEARTBEAT_INTERVAL_MS, limits.IDLE_TIMEOUT_MS, PING_INTERVAL_S * 1_000)
    # Two may be lost, and a third come late.
    assert timeout_ms("tunnel") >= 3 * max(pings_ms)
    assert timeout_ms("client-fin") > limits.CLOSE_TIMEOUT_MS
    assert timeout_ms("server-fin") > limits.CLOSE_TIMEOUT_MS
    assert timeout_ms("http-request") >= limits.CONNECTION_TIMEOUT_MS


def test_there_are_as_many_places_as_the_tests_know() -> None:
    assert len(re.findall(r"^    server gateway-\d+ ", TEXT, re.MULTILINE)) == MAX_GATEWAYS


def check(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")}
    return subprocess.run(
        [find(), "-c", "-f", str(CONFIG)], env={**kept, **environment}, capture_output=True, text=True, check=False
    )


def test_haproxy_finds_nothing_to_say_about_it(balance: Balance, certificate: Path) -> None:
    places = {f"TOKENWIRE_GATEWAY_{number}": f"127.0.0.1:{9000 + number}" for number in range(1, MAX_GATEWAYS + 1)}
    limit = {"TOKENWIRE_MAX_CLIENTS": "1000"}
    for environment in (places, {"TOKENWIRE_GATEWAY_1": "[::1]:8080", "TOKENWIRE_TLS_CERT": str(certificate)}):
        done = check({**environment, **limit})
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr, done.stderr


def test_without_a_gateway_it_does_not_start(balance: Balance) -> None:
    done = check({})
    assert done.returncode != 0
    assert "'server' expects" in done.stderr


def test_a_gateway_that_is_not_ready_gets_nobody(balance: Balance, one: ScriptedGateway) -> None:
    with scripted(ready=False) as behind:
        balancer = balance([one.place, behind.place])
        balancer.wait_for("gateway-1")
        assert {request(balancer)[0] for _ in range(10)} == {200}
        assert (len(one.asked), len(behind.asked)) == (10, 0)
        behind.ready = True
        balancer.wait_for("gateway-1", "gateway-2")
        one.ready = False
        balancer.wait_for("gateway-2")
        assert request(balancer)[0] == 200
        assert len(behind.asked) == 1


def test_it_says_whether_anybody_takes_clients(balance: Balance, one: ScriptedGateway) -> None:
    balancer = balance([one.place])
    balancer.wait_for("gateway-1")
    assert request(balancer, path="/balancer")[0] == 200
    one.ready = False
    balancer.wait_for()
    assert request(balancer, path="/balancer")[0] == 503
    assert request(balancer)[0] == 503
    assert not one.asked


@pytest.mark.parametrize("status", [503, 0], ids=["says 503", "says nothing"])
def test_a_get_is_asked_again_of_another_gateway(balance: Balance, status: int, one: ScriptedGateway) -> None:
    with scripted(status) as failing:
        balancer = balance([failing.place, one.place])
        balancer.wait_for("gateway-1", "gateway-2")
        assert {request(balancer)[0] for _ in range(6)} == {200}
        assert failing.asked, "it was its turn at least once"


@pytest.mark.parametrize(("status", "told"), [(503, 503), (0, 502)], ids=["says 503", "says nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_else_is_sent_twice(balance: Balance, method: str, status: int, told: int) -> None:
    with scripted(status) as one, scripted(status) as other:
        balancer = balance([one.place, other.place])
        balancer.wait_for("gateway-1", "gateway-2")
        assert request(balancer, method, "/api/v1/trades")[0] == told
        assert len(one.asked) + len(other.asked) == 1


def test_a_post_goes_to_another_gateway_when_the_first_takes_no_connection(
    balance: Balance, one: ScriptedGateway
) -> None:
    # Its checks are answered elsewhere, so that only a client finds out.
    gone = Gateway(port=free_port(), ready_port=one.port)
    balancer = balance([gone, one.place])
    balancer.wait_for("gateway-1", "gateway-2")
    assert {request(balancer, "POST")[0] for _ in range(4)} == {200}
    assert len(one.asked) == 4


def test_a_gateway_hears_who_asks_and_how(balance: Balance, one: ScriptedGateway) -> None:
    balancer = balance([one.place])
    balancer.wait_for("gateway-1")
    lies = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    assert request(balancer, headers=lies)[0] == 200
    (_, _, headers) = one.asked[0]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"


def test_tls_ends_at_the_balancer(balance: Balance, one: ScriptedGateway, certificate: Path) -> None:
    balancer = balance([one.place], {"TOKENWIRE_TLS_CERT": str(certificate)})
    balancer.wait_for("gateway-1")
    trusting = ssl.create_default_context(cafile=certificate)
    with urllib.request.urlopen(f"https://{balancer.address}/", timeout=30, context=trusting) as answer:
        assert answer.status == 200
    assert one.asked[0][2]["x-forwarded-proto"] == "https"


@pytest.mark.parametrize("path", ["/metrics", "/%6detrics", "/metrics?all"])
def test_metrics_are_not_for_clients(balance: Balance, one: ScriptedGateway, path: str) -> None:
    balancer = balance([one.place])
    balancer.wait_for("gateway-1")
    assert request(balancer, path=path)[0] == 404
    assert not one.asked


def test_the_log_does_not_have_the_secrets_of_a_query(balance: Balance, one: ScriptedGateway) -> None:
    balancer = balance([one.place])
    balancer.wait_for("gateway-1")
    assert request(balancer, path="/api/v1/ws/token-data?session=hidden&caps=resume")[0] == 200
    until_s = time.monotonic() + _LOGS_S
    while "/api/v1/ws/token-data" not in balancer.log.read_text():
        assert time.monotonic() < until_s, "it was not logged"
        time.sleep(0.05)
    balancer.end()
    assert "hidden" not in balancer.log.read_text()


def test_little_waits_for_a_client_that_does_not_read(balance: Balance, one: ScriptedGateway) -> None:
    chunk = b"x" * 16_384
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        balancer = balance([Gateway(listener.getsockname()[1], one.port)])
        balancer.wait_for("gateway-1")
        with socket.create_connection(("127.0.0.1", balancer.port), timeout=30) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = "GET /ws/DOGE HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            client.sendall(f"{head}sec-websocket-version: 13\r\nsec-websocket-key: {'A' * 22}==\r\n\r\n".encode())
            gateway, _ = listener.accept()
            with gateway:
                gateway.settimeout(_QUIET_S)
                gateway.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.NOTSENT_LOWAT_BYTES)
                key = re.search(rb"(?i)sec-websocket-key: (\S+)", gateway.recv(65_536))
                assert key is not None
                accept = b64encode(sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
                head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                gateway.sendall(f"{head}sec-websocket-accept: {accept.decode()}\r\n\r\n".encode())
                waiting = 0
                with suppress(TimeoutError):
                    while waiting < 2 * _MAX_WAITING_BYTES:
                        waiting += gateway.send(chunk)
    assert waiting < _MAX_WAITING_BYTES
