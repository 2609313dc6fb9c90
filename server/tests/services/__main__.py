"""Start and end the engines of the tests: ``python -m server.tests.services up|down|status|env|fetch``."""

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from . import haproxy
from .board import ENGINES, PATH, Board
from .engine import Engine, new_folder
from .errors import ServiceError
from .kafka import Kafka
from .lock import locked
from .postgres import Postgres
from .redis import Redis


def up(path: Path) -> int:
    """Start all of them, unless all run already; 1 when one can't be started, and then none is left."""
    if (board := Board.read(path)) is not None:
        if len(board.records) == len(ENGINES) and all(
            engine.alive() and engine.answers() for engine in board.engines()
        ):
            print("they run already")
            return status(path)
        board.clear(path)
    missing = [text for text in (*(kind.lacking() for kind in ENGINES), haproxy.lacking()) if text]
    if missing:
        raise ServiceError("; ".join(missing))
    print(f"haproxy {haproxy.version()} is {haproxy.find()}", flush=True)
    engines: list[Engine] = []
    folder = new_folder()
    try:
        for kind in ENGINES:
            began = time.monotonic()
            kind.prepare()
            prepared = time.monotonic()
            engine = kind(folder)
            engines.append(engine)
            engine.launch()
            print(
                f"{_line(engine)}, started in {time.monotonic() - prepared:.1f} s"
                + (f", fetched in {prepared - began:.1f} s" if prepared - began >= 1 else ""),
                flush=True,
            )
        Board.of(folder, engines).write(path)
    except BaseException:
        for engine in engines:
            engine.destroy()
        Board(folder, {}).clear(path)
        raise
    print(f"logs and data: {folder}; {path} names them")
    return 0


def down(path: Path) -> int:
    """End all of them by id and remove what they had."""
    board = Board.read(path)
    if board is None:
        print("none were started")
        return 0
    board.clear(path)
    print(f"ended: {', '.join(board.records)}")
    return 0


def status(path: Path) -> int:
    """One line for each; 1 unless all of them answer."""
    board = Board.read(path)
    engines = board.engines() if board is not None else []
    well = len(engines) == len(ENGINES)
    for engine in engines:
        state = "answers" if engine.answers() else "does not answer" if engine.alive() else "ended"
        well = well and state == "answers"
        print(f"{_line(engine)}: {state}")
    if not engines:
        print("none were started")
    return 0 if well else 1


def env(path: Path) -> int:
    """The settings that make a server use them, for ``eval``; passwords included."""
    board = Board.read(path)
    if board is None:
        raise ServiceError("none were started: make services")
    for engine in board.engines():
        for name, value in _settings(engine).items():
            print(f"export {name}={shlex.quote(value)}")
    return 0


def fetch(path: Path) -> int:
    """Get what has to be downloaded, so that ``up`` needs no network; what was got before is kept."""
    for kind in ENGINES:
        kind.prepare()
    return 0


def _settings(engine: Engine) -> dict[str, str]:
    match engine:
        case Kafka():
            return {"KAFKA_BOOTSTRAP_SERVERS": engine.address}
        case Postgres():
            return {
                "TIMESCALE_HOST": "127.0.0.1",
                "TIMESCALE_PORT": str(engine.port),
                "TIMESCALE_DB": "postgres",
                "TIMESCALE_USER": engine.user,
                "TIMESCALE_PASSWORD": engine.password,
            }
        case Redis():
            return {"REDIS_URL": engine.url()}
        case _:
            return {}


def _line(engine: Engine) -> str:
    return f"{engine.name} {engine.version} on {engine.address} (process {engine.pid})"


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    commands = {"up": up, "down": down, "status": status, "env": env, "fetch": fetch}
    parser = argparse.ArgumentParser(prog="python -m server.tests.services", description=__doc__)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--file", type=Path, default=PATH, help="where it is written what runs (%(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with locked(options.file.with_suffix(".lock")):
            return commands[options.command](options.file)
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more can be said, at the end of the interpreter neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
