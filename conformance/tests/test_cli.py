"""The command, as a person, a pipe and a CI use it."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tokenwire_conformance import cli, cli_text
from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.explain import UnknownNameError, explain
from tokenwire_conformance.model import PROFILES, CaseInfo, Role, Status, Verdict, Violation, WireLog
from tokenwire_conformance.options import OptionError, all_cases, declared_of, headers_of, suite_of, tokens_of
from tokenwire_conformance.outcome import ExitStatus
from tokenwire_conformance.registry import Case
from tokenwire_conformance.runner import CaseBrokeError, run_cases

from . import hostile
from .hostile import serving

COMMAND = [sys.executable, "-W", "error", "-m", "tokenwire_conformance"]
NAMES = ["--tokens", "A,B,C,D,E,F,G,H"]
"""As many as the look at a server needs, and so few that it never has to unsubscribe."""
Result = tuple[int, str, str]


async def run(*arguments: str, limit_s: float = 60) -> Result:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(limit_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "Traceback" not in err.decode()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> Result:
    with pytest.raises(SystemExit) as ending:
        cli.main(arguments)
    out, err = capsys.readouterr()
    code = ending.value.code
    return int(code) if code is not None else 0, out, err


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    async with serving(hostile.half_server) as port:
        yield f"ws://127.0.0.1:{port}"


# --- mistakes: one line, exit status 4 ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["serve"], "invalid choice"),
        (["server"], "URL"),
        (["server", "http://x"], "the scheme http://"),
        (["server", "localhost:8080"], "should look like"),
        (["server", "ws://"], "names no host"),
        (["server", "ws://user:secret@x"], "--header-file"),
        (["server", "ws://x:99999"], "not a URL"),
        (["server", "ws://x y"], "character"),
        (["server", "ws://x", "--profile", "cores"], "did you mean core?"),
        (["server", "ws://x", "--profile", "core,ext.batsch"], "did you mean ext.batch?"),
        (["server", "ws://x", "--case", "S-MC-99"], "there is no case 'S-MC-99'"),
        (["server", "ws://x", "--declare", "I-18,I-99"], "no Interpretation 'I-99'"),
        (["server", "ws://x", "--declare", "none"], "no Interpretation 'none'"),
        (["server", "ws://x", "--tokens", ","], "names no token"),
        (["server", "ws://x", "--tokens", "@no-such-file"], "no-such-file: cannot be read"),
        (["server", "ws://x", "--known-failures", "no-such-file"], "no-such-file: cannot be read"),
        (["server", "ws://x", "--header", "nonsense"], "'Name: value'"),
        (["server", "ws://x", "--header", "Authorization: Bearer secret"], "--header-file"),
        (["server", "ws://x", "--header", "Sec-WebSocket-Key: x"], "belongs to the handshake"),
        (["server", "ws://x", "--header-file", "no-such-file"], "no-such-file: cannot be read"),
        (["server", "ws://x", "--ca", "ca.pem"], "wss:// only"),
        (["server", "wss://x", "--ca", "no-such-file"], "no-such-file cannot be read"),
        (["server", "ws://x", "--update-interval", "-1"], "number of seconds"),
        (["server", "ws://x", "--update-interval", "nan"], "number of seconds"),
        (["server", "ws://x", "--parallel", "0"], "from 1 to 200"),
        (["server", "ws://x", "--json", "/"], "/: cannot be written"),
        (["server", "ws://x", "--json", "/no-such-folder/x.json"], "the folder does not exist"),
        (["server", "ws://x", "--quiet", "--verbose"], "not allowed with"),
        (["server", "ws://x", "--case", "C-EP-01"], "C-EP-01 is a case for clients"),
        (["client", "--exec", "true {url}", "--case", "s-mc"], "s-mc is a case for servers"),
        (["server", "ws://x", "--case", "S-MC-01", "--profile", "ext.batch"], "is in the profile ext.batch"),
        (["server", "ws://user:secret"], "its port"),
        (["server", "wss://x/?token=secret value"], "character"),
        (["server", "x://h/?token=secret"], "the scheme x://"),
        (["server", "ws://x", "--prof", "core"], "unrecognized arguments"),
        (["client"], "--exec"),
        (["client", "--exec", "true"], "no {url}"),
        (["client", "--exec", "no-such-program {url}"], "no program no-such-program"),
        (["client", "--exec", "'unclosed {url}"], "cannot be read"),
        (["list", "--profile", "cores"], "did you mean core?"),
        (["explain", "S-MC-1"], "did you mean S-MC-"),
        (["explain", "MC.firts"], "did you mean MC.first"),
    ],
)
def test_a_mistake_is_one_line_and_4(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    status, out, err = in_process(capsys, *arguments)
    assert status == ExitStatus.USAGE
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("tokenwire-conformance: ")
    assert words in err
    assert "secret" not in err


def test_unusable_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary, big, listed = tmp_path / "binary", tmp_path / "big", tmp_path / "listed"
    binary.write_bytes(b"\xff\xfe\x00")
    big.write_bytes(b"A\n" * 600_000)
    listed.write_text("S-MC-01\nS-MC-77  # no such case\n", "utf-8")
    for arguments, words in (
        (["--tokens", f"@{binary}"], "not UTF-8"),
        (["--tokens", f"@{big}"], "larger than"),
        (["--known-failures", str(listed)], "listed:2: there is no case S-MC-77"),
    ):
        status, _, err = in_process(capsys, "server", "ws://x", *arguments)
        assert (status, words in err) == (ExitStatus.USAGE, True), err


def test_options_are_read_as_written(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("A, B\nC\n\nA\n", "utf-8")
    assert tokens_of(f"@{names}") == ("A", "B", "C")
    assert tokens_of("A,B") == ("A", "B")
    assert declared_of(["i-18, I-36"]) == {"I-18", "I-36"}
    assert len(declared_of(["all"])) > 70
    headers = tmp_path / "headers"
    headers.write_text("Authorization: Bearer x\n\nX-Key: 1\n", "utf-8")
    assert headers_of(["X-A: b"], str(headers)) == (("X-A", "b"), ("Authorization", "Bearer x"), ("X-Key", "1"))
    headers.write_text("Authorization: Bearer\x07\n", "utf-8")
    with pytest.raises(OptionError, match=r"headers:1: the value of Authorization"):
        headers_of([], str(headers))


# --- reading up ---------------------------------------------------------------------------------------------------
def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for command, text in ((), cli_text.TOP), (("server",), cli_text.SERVER), (("client",), cli_text.CLIENT):
        status, out, _ = in_process(capsys, *command, "--help")
        assert status == 0
        assert text in out
        for number in ExitStatus:
            assert f"\n  {number.value} " in out
        for verdict in ("OK", "INFORMATIONAL", "NON-STRICT", "FAILED", "SKIPPED"):
            assert f"\n  {verdict} " in out
    assert '{"event": "state"' in cli_text.CLIENT


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = in_process(capsys, "--version")
    assert (status, out.split()[0]) == (0, "tokenwire-conformance")


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = in_process(capsys, "list")
    assert len(out.splitlines()) == len(all_cases())
    _, out, _ = in_process(capsys, "list", "--json")
    rows = json.loads(out)
    assert {row["id"] for row in rows} == {case.info.id for case in all_cases()}
    assert all(row["title"] and row["sends"] and row["expects"] and row["why"] for row in rows)
    _, out, _ = in_process(capsys, "list", "--role", "server", "--profile", "core")
    assert out
    assert all(line.startswith("S-") for line in out.splitlines())
    _, out, _ = in_process(capsys, "list", "--profile", "ext.*")
    assert "ext.batch" in out
    assert "  core  " not in out
    _, out, _ = in_process(capsys, "list", "--clauses")
    assert len(out.splitlines()) == len(CLAUSES)
    _, out, _ = in_process(capsys, "list", "--clauses", "--json")
    assert len(json.loads(out)) == len(CLAUSES)


def test_every_case_and_every_clause_is_explained() -> None:
    infos = [case.info for case in all_cases()]
    for info in infos:
        text = " ".join(explain(info.id, infos, CLAUSES).split())
        assert info.title in text
        for name in info.clauses:
            assert f"clause {name} " in text
            assert " ".join(CLAUSES[name].quote.split()) in text
    for name in CLAUSES:
        assert CLAUSES[name].source in " ".join(explain(name, infos, CLAUSES).split())
    assert "S-MC-01" in explain("s-mc", infos, CLAUSES)
    assert "MS.answer-order" in explain("I-18", infos, CLAUSES)
    with pytest.raises(UnknownNameError, match=r"did you mean MC\.first"):
        explain("MC.fist", infos, CLAUSES)


async def test_a_closed_pipe_is_quiet() -> None:
    for arguments in (["list"], ["list", "--json"], ["explain", "S-MC-01"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, stdout=writing, stderr=asyncio.subprocess.PIPE
        )
        os.close(writing)
        _, err = await process.communicate()
        assert err == b"", err.decode()


# --- running ------------------------------------------------------------------------------------------------------
async def test_a_run_with_every_report(url: str, tmp_path: Path) -> None:
    reports = [tmp_path / name for name in ("r.json", "r.xml", "r.html")]
    status, out, err = await run(
        "server", url, *NAMES, "--case", "S-MC-01,S-MC-03", "--case", "S-EP-02", "--verbose",
        "--json", str(reports[0]), "--junit", str(reports[1]), "--html", str(reports[2]),
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "OK            S-MC-01" in out
    assert "NON-STRICT    S-EP-02" in out
    assert out.count("written: ") == 3
    assert all(report.stat().st_size for report in reports)
    result = json.loads(reports[0].read_bytes())
    assert (result["exit_status"], result["profiles"]) == (0, ["core"])
    assert "8 given" in result["peer"]["tokens"]


async def test_exit_statuses_of_a_run(url: str, tmp_path: Path) -> None:
    fails, passes = tmp_path / "fails", tmp_path / "passes"
    fails.write_text("S-EP-02  # it takes any path\nC-EP-01  # the client's\n", "utf-8")
    passes.write_text("S-MC-01  # wrong\n", "utf-8")
    declared = ("--case", "S-EP-02", "--declare", "I-1")
    runs = {
        (*declared, "--known-failures", str(fails)): ExitStatus.OK,
        ("--case", "S-MC-01", "--known-failures", str(passes)): ExitStatus.KNOWN_PASSES,
        ("--case", "S-EP-02"): ExitStatus.OK,
        ("--case", "S-EP-02", "--strict", "--quiet"): ExitStatus.FAILED,
        declared: ExitStatus.FAILED,
        ("--profile", "ext.batch"): ExitStatus.NOT_TESTED,
    }
    results = await asyncio.gather(*(run("server", url, *NAMES, *arguments) for arguments in runs))
    for (arguments, expected), (status, out, err) in zip(runs.items(), results, strict=True):
        assert (status, err) == (expected, ""), (arguments, out)
        assert "C-EP-01" not in out
        if arguments == ("--profile", "ext.batch"):
            assert "nothing of the profile ext.batch was tested: the server does not grant batch" in out
        if expected is ExitStatus.FAILED:
            assert "S-EP-02" in out


async def test_nobody_there_is_told_in_the_reports_too(tmp_path: Path) -> None:
    report, tests = tmp_path / "r.json", tmp_path / "r.xml"
    status, _, err = await run("server", "ws://127.0.0.1:1", "--json", str(report), "--junit", str(tests))
    assert (status, err.count("\n")) == (ExitStatus.NOT_TESTED, 1)
    assert "connection refused" in err
    assert "connection refused" in json.loads(report.read_bytes())["summary"]["text"]
    assert 'errors="1"' in tests.read_text("utf-8")


async def test_a_server_that_goes_away_fails_the_run_and_no_clause(tmp_path: Path) -> None:
    report, seen = tmp_path / "r.json", 0

    async def mortal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            if seen <= 4:
                await hostile.half_server(reader, writer)
        if seen > 4:
            listening.close()
        writer.close()

    listening = await asyncio.start_server(mortal, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    status, out, err = await run(
        "server", f"ws://127.0.0.1:{port}", *NAMES, "--case", "S-MC", "--parallel", "2", "--json", str(report)
    )
    assert (status, err) == (ExitStatus.FAILED, "")
    assert "warning: the server stopped accepting connections after" in out
    assert "FAILED: the server no longer accepts connections" in out
    cases = json.loads(report.read_bytes())["cases"]
    assert not [case["id"] for case in cases if case["status"] == "FAILED"]
    assert sum("no longer accepts" in case["reason"] for case in cases) >= 3


async def test_credentials_stay_out_of_every_report(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readuntil(b"\r\n\r\n")
        seen.append(data)
        reader.feed_data(data)
        await hostile.half_server(reader, writer)

    secrets, page, report = tmp_path / "headers", tmp_path / "page.html", tmp_path / "report.json"
    secrets.write_text("X-Of-Our-Own: hunter2\n", "utf-8")
    async with serving(listening) as port:
        status, out, _ = await run(
            "server", f"ws://127.0.0.1:{port}/?anything=hunter3", *NAMES, "--header-file", str(secrets), "--case",
            "S-EP-02", "--strict", "--html", str(page), "--json", str(report), "--verbose",
        )  # fmt: skip
    assert status == ExitStatus.FAILED
    assert any(b"hunter2" in data for data in seen)
    assert "hunter" not in out + page.read_text("utf-8") + report.read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_keeps_what_was_judged(tmp_path: Path, number: signal.Signals) -> None:
    report = tmp_path / "report.json"
    async with serving(hostile.half_server) as port:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "server", f"ws://127.0.0.1:{port}", *NAMES, "--case", "S-MC,S-EH", "--json", str(report),
            "--verbose", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(60):
            first = await process.stdout.readline()
            process.send_signal(number)
            out, err = await process.communicate()
    assert b"S-" in first
    assert (process.returncode, err) == (ExitStatus.INTERRUPTED, b"")
    assert b"INTERRUPTED: " in out
    result = json.loads(report.read_bytes())
    assert result["interrupted"] is True
    assert result["cases"]


async def test_ctrl_c_before_anything_was_judged() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await hostile.silent(reader, writer)

    async with serving(silent) as port:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "server", f"ws://127.0.0.1:{port}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            await asked.wait()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    assert (process.returncode, out, err) == (ExitStatus.INTERRUPTED, b"", b"tokenwire-conformance: interrupted\n")


async def test_a_reader_that_leaves_does_not_change_the_verdict(url: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    report = tmp_path / "report.json"
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "server", url, *NAMES, "--case", "S-EP-02", "--strict", "--verbose", "--json", str(report),
        stdout=writing, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(writing)
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert (process.returncode, err) == (ExitStatus.FAILED, b"")
    assert json.loads(report.read_bytes())["exit_status"] == 1


async def test_on_a_terminal(url: str) -> None:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "server", url, *NAMES, "--case", "S-MC-01", stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = bytearray()
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            seen.extend(os.read(master, 65536))
        except OSError:
            loop.remove_reader(master)

    loop.add_reader(master, read)
    async with asyncio.timeout(60):
        assert await process.wait() == 0
    await asyncio.sleep(0.2)
    loop.remove_reader(master)
    os.close(master)
    assert b"connecting to 127.0.0.1" in seen
    assert b"OK: 1 of 1 cases passed" in seen


def test_a_broken_case_is_the_suites_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (CaseBrokeError("S-MC-01 broke: KeyError: 'x'"), ZeroDivisionError("division by zero")):

        def broken(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("tokenwire_conformance.run_command.run_command", broken)
        status, out, err = in_process(capsys, "server", "ws://127.0.0.1:1")
        assert (status, out, err.count("\n")) == (ExitStatus.INTERNAL, "", 1)
        assert "please report this" in err


async def test_a_client_that_never_connects_is_not_tested() -> None:
    status, out, err = await run("client", "--exec", f"{sys.executable} -c pass {{url}}")
    assert (status, out) == (ExitStatus.NOT_TESTED, "")
    assert err.count("\n") == 1
    assert "did not connect" in err


async def test_a_case_that_breaks_leaves_the_others_their_verdicts() -> None:
    class Bench:
        def __init__(self) -> None:
            self.violations: list[Violation] = []
            self.notes: list[str] = []

        async def close(self) -> None: ...

        def logs(self) -> tuple[WireLog, ...]:
            return ()

    async def breaks(_: Bench) -> None:
        raise TypeError("unhashable type: 'list'")

    async def holds(_: Bench) -> None: ...

    info = next(case.info for case in all_cases() if case.info.id == "S-MC-01")
    cases = [Case(info, breaks), Case(replace(info, id="S-MC-03"), holds)]
    told: list[str] = []

    class Told:
        def started(self, case: CaseInfo) -> None: ...

        def finished(self, verdict: Verdict) -> None:
            told.append(verdict.case.id)

    verdicts = await run_cases(
        cases, clauses=CLAUSES, declared=frozenset(), bench=lambda _: Bench(), observer=Told(), parallel=2
    )
    assert sorted(told) == ["S-MC-01", "S-MC-03"]
    assert [(verdict.status, verdict.broken) for verdict in verdicts] == [(Status.SKIPPED, True), (Status.OK, False)]
    assert "the case itself broke: TypeError: unhashable type: 'list' (test_cli.py:" in verdicts[0].reason


def test_every_profile_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = in_process(capsys, "server", "--help")
    for profile in PROFILES:
        assert profile in " ".join(out.split())
    _, out, _ = in_process(capsys, "client", "--help")
    assert set(cli_text.CLIENT_PROFILES) == {case.info.profile for case in suite_of(Role.CLIENT).cases}
    assert "limits" not in out
