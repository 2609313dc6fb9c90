"""Start a server with the probe on one core, Locust on the others, wait, and pass the verdict on: ``make load``."""

import argparse
import contextlib
import importlib.util
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from loadtests.load.host import endpoint
from loadtests.load.shapes import SHAPES
from loadtests.machine import apart, free_port

__all__ = ["main", "parse"]

ROOT: Final = Path(__file__).parents[2]
LOCUSTFILE: Final = ROOT / "loadtests/locustfile.py"
DEFAULT_USERS: Final = 1000
_START_S: Final = 20.0
_END_S: Final = 15.0
_CONNECT_S: Final = 2.0
_SPARE_CONNECTIONS: Final = 100  # who comes back may do so before the server has seen the old socket's end
_COULD_NOT_RUN: Final = 2
_INTERRUPTED: Final = 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage of ten."""
        _fail(f"{message} (--help tells all options)")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _Parser(
        prog="make load ARGS=…",
        description="Load a server of its own (fed by the probe) with Locust. Exit code 0: within the gate; 1: not; "
        "3: the run says nothing about the server; 2: it could not run; 130: interrupted before there was a verdict.",
    )
    shapes = "; ".join(f"{name}: {shape.meaning}" for name, shape in SHAPES.items())
    parser.add_argument("--shape", choices=list(SHAPES), default="ramp", help=f"{shapes} (ramp)")
    number = parser.add_argument
    number("--users", type=_whole(1, 100_000), default=DEFAULT_USERS, metavar="N", help="most users at once (1000)")
    number("--duration", type=_real(1, 2_592_000), default=120.0, metavar="SECONDS", help="length of the run (120)")
    number("--rate", type=_real(0, 100_000), default=0.0, metavar="N", help="users that come a second (the shape's)")
    number("--tokens", type=_whole(1, 100), default=100, metavar="N", help="tokens of each user, 1 to 100 (100)")
    number("--update-interval", type=_real(0.05, 3600), default=5.0, metavar="SECONDS", help="of the server (5)")
    number("--processes", type=_whole(1, 1000), default=1, metavar="N", help="Locust's worker processes (1)")
    parser.add_argument("--strict", action="store_true", help="negotiate nothing: one message for each token")
    number("--gate-ms", type=_real(0.001, 3_600_000), default=100.0, metavar="MS", help="p99 must be below (100)")
    parser.add_argument("--host", default="", metavar="URL", help="load this server instead (ws://127.0.0.1:PORT)")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="for the reports (build/load/SHAPE)")
    options = parser.parse_args(arguments)
    if options.processes > options.users:
        parser.error("--processes cannot exceed --users")
    try:
        if options.host:
            endpoint(options.host)
    except ValueError as error:
        parser.error(str(error))
    options.results = options.results or ROOT / "build/load" / options.shape
    return options


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} to {most:,}")
        return value

    return read


def _real(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f"{text} is no number from {least:g} to {most:,.0f}")
        return value

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is that of the gate's verdict, if there is one."""
    options = parse(arguments)
    if importlib.util.find_spec("locust") is None:
        _fail("it needs Locust; install it: pip install 'tokenwire[loadtest]'")
    if not hasattr(os, "sched_setaffinity"):
        _fail("it needs Linux: the server gets a core of its own, which cannot be arranged here")
    if options.host:
        _try(options.host)
    summary = _prepare(options)
    signal.signal(signal.SIGTERM, _interrupt)
    server_cores, locust_cores = _cores()
    server: subprocess.Popen[bytes] | None = None
    locust: subprocess.Popen[bytes] | None = None
    try:
        url = options.host
        if not url:
            port = free_port()
            server = _start_server(options, port, server_cores)
            url = f"ws://127.0.0.1:{port}"
        locust = _start_locust(options, url, locust_cores)
        return _verdict(locust.wait(), summary)
    except KeyboardInterrupt:
        # Ctrl-C reaches Locust as well; it ends the users, judges and writes its reports.
        return _wait_a_little(locust, summary) if locust is not None else _INTERRUPTED
    finally:
        for process in (locust, server):
            if process is not None:
                _end(process)


def _try(url: str) -> None:
    """A connect tells a server that is not there before Locust tells it a thousand times."""
    host, port = endpoint(url)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET  # as the users do
    try:
        with socket.socket(family) as probe:
            probe.settimeout(_CONNECT_S)
            probe.connect((host, port))
    except OSError as error:
        _fail(
            f"nobody answers on {url} ({error.strerror or error}): start the server first, as with "
            f"'tokenwire-server run --source probe --port {port}', or leave --host out and it gets one of its own"
        )


def _prepare(options: argparse.Namespace) -> Path:
    """Make the folder for the reports; the path of the summary, of which no earlier run's is there any more."""
    options.results = options.results.absolute()  # Locust runs in another folder
    summary: Path = options.results / "summary.json"
    try:
        options.results.mkdir(parents=True, exist_ok=True)
        summary.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=options.results):
            pass
    except OSError as error:
        _fail(f"--results {_shown(options.results)}: cannot write there: {error.strerror or error}")
    return summary


def _start_server(options: argparse.Namespace, port: int, cores: set[int]) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "tokenwire_server", "run", "--port", str(port), "--drain", "0"),
        *("--source", f"probe:{options.tokens}", "--update-interval", str(options.update_interval)),
        *("--max-connections", str(options.users + _SPARE_CONNECTIONS), "--log-level", "warning"),
    ]
    environment = {**os.environ, "TOKENWIRE_ENV_FILE": os.devnull}
    # In a session of its own: a Ctrl-C must not end it before the users have gone.
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    _pin(process, cores)
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
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    command += ["--only-summary", "--csv-full-history", *(["--strict"] if options.strict else [])]
    command += [part for name, value in words.items() if value is not None for part in (name, str(value))]
    if options.processes > 1:
        port = str(free_port())
        command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    print(
        f"{options.shape}: {options.users} users of {options.tokens} tokens for {options.duration:.0f} s on {url}, "
        f"a tick every {options.update_interval:g} s; reports in {_shown(results)}",
        flush=True,
    )
    process = subprocess.Popen(command, cwd=ROOT)
    _pin(process, cores)
    return process


def _pin(process: subprocess.Popen[bytes], cores: set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended at once; whoever waits for it says so
        os.sched_setaffinity(process.pid, cores)


def _verdict(code: int, summary: Path) -> int:
    """The exit code of a run: Locust's, if it is that of a verdict. A Locust that crashed ends with 1, like FAILED."""
    if code == _judged(summary):
        return code
    if code != _COULD_NOT_RUN:  # for which Locust's side gave its reason
        print(f"load: Locust ended with exit code {code} and without a verdict; see above", file=sys.stderr)
    return _COULD_NOT_RUN


def _judged(summary: Path) -> int | None:
    """The verdict that was written, if any."""
    try:
        code = json.loads(summary.read_bytes())["exit_code"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, int) else None


def _wait_a_little(process: subprocess.Popen[bytes], summary: Path) -> int:
    try:
        code = process.wait(_END_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return _INTERRUPTED
    return _INTERRUPTED if _judged(summary) is None else _verdict(code, summary)


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
    first, others = apart()
    if not others:
        print("load: a single core for server and Locust: the run will hardly be valid", file=sys.stderr)
    return {first}, set(others) or {first}


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(line: str) -> NoReturn:
    print(f"load: {line}", file=sys.stderr)
    raise SystemExit(_COULD_NOT_RUN)


if __name__ == "__main__":
    raise SystemExit(main())
