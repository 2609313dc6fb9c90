"""The command line: what it accepts, what it says, and that mistakes are one line and exit code 2."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from tokenwire_server.errors import UserError
from tokenwire_server.settings import Settings
from tokenwire_server.settings_flags import FLAGS

from .command import run


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PORT", "RUST_LOG", "NODE_ENV", "TOKENWIRE_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """An application that only notes what it is asked to serve."""
    seen: list[Settings] = []

    def serve(settings: Settings) -> int:
        seen.append(settings)
        return 3

    app = types.ModuleType("tokenwire_server.app")
    app.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokenwire_server.app", app)
    return seen


@pytest.mark.parametrize("arguments", [("--port", "9000"), ("run", "--port", "9000"), ("run", "--port=9000")])
def test_run_is_the_default_command(served: list[Settings], arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == 3
    assert served[0].port == 9000


def test_no_argument_at_all_runs_with_defaults(served: list[Settings]) -> None:
    assert run() == 3
    assert served[0].model_dump() == Settings().model_dump()


def test_every_flag_reaches_its_setting(served: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "x.env").write_text("TOKENWIRE_ACCESS_LOG=true\n")
    values = {
        "--host": "::1",
        "--port": "1",
        "--update-interval": "0.05",
        "--max-connections": "7",
        "--source": "none",
        "--seed": "5",
        "--tape-speed": "max",
        "--tls-cert": "c.pem",
        "--tls-key": "k.pem",
        "--data": "kept",
        "--drain": "0.5",
        "--socketio": "",
        "--log-level": "debug",
        "--log-format": "json",
    }
    assert values.keys() == set(FLAGS.values())
    arguments = [part for pair in values.items() for part in pair if part]
    assert run(*arguments, "--env-file", "x.env") == 3
    expected = Settings(
        host="::1",
        port=1,
        update_interval_s=0.05,
        max_connections=7,
        source=("none",),
        seed=5,
        tape_speed=0,
        tls_cert=Path("c.pem"),
        tls_key=Path("k.pem"),
        data=Path("kept"),
        drain_s=0.5,
        socketio=True,
        log_level="debug",
        log_format="json",
        access_log=True,
    )
    assert served[0].model_dump() == expected.model_dump()


def test_sources_can_be_repeated(served: list[Settings]) -> None:
    run("--source", "simulator", "--source", "tape:x.jsonl")
    assert served[0].source == ("simulator", "tape:x.jsonl")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "99999"), "--port cannot be '99999'"),
        (("--prot", "1"), "No such option: --prot"),
        (("--port",), "--port"),
        (("serve",), "No such command 'serve'"),
        (("--source", "binance:BTCUSDT@ftp://x"), "not a WebSocket URL"),
        (("config", "--env-file", "gone"), "cannot read the env file gone"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tokenwire-server: [^\n]+\n", err)
    assert words in err


def test_a_mistake_found_while_starting_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], served: list[Settings]
) -> None:
    def serve(_: Settings) -> int:
        raise UserError("port 8080 is\nbusy")

    monkeypatch.setattr(sys.modules["tokenwire_server.app"], "serve", serve)
    assert run() == 2
    assert capsys.readouterr().err == "tokenwire-server: port 8080 is busy\n"


def test_ctrl_c_is_130_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], served: list[Settings]
) -> None:
    def serve(_: Settings) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["tokenwire_server.app"], "serve", serve)
    assert run() == 130
    assert capsys.readouterr() == ("", "")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert "wscat -c ws://127.0.0.1:8080/api/v1/ws/token-data" in text
    assert '{"type":"subscription","data":{"action":"subscribe","tokens":["DOGE"]}}' in text
    for word in (*FLAGS.values(), "--env-file", "--reload", "--version", "config", "binance:SYM,SYM[@URL]", ".env"):
        assert word in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert re.fullmatch(r"tokenwire-server \d+\.\d+\S*\n", capsys.readouterr().out)


def test_config_shows_values_and_origins(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "3000")
    monkeypatch.setenv("REDIS_URL", "redis://user:secret@host")
    monkeypatch.setenv("TOKENWIRE_UPDATE_INTERVAL", "1")
    assert run("config", "--seed", "4") == 0
    out, err = capsys.readouterr()
    assert re.search(r"TOKENWIRE_PORT +3000 +environment PORT", out)
    assert re.search(r"TOKENWIRE_SEED +4 +flag --seed", out)
    assert re.search(r"TOKENWIRE_HOST +127\.0\.0\.1 +default", out)
    assert re.search(r"TOKENWIRE_REDIS_URL +\*{4} +environment REDIS_URL", out)
    assert "TOKENWIRE_UPDATE_INTERVAL is no setting" in err
    assert "secret" not in out + err


def test_config_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "--json", "--port", "1") == 0
    shown = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in shown["settings"]}
    assert rows.keys() == Settings.model_fields.keys()
    assert rows["port"] == {"name": "port", "env": "TOKENWIRE_PORT", "value": "1", "origin": "flag --port"}


@pytest.mark.parametrize("missing", ["typer", "pydantic_settings"])
def test_a_base_install_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(sys.modules):
        if name.startswith(("tokenwire_server.cli", "tokenwire_server.settings", missing)):
            monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    assert run("config") == 2
    assert capsys.readouterr().err == (
        f"tokenwire-server: {missing} is not installed; install the server: pip install 'tokenwire[server]'\n"
    )


def test_reload_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert run("--reload") == 2
    assert "pip install 'tokenwire[reload]'" in capsys.readouterr().err


def test_reload_runs_the_same_command_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Path, ...], dict[str, str]]] = []
    fake = types.ModuleType("watchfiles")
    fake.run_process = lambda *paths, **options: calls.append((paths, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "watchfiles", fake)
    assert run("--reload", "--port", "9000", "--source", "simulator", "--source", "tape:a b", "--socketio") == 0
    paths, options = calls[0]
    assert {path.name for path in paths} == {"tokenwire_server", "tokenwire_schemas"}
    assert options["target"].startswith(f"{sys.executable} -m tokenwire_server run ")
    assert options["target"].endswith("--drain 0 --port 9000 --source simulator --source 'tape:a b' --socketio")


def test_help_is_quick_and_light() -> None:
    """No server library may be imported before a command runs."""
    probe = (
        "import sys; from tokenwire_server.cli import run_command; run_command(['--help']); "
        "heavy = {'fastapi', 'uvicorn', 'opentelemetry', 'aiohttp', 'pydantic_settings'} & sys.modules.keys(); "
        "sys.exit(','.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m tokenwire_server --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_reload_ends_with_its_child(tmp_path: Path, stop: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tokenwire_server", "--reload", "--port", str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    patience = threading.Timer(20, process.kill)
    patience.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if str(port) in line and "ws://" in line:
                break
        process.send_signal(stop)
        assert process.wait(10) == 0
        time.sleep(0.1)
        socket.create_server(("127.0.0.1", port)).close()
    finally:
        patience.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
