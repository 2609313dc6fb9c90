"""What every role tells of itself over HTTP, and what it says when it can't begin."""

import json
import logging
import socket
import sys

import aiohttp
import pytest

from tokenwire_server.errors import UserError
from tokenwire_server.roles import PartState, RoleAnswers, RoleStatus, build_role_metrics, open_bus, serve_health
from tokenwire_server.settings import load


def made() -> tuple[RoleStatus, RoleAnswers]:
    status = RoleStatus("load", "one", ("kafka", "history"))
    return status, RoleAnswers(status, build_role_metrics(status, None))


def test_it_is_ready_while_all_it_needs_is_well() -> None:
    status, answers = made()
    assert answers.ready()[0] == 503
    status.tell("kafka", PartState.OK)
    status.tell("history", PartState.OK, engine="postgresql 15")
    status.details = lambda: {"lag": 3}
    code, body, _ = answers.ready()
    assert code == 200
    assert json.loads(body) == {
        "ready": True, "role": "load", "instance": "one", "kafka": {"state": "ok"},
        "history": {"state": "ok", "engine": "postgresql 15"}, "lag": 3,
    }  # fmt: skip
    assert b"tokenwire_role_ready 1.0" in answers.metrics()[1]
    status.tell("history", PartState.WAITING, "another one writes")
    code, body, _ = answers.ready()
    assert code == 503
    assert json.loads(body)["reason"] == "history waiting: another one writes"
    assert b"tokenwire_role_ready 0.0" in answers.metrics()[1]
    status.tell("history", PartState.OK)
    status.is_stopping = True
    assert answers.ready()[0] == 503
    assert answers.health()[:2] == (200, b"OK")


def test_the_log_tells_of_changes_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    status, _ = made()
    for reason in ("away", "still away"):
        status.tell("kafka", PartState.FAILING, reason)
    assert status.parts["kafka"].reason == "still away"
    status.tell("kafka", PartState.OK)
    assert [record.getMessage() for record in caplog.records] == ["kafka failing", "kafka ok"]


async def test_it_answers_on_its_port() -> None:
    _, answers = made()
    async with serve_health(answers, "127.0.0.1", 0) as url, aiohttp.ClientSession() as client:
        for path, code in (("health", 200), ("ready", 503), ("metrics", 200), ("other", 404)):
            async with client.get(url + path) as reply:
                assert reply.status == code
        async with client.post(url + "ready") as reply:
            assert reply.status == 405
    async with serve_health(answers, "127.0.0.1", None) as url:
        assert url == ""


async def test_a_port_that_is_taken_is_named_with_its_flag() -> None:
    _, answers = made()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .* choose another: --role-port {port + 1}"):
            async with serve_health(answers, "127.0.0.1", port):
                pass


def test_brokers_have_to_be_named_and_their_client_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="load needs the brokers: --kafka"):
        open_bus(load(environ={}), "load")
    monkeypatch.setitem(sys.modules, "tokenwire_server.bus.kafka", None)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "tokenwire_server.bus.kafka")
    with pytest.raises(UserError, match=r"pip install 'tokenwire\[kafka\]'"):
        open_bus(load({"kafka_bootstrap_servers": "127.0.0.1:9"}, environ={}), "load")
