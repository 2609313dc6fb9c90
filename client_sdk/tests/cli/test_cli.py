"""The command, as a person and as a pipe use it."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from tokenwire import cli, doctor
from tokenwire.cli import main

from ..live import Peer, real_server, scripted, tcp_server

COMMAND = [sys.executable, "-W", "error", "-m", "tokenwire.cli"]


class Result:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def run(*arguments: str, **environment: str) -> Result:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert "Traceback" not in err.decode()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    async with real_server() as (server, source):

        async def trade() -> None:
            price = 1
            while True:
                price += 1
                source.trade("DOGE", str(price))
                await asyncio.sleep(0.02)

        trading = asyncio.create_task(trade())
        yield server.url
        trading.cancel()


async def test_json_lines(url: str) -> None:
    result = await run("watch", "DOGE", "--json", "--count", "3", "--url", url)
    assert (result.status, result.err) == (0, "")
    assert result.lines[0]["event"] == "connected"
    values = [line for line in result.lines if line["event"] in ("snapshot", "update")]
    assert len(values) == 3
    assert {"name", "address", "price", "sequence", "received_ms", "missed", "version"} <= set(values[0])
    assert (values[0]["event"], values[0]["name"]) == ("snapshot", "DOGE")


async def test_plain_lines_where_there_is_no_terminal(url: str) -> None:
    result = await run("watch", "DOGE", "--count", "2", TOKENWIRE_URL=url)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("connected")
    assert re.search(r"^DOGE  \d+  volume 24h \d", result.out, re.MULTILINE)


async def test_a_table_in_a_terminal(url: str) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "watch", "DOGE", "nope", "--url", url, "--count", "5",
        stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "150", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while part := os.read(ours, 65_536):
                shown.extend(part)

    await asyncio.to_thread(read)
    os.close(ours)
    assert await process.wait() == 0
    text = shown.decode()
    for part in ("state CONNECTED", "conflated", "DOGE", "TOKEN_NOT_FOUND"):
        assert part in text
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is visible again"


def test_without_rich_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert not cli._has_rich()
    assert "pip install 'tokenwire[cli]'" in capsys.readouterr().err


async def test_a_duration_ends_it_too(url: str) -> None:
    result = await run("watch", "PEPE", "--json", "--duration", "0.3", "--url", url)
    assert result.status == 0
    assert result.lines


async def test_an_unknown_token_is_one_line(url: str) -> None:
    result = await run("watch", "nope", "--json", "--url", url)
    assert result.status == 1
    assert result.err.startswith("tokenwire: TOKEN_NOT_FOUND: ")
    assert len(result.err.splitlines()) == 1


async def test_one_unknown_token_does_not_spoil_the_others(url: str) -> None:
    result = await run("watch", "DOGE", "nope", "--json", "--count", "2", "--url", url)
    assert result.status == 0


async def test_nobody_listens() -> None:
    async with tcp_server(b"") as port:
        result = await run("watch", "DOGE", "--url", f"ws://127.0.0.1:{port}", "--retries", "0")
    assert result.status == 1
    assert len(result.err.splitlines()) == 1
    assert "tokenwire doctor" in result.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("watch", "DOGE", "--url", "tcp://x"), "INVALID_URL"),
        (("watch", "DOGE", "--url", "ws://user:pass@x"), "INVALID_URL"),
        (("doctor", "nonsense"), "INVALID_URL"),
        (("watch",), "SYMBOL"),
        (("watch", "DOGE", "--count", "0"), "at least 1"),
        (("watch", "DOGE", "--duration", "soon"), "number of seconds"),
        (("watch", "DOGE", "--token-file", "/nonexistent"), "--token-file"),
        (("watch", "DOGE", "--ca", "/nonexistent"), "--ca"),
        ((), "COMMAND"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert expected in told.splitlines()[-1]
    assert "pass" not in told.replace("pass token=", "").replace("password", "")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["watch"], ["doctor"]):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--help"])
        assert caught.value.code == 0
        assert "examples:" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"tokenwire \d+\.\d+\.\d+\n", capsys.readouterr().out)


async def test_ctrl_c(url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "watch", "DOGE", "--json", "--url", url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


async def test_a_reader_that_has_enough(url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "watch", "DOGE", "--json", "--url", url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert await process.stdout.readline()
    transport = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
    transport.close()
    err = await process.stderr.read()
    assert (await process.wait(), err) == (0, b"")


async def test_credentials_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    seen: list[str | None] = []

    async def script(peer: Peer) -> None:
        seen.append(peer.request.headers.get("Authorization"))
        await peer.welcome()
        await peer.accept()
        await peer.stay()

    path = tmp_path / "token"
    path.write_text("from-file\n")
    async with scripted(script) as url:
        assert (await run("watch", "a", "--count", "1", "--url", url, "--token-file", str(path))).status == 0
        assert (await run("watch", "a", "--count", "1", "--url", url, TOKENWIRE_TOKEN="from-env")).status == 0
    assert seen == ["Bearer from-file", "Bearer from-env"]


async def test_doctor_on_a_healthy_server(url: str) -> None:
    result = await run("doctor", url, "DOGE")
    assert result.status == 0, result.out
    steps = [line.split()[1] for line in result.out.splitlines()[1:-1]]
    assert steps == [
        "name", "tcp", "handshake", "granted", "limits", "compression", "round", "subscription", "value", "resume",
    ]  # fmt: skip
    assert "FAIL" not in result.out
    assert result.out.splitlines()[-1].startswith("verdict: this connection works")


async def test_doctor_for_programs(url: str) -> None:
    result = await run("doctor", url, "--json")
    findings = {line["step"]: line for line in result.lines}
    assert result.status == 0
    assert findings["verdict"]["ok"] is True
    assert findings["limits"]["data"]["maxSubscriptions"] == 100  # type: ignore[index]
    assert findings["round trip"]["data"]["min_ms"] >= 0  # type: ignore[index]
    assert abs(findings["round trip"]["data"]["clock_offset_ms"]) < 5_000  # type: ignore[index]


async def test_doctor_names_the_step_that_fails(url: str) -> None:
    unknown = await run("doctor", url, "nope")
    assert unknown.status == 1
    assert re.search(r"^FAIL subscription .*TOKEN_NOT_FOUND", unknown.out, re.MULTILINE)

    lost = await run("doctor", url.replace("token-data", "elsewhere"))
    assert lost.status == 1
    assert re.search(r"^FAIL handshake .*404", lost.out, re.MULTILINE)

    nobody = await run("doctor", "ws://127.0.0.1:9")
    assert nobody.status == 1
    assert re.search(r"^FAIL tcp .*nobody listens", nobody.out, re.MULTILINE)

    nowhere = await run("doctor", "ws://nowhere.invalid")
    assert nowhere.status == 1
    assert re.search(r"^FAIL name ", nowhere.out, re.MULTILINE)

    plain = await run("doctor", url.replace("ws:", "wss:"))
    assert plain.status == 1
    assert re.search(r"^FAIL tls ", plain.out, re.MULTILINE)


async def test_doctor_on_a_server_that_lies() -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.send('{"type":"connection","sequence":1,"timestamp":"now","data":{"status":1}}')
        await peer.stay()

    async with scripted(script) as url:
        result = await run("doctor", url)
    assert result.status == 1
    assert "not this protocol" in result.out


CONNECTION = {"maxSubscriptions": 1, "capabilities": ["heartbeat"]}


@pytest.mark.parametrize(
    "answer", ['{"type":"error","data":[]}', "[" * 200_000, "[1]", '{"type":"connection","data":7}']
)
async def test_doctor_on_a_first_message_that_is_none(answer: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.send(answer)
        await peer.stay()

    async with scripted(script) as url:
        result = await run("doctor", url)
    assert result.status == 1
    assert re.search(r"^FAIL handshake .*not this protocol", result.out, re.MULTILINE)
    assert "verdict" in result.out


async def test_doctor_on_a_heartbeat_without_an_object() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(**CONNECTION)
        await peer.say("heartbeat", [])
        await peer.stay()

    async with scripted(script) as url:
        result = await run("doctor", url)
    assert result.status == 1
    assert "data of a message of type heartbeat is not an object" in result.out


async def test_doctor_on_a_server_that_talks_but_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TIMEOUT_S", 0.5)

    async def script(peer: Peer) -> None:
        await peer.welcome(**CONNECTION)
        with contextlib.suppress(ConnectionClosed):
            while True:
                await peer.value("a")
                await asyncio.sleep(0.05)

    async with scripted(script) as url, asyncio.timeout(10):
        findings = [finding async for finding in doctor.examine(url)]
    assert findings[-1].ok is False
    assert "no answer within" in findings[-1].text
