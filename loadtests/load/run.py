"""Start a server with the probe on one core, Locust on the others, wait, and pass the verdict on: ``make load``."""

import argparse
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from loadtests.load.shapes import SHAPES

__all__ = ["main"]

ROOT: Final = Path(__file__).parents[2]
DEFAULT_USERS: Final = 1000
_START_S: Final = 20.0
_END_S: Final = 15.0
_SPARE_CONNECTIONS: Final = 100  # who comes back may do so before the server has seen the old socket's end


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make load ARGS=…",
        description="Load a server of its own (fed by the probe) with Locust. Exit code 0: within the gate; 1: not; "
        "3: the run says nothing about the server; 2: it could not run.",
    )
    shapes = "; ".join(f"{name}: {shape.meaning}" for name, shape in SHAPES.items())
    parser.add_argument("--shape", choices=list(SHAPES), default="ramp", help=f"{shapes} (ramp)")
    parser.add_argument("--users", type=int, default=DEFAULT_USERS, metavar="N", help="most users at once (1000)")
    parser.add_argument("--duration", type=float, default=120.0, metavar="SECONDS", help="length of the run (120)")
    parser.add_argument("--rate", type=float, default=0.0, metavar="N", help="users that come a second (the shape's)")
    parser.add_argument("--tokens", type=int, default=100, metavar="N", help="tokens of each user, 1 to 100 (100)")
    parser.add_argument("--update-interval", type=float, default=5.0, metavar="SECONDS", help="of the server (5)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="Locust's worker processes (1)")
    parser.add_argument("--strict", action="store_true", help="negotiate nothing: one message for each token")
    parser.add_argument("--gate-ms", type=float, default=100.0, metavar="MS", help="p99 must be below (100)")
    parser.add_argument("--host", default="", metavar="URL", help="load this server instead (ws://127.0.0.1:PORT)")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="for the reports (build/load/SHAPE)")
    options = parser.parse_args(arguments)
    if options.users < 1 or options.duration < 1 or options.processes < 1:
        parser.error("--users, --duration and --processes are at least 1")
    if not 1 <= options.tokens <= 100:
        parser.error("--tokens is 1 to 100, as many as a connection may hold")
    if options.processes > options.users:
        parser.error("--processes cannot exceed --users")
    options.results = options.results or ROOT / "build/load" / options.shape
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is Locust's, which is the gate's."""
    options = parse(arguments)
    if importlib.util.find_spec("locust") is None:
        _fail("it needs Locust; install it: pip install 'tokenwire[loadtest]'")
    signal.signal(signal.SIGTERM, _interrupt)
    server_cores, locust_cores = _cores()
    server: subprocess.Popen[bytes] | None = None
    locust: subprocess.Popen[bytes] | None = None
    try:
        url = options.host
        if not url:
            port = _free_port()
            server = _start_server(options, port, server_cores)
            url = f"ws://127.0.0.1:{port}"
        options.results.mkdir(parents=True, exist_ok=True)
        locust = _start_locust(options, url, locust_cores)
        return _wait(locust)
    except KeyboardInterrupt:
        # Ctrl-C reaches Locust as well; it ends the users, judges and writes its reports.
        return _wait_a_little(locust) if locust is not None else 130
    finally:
        for process in (locust, server):
            if process is not None:
                _end(process)


def _start_server(options: argparse.Namespace, port: int, cores: set[int]) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "tokenwire_server", "run", "--port", str(port), "--drain", "0"),
        *("--source", f"probe:{options.tokens}", "--update-interval", str(options.update_interval)),
        *("--max-connections", str(options.users + _SPARE_CONNECTIONS), "--log-level", "warning"),
    ]
    environment = {**os.environ, "TOKENWIRE_ENV_FILE": os.devnull}
    # In a session of its own: a Ctrl-C must not end it before the users have gone.
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    os.sched_setaffinity(process.pid, cores)
    until_s = time.monotonic() + _START_S
    try:
        while True:
            if process.poll() is not None:
                _fail(f"the server ended at once with exit code {process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return process
            if time.monotonic() > until_s:
                _fail(f"the server did not listen within {_START_S:.0f} s")
            time.sleep(0.05)
    except BaseException:
        _end(process)
        raise


def _start_locust(options: argparse.Namespace, url: str, cores: set[int]) -> subprocess.Popen[bytes]:
    results = options.results
    words = {
        "--host": url,
        "--shape": options.shape,
        "--users": options.users,
        "--run-time": f"{round(options.duration)}s",
        "--spawn-rate": options.rate or None,
        "--tokens": options.tokens,
        "--update-interval": options.update_interval,
        "--gate-ms": options.gate_ms,
        "--processes": options.processes if options.processes > 1 else None,
        "--summary": results / "summary.json",
        "--html": results / "report.html",
        "--csv": results / "locust",
        "--loglevel": "WARNING",
    }
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests/locustfile.py"), "--headless"]
    command += ["--only-summary", "--csv-full-history", *(["--strict"] if options.strict else [])]
    command += [part for name, value in words.items() if value is not None for part in (name, str(value))]
    if options.processes > 1:
        port = str(_free_port())
        command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    print(
        f"{options.shape}: {options.users} users of {options.tokens} tokens for {options.duration:.0f} s on {url}, "
        f"a tick every {options.update_interval:g} s; reports in {_shown(results)}",
        flush=True,
    )
    process = subprocess.Popen(command, cwd=ROOT)
    os.sched_setaffinity(process.pid, cores)
    return process


def _wait(process: subprocess.Popen[bytes]) -> int:
    return process.wait()


def _wait_a_little(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(_END_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return 130


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that this one started, if it runs still."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()


def _cores() -> tuple[set[int], set[int]]:
    """The server's core, and the others for Locust; on a machine of one core they share it."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        print("load: a single core for server and Locust: the run will hardly be valid", file=sys.stderr)
    return {first}, set(others) or {first}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(line: str) -> NoReturn:
    print(f"load: {line}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    raise SystemExit(main())
