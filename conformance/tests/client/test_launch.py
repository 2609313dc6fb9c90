"""What starts the client under test, with real processes."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tokenwire_conformance.client.bench import ClientBench, ClientFacts
from tokenwire_conformance.client.launch import Event, ExecLauncher, LaunchError, event_of
from tokenwire_conformance.client.run import NoClientError, look_at_client
from tokenwire_conformance.wire.wire import SilenceError

_LIMIT_S = 15
_FAST_S = 5.0
"""Far below what a client may take to its first attempt."""

_OPENS = """
import base64, os, socket, sys
from urllib.parse import urlsplit
url = urlsplit(sys.argv[1])
link = socket.create_connection((url.hostname, url.port))
key = base64.b64encode(os.urandom(16)).decode()
link.sendall((f"GET {url.path} HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
              f"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: {key}\\r\\n\\r\\n").encode())
link.recv(4096)
"""
"""A client that comes once, and ends."""


def _command(tmp_path: Path, source: str, arguments: str = "{url}") -> str:
    script = tmp_path / "client.py"
    script.write_text(source, encoding="utf-8")
    return f"{sys.executable} -I {script} {arguments}"


def _run(act: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(_LIMIT_S):
            await act()

    asyncio.run(limited())


async def _output(command: str, tokens: tuple[str, ...] = ("A", "B")) -> list[str]:
    lines: list[str] = []
    client = await ExecLauncher(command)("ws://h:1/p", tokens, "C-XX-01", lines.append)
    await client.over()
    await client.stop()
    return lines


# --- events ---------------------------------------------------------------------------------------------------
def test_a_line_with_an_event_is_one() -> None:
    line = '{"event": "gap", "from": 5, "to": null}'
    assert event_of(line, 2.5) == Event(2.5, "gap", {"event": "gap", "from": 5, "to": None})


@pytest.mark.parametrize(
    "line",
    [
        "", " ", "connected", "null", "17", '"update"', "[]", '["event"]', "{}", '{"event": 5}', '{"event": null}',
        '{"event": ["update"]}', '{"event": "update"', '{"Event": "update"}', "[" * 100_000, '{"a":' * 100_000,
        '{"event": "gap", "from": ' + "9" * 5_000 + "}", "\x00\x1b[31m", "\ufffd",
    ],
)  # fmt: skip
def test_other_lines_are_none(line: str) -> None:
    assert event_of(line, 0.0) is None


# --- commands -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("client '{url}", "cannot be read"),
        ("", "has no {url}"),
        ("client --tokens {tokens}", "has no {url}"),
        ("no-such-program-at-all {url}", "there is no program no-such-program-at-all"),
        ("/no/such/folder/client {url}", "there is no program /no/such/folder/client"),
        ("{url}", "there is no program {url}"),
    ],
)
def test_a_command_that_cannot_be_one_is_refused(command: str, text: str) -> None:
    with pytest.raises(LaunchError, match=text.replace("{", r"\{")):
        ExecLauncher(command)


def test_a_program_that_is_not_executable_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "client.sh"
    script.write_text("#!/bin/sh\n", encoding="utf-8")
    with pytest.raises(LaunchError, match=r"client\.sh is not executable"):
        ExecLauncher(f"{script} {{url}}")


def test_a_program_that_does_not_start_is_a_launch_error(tmp_path: Path) -> None:
    script = tmp_path / "client.sh"
    script.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    script.chmod(0o755)

    async def act() -> None:
        files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        with pytest.raises(LaunchError, match="does not start"):
            await _output(f"{script} {{url}}")
        if files:
            assert len(os.listdir("/proc/self/fd")) == files

    _run(act)


def test_placeholders_are_filled_and_no_shell_reads_them(tmp_path: Path) -> None:
    source = "import json, sys; print(json.dumps(sys.argv[1:]))"
    command = _command(tmp_path, source, "'a b' {url} --t={tokens} {case} $HOME {other} ';' {url}{url}")

    async def act() -> None:
        [line] = await _output(command, ("A", "{case}", "$(x)"))
        url = "ws://h:1/p"
        wanted = ["a b", url, "--t=A,{case},$(x)", "C-XX-01", "$HOME", "{other}", ";", url + url]
        assert json.loads(line) == wanted

    _run(act)


def test_whether_the_client_can_be_told_tokens(tmp_path: Path) -> None:
    assert not ExecLauncher(_command(tmp_path, "")).names_tokens
    assert ExecLauncher(_command(tmp_path, "", "{url} --tokens={tokens}")).names_tokens


# --- processes ------------------------------------------------------------------------------------------------
def test_a_process_that_ignores_sigterm_is_ended(tmp_path: Path) -> None:
    source = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True);time.sleep(600)"
    )

    async def act() -> None:
        ready = asyncio.Event()
        client = await ExecLauncher(_command(tmp_path, source))("ws://x", (), "C", lambda _: ready.set())
        await ready.wait()
        assert client.exit_status is None
        await client.stop()
        assert client.exit_status == -9

    _run(act)


def test_a_grandchild_that_holds_the_output_costs_no_time(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'],"
        "start_new_session=True); print(child.pid, flush=True)"
    )

    async def act() -> None:
        printed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        client = await ExecLauncher(_command(tmp_path, source))("ws://x", (), "C", printed.set_result)
        child = int(await printed)
        begun_s = time.monotonic()
        await client.stop()
        assert time.monotonic() - begun_s < 2
        os.kill(child, 9)

    _run(act)


def test_what_is_kept_of_the_standard_error_is_bounded(tmp_path: Path) -> None:
    source = (
        "import sys\nfor n in range(5000): print(n, 'x' * 1000, file=sys.stderr)\n"
        "print('y' * 3_000_000, file=sys.stderr)\nprint('\\n\\nlast words', file=sys.stderr)"
    )

    async def act() -> None:
        client = await ExecLauncher(_command(tmp_path, source))("ws://x", (), "C", lambda _: None)
        await client.over()
        complaint = client.complaint()
        assert complaint.endswith("last words")
        assert len(complaint.splitlines()) <= 10
        assert len(complaint) <= 4_000
        await client.stop()

    _run(act)


def test_a_line_that_is_too_long_is_skipped(tmp_path: Path) -> None:
    async def act() -> None:
        lines = await _output(_command(tmp_path, "print('x' * 3_000_000); print('next')"))
        assert lines[-1] == "next"

    _run(act)


# --- clients that come to nothing -----------------------------------------------------------------------------
def test_a_client_that_fails_at_once_ends_the_wait_and_is_quoted(tmp_path: Path) -> None:
    facts = ClientFacts(launcher=ExecLauncher(_command(tmp_path, "import no_such_module_at_all")))

    async def act() -> None:
        begun_s = time.monotonic()
        bench = ClientBench(facts, "C-XX-01")
        await bench.start()
        with pytest.raises(SilenceError, match=r"exited with status 1.*no_such_module_at_all"):
            await bench.attempt()
        await bench.close()
        assert time.monotonic() - begun_s < _FAST_S
        [note] = bench.notes
        assert note.startswith("the client exited with status 1; ")
        assert "Traceback" in note

    _run(act)


def test_a_client_that_ends_at_once_cannot_be_looked_at(tmp_path: Path) -> None:
    facts = ClientFacts(launcher=ExecLauncher(_command(tmp_path, "")))

    async def act() -> None:
        with pytest.raises(NoClientError, match=r"exited with status 0.*nothing on its standard error"):
            await look_at_client(facts)

    _run(act)


def test_the_attempt_of_a_client_that_has_exited_since_counts(tmp_path: Path) -> None:
    facts = ClientFacts(launcher=ExecLauncher(_command(tmp_path, _OPENS)))

    async def act() -> None:
        bench = ClientBench(facts, "C-XX-01")
        await bench.start()
        link = await (await bench.attempt()).accept()
        await link.closing(_FAST_S)
        with pytest.raises(SilenceError, match="made no further attempt: it exited with status 0"):
            await bench.attempt()
        await bench.close()
        assert bench.notes == []

    _run(act)


def test_an_error_line_is_quoted_before_the_last_one(tmp_path: Path) -> None:
    source = "import sys; sys.exit('starting\\nError: cannot find the module x\\n    at y\\n\\nRuntime v20')"
    facts = ClientFacts(launcher=ExecLauncher(_command(tmp_path, source)))

    async def act() -> None:
        with pytest.raises(NoClientError, match=r"\(Error: cannot find the module x\)"):
            await look_at_client(facts)

    _run(act)
