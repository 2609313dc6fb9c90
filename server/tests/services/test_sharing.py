"""One engine for all workers of a run, and the command line that starts all engines for many runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import __main__ as command
from . import haproxy
from .board import ENGINES, Board
from .engine import FOLDER_PREFIX
from .kafka import Kafka
from .postgres import Postgres
from .process import Process
from .redis import Redis
from .share import private, running, shared

_ROOT = Path(__file__).parents[3]
_LIMIT_S = 300

_WORKERS = """
import time
from pathlib import Path
import pytest
@pytest.mark.parametrize("number", range(8))
def test_it(redis_server, number, worker_id):
    here = Path(__file__).parent
    redis_server.command(f"SADD workers {worker_id}")
    (here / f"{number}.pid").write_text(f"{redis_server.pid} {redis_server.folder}")
    deadline = time.monotonic() + 60
    while redis_server.command("SCARD workers") != ":3" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert redis_server.command("SCARD workers") == ":3"
"""


@pytest.fixture
def needs_all() -> None:
    """Every engine can run here; the fixtures of each skip or fail for itself."""
    for kind in ENGINES:
        if lacking := kind.lacking():
            pytest.skip(lacking)
    if lacking := haproxy.lacking():
        pytest.skip(lacking)


@pytest.fixture
def needs_redis() -> None:
    if lacking := Redis.lacking():
        pytest.skip(lacking)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Another services.json than the one of this folder."""
    path = tmp_path / "services.json"
    yield path
    command.down(path)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.tests.services", *words],
        cwd=_ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip


def _pytest(folder: Path, *words: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    """A run of its own over the tests in ``folder``, which know the fixtures and no engine that runs."""
    (folder / "conftest.py").write_text('pytest_plugins = ("server.tests.services.fixtures",)\n')
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:locust", *words, str(folder)],
        cwd=folder, env={**environment, "PYTHONPATH": str(_ROOT), "TOKENWIRE_SERVICES": os.devnull, "CI": ci},
        capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip


@pytest.mark.proof(only=True)
@pytest.mark.usefixtures("needs_all")
def test_up_starts_all_and_down_leaves_nothing(file: Path) -> None:
    up = _run("up", "--file", str(file))
    assert up.returncode == 0, up.stderr
    board = Board.read(file)
    assert board is not None
    kafka, postgres, redis = board.engines()
    assert isinstance(kafka, Kafka)
    assert isinstance(postgres, Postgres)
    assert isinstance(redis, Redis)
    kafka.create_topics(["made"])
    assert postgres.sql("SELECT 1") == "1"
    assert redis.command("PING") == "+PONG"

    secrets = (postgres.password, redis.password)
    assert all(secrets)
    assert not any(secret in up.stdout + up.stderr for secret in secrets)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "haproxy" in up.stdout

    status = _run("status", "--file", str(file))
    assert (status.returncode, status.stdout.count(": answers")) == (0, 3)
    said = _run("env", "--file", str(file)).stdout
    for line in (
        f"KAFKA_BOOTSTRAP_SERVERS={kafka.address}",
        f"TIMESCALE_PORT={postgres.port}",
        f"REDIS_URL={redis.url()}",
    ):
        assert f"export {line}\n" in said

    again = _run("up", "--file", str(file))
    assert "they run already" in again.stdout
    assert Board.read(file) == board

    processes = [Process(record.pid, record.started) for record in board.records.values()]
    assert all(process.alive() for process in processes)
    assert _run("down", "--file", str(file)).returncode == 0
    assert not any(process.alive() for process in processes)
    assert not board.folder.exists()
    assert not file.exists()


def test_up_replaces_what_died(file: Path, monkeypatch: pytest.MonkeyPatch, needs_redis: None) -> None:
    monkeypatch.setattr(command, "ENGINES", (Redis,))
    monkeypatch.setattr(haproxy, "lacking", lambda: "")
    monkeypatch.setattr(haproxy, "version", lambda: "0")
    assert command.up(file) == 0
    first = Board.read(file)
    assert first is not None
    first.engines()[0].kill()
    assert command.status(file) == 1
    assert running(Redis, file) is None
    assert command.up(file) == 0
    assert command.status(file) == 0
    assert not first.folder.exists()
    assert running(Redis, file) is not None


def test_when_one_does_not_start_none_is_left(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], needs_redis: None
) -> None:
    class Broken(Redis):
        name = "broken"

        def _command(self) -> list[str]:
            return ["sh", "-c", "echo out of luck; exit 3"]

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(command, "ENGINES", (Redis, Broken))
    monkeypatch.setattr(haproxy, "lacking", lambda: "")
    monkeypatch.setattr(haproxy, "version", lambda: "0")
    assert command.main(["up", "--file", str(file)]) == 1
    said = capsys.readouterr()
    assert "out of luck" in said.err
    pid = int(said.out.partition("(process ")[2].partition(")")[0])
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    assert not file.exists()
    assert not list(tmp_path.glob(f"{FOLDER_PREFIX}*"))


def test_what_is_missing_is_named_at_once(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("server.tests.services.postgres._DEBIAN", Path("/nowhere"))
    monkeypatch.setattr(haproxy, "find", lambda: "")
    assert command.main(["up", "--file", str(file)]) == 1
    said = capsys.readouterr().err
    for package in ("maven", "postgresql", "redis-server", "haproxy"):
        assert package in said


@pytest.mark.parametrize("engines", [None, [], {"redis": {"pid": 1}}, {}])
def test_a_file_of_somebody_else_is_not_believed(tmp_path: Path, engines: object) -> None:
    path, precious = tmp_path / "services.json", tmp_path / "precious"
    precious.mkdir()
    path.write_text(json.dumps({"folder": str(precious), "engines": engines}))
    assert Board.read(path) is None
    assert running(Redis, path) is None
    assert command.down(path) == 0
    assert precious.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "no JSON"])
def test_a_broken_file_names_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "services.json"
    path.write_text(text)
    assert Board.read(path) is None
    assert command.status(path) == 1


def test_a_test_uses_the_one_that_runs(file: Path, tmp_path: Path, needs_redis: None) -> None:
    with private(Redis) as mine:
        Board.of(mine.folder, [mine]).write(file)
        with shared(Redis, tmp_path / "run", file) as found:
            assert found.pid == mine.pid
            assert found.shared
        assert mine.answers()
        mine.stop()
        assert running(Redis, file, patience_s=0) is None
        mine.cont()
        assert running(Redis, file) is not None
        file.unlink()


def test_the_last_user_ends_it(tmp_path: Path, needs_redis: None) -> None:
    none = tmp_path / "services.json"
    with shared(Redis, tmp_path, none) as first:
        with shared(Redis, tmp_path, none) as second:
            assert second.pid == first.pid
        assert first.answers()
    assert not first.alive()
    assert not first.folder.exists()
    with shared(Redis, tmp_path, none) as third:
        assert third.pid != first.pid


def test_one_that_died_is_replaced(tmp_path: Path, needs_redis: None) -> None:
    none = tmp_path / "services.json"
    with shared(Redis, tmp_path, none) as first:
        Redis.attach(first.record()).kill()
        with shared(Redis, tmp_path, none) as second:
            assert second.pid != first.pid
            assert second.answers()
    assert not second.alive()


def test_the_workers_of_a_run_share_one(tmp_path: Path, needs_redis: None) -> None:
    (tmp_path / "test_workers.py").write_text(_WORKERS)
    done = _pytest(tmp_path, "-n", "3")
    assert done.returncode == 0, done.stdout
    said = {path.read_text() for path in tmp_path.glob("*.pid")}
    assert len(said) == 1
    pid, folder = said.pop().split()
    assert not Path(folder).exists()
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or ") Z " in stat.read_text()


_LACKING = """
from server.tests.services import errors, redis

def missing():
    raise errors.ServiceError("fetch it first")

redis.Redis.lacking = classmethod(lambda kind: {lacking!r})
redis.Redis.prepare = classmethod(lambda kind: missing())

def test_shared(redis_server): ...
def test_own(own_redis): ...
"""


@pytest.mark.parametrize(("lacking", "said"), [("no redis here", "no redis here"), ("", "fetch it first")])
@pytest.mark.parametrize("ci", ["", "true"])
def test_without_its_programs_a_test_skips_and_in_ci_it_fails(tmp_path: Path, lacking: str, said: str, ci: str) -> None:
    (tmp_path / "test_lacking.py").write_text(_LACKING.format(lacking=lacking))
    done = _pytest(tmp_path, "-rs", ci=ci)
    assert ("2 errors" if ci else "2 skipped") in done.stdout
    assert f"redis: {said}" in done.stdout or f"redis is missing in CI: {said}" in done.stdout
