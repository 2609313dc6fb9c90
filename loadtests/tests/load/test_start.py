"""What ends before there is a verdict: one line, and the exit code of what could not run."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.load import run


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def listening() -> Iterator[str]:
    """A port on which connects succeed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"ws://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """These mistakes are found before a server is started."""
    monkeypatch.setattr(run, "_start_server", lambda *_: pytest.fail("a server was started"))


def line_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        run.main(words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("load: ")
    return line


def test_a_host_where_nobody_listens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens on it
        port = taken.getsockname()[1]
        line = line_of(["--host", f"ws://127.0.0.1:{port}", "--results", str(tmp_path)], capsys)
    assert "refused" in line
    assert f"run --source probe --port {port}" in line


def test_a_folder_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = line_of(["--results", str(tmp_path / "file/folder")], capsys)
    assert line.startswith(f"load: --results {tmp_path / 'file/folder'}: cannot write there")


def test_a_system_without_pinning(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert "Linux" in line_of([], capsys)


def summarized(folder: Path, exit_code: object) -> Path:
    path = folder / "summary.json"
    path.write_text(json.dumps({"exit_code": exit_code}), "utf-8")
    return path


def test_an_older_summary_judges_nothing(listening: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Locust itself ends with 1 when it crashes, as does a run that is over the gate."""
    summarized(tmp_path, 1)
    broken = tmp_path / "locustfile.py"
    broken.write_text("import nothing_of_this_name\n", "utf-8")
    monkeypatch.setattr(run, "LOCUSTFILE", broken)
    assert run.main(["--host", listening, "--results", str(tmp_path), "--users", "1"]) == 2


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_verdict_is_passed_on(code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run._verdict(code, summarized(tmp_path, code)) == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("code", "written"), [(1, 0), (-11, 0), (0, None), (1, "1")])
def test_a_locust_that_does_not_end_as_it_judged_has_crashed(
    code: int, written: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run._verdict(code, summarized(tmp_path, written)) == 2
    assert f"exit code {code}" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "\xff"])
def test_no_summary_is_no_verdict(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "summary.json"
    if text is not None:
        path.write_text(text, "latin-1")
    assert run._verdict(1, path) == 2
    assert run._verdict(2, path) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1, "for 2, Locust's side said why"


@pytest.mark.parametrize(("written", "code"), [(None, 130), (3, 3)])
def test_an_interrupt(written: int | None, code: int, tmp_path: Path) -> None:
    path = tmp_path / "summary.json" if written is None else summarized(tmp_path, written)
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code if written else 1})"])
    assert run._wait_a_little(process, path) == code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gate-ms", "nan"), "load: --gate-ms nan"),
        (("--host", "ws://127.0.0.1:99999"), "load: --host ws://127.0.0.1:99999"),
        (("--summary", "/dev/null/summary.json"), "load: --summary /dev/null"),  # found at the end only
    ],
)
def test_locust_without_our_program_ends_with_2_as_well(words: tuple[str, ...], said: str, listening: str) -> None:
    command = [sys.executable, "-m", "locust", "-f", str(run.LOCUSTFILE), "--headless", "--loglevel", "ERROR"]
    command += ["--host", listening, "--users", "1", "--run-time", "1s", *words]
    done = subprocess.run(command, cwd=run.ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert said in done.stderr
    assert done.returncode == 2
