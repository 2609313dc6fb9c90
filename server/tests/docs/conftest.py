"""A server as a reader of the documentation starts it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@contextmanager
def serving(*options: str, cwd: Path = ROOT) -> Iterator[int]:
    """The port of a server with these options; Ctrl-C ends it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "tokenwire_server", *options, "--drain", "0"]
    environment = {**os.environ, "PORT": str(free), "TOKENWIRE_ENV_FILE": os.devnull}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=cwd
    ) as server:
        assert server.stdout is not None
        assert f":{free}/api/v1/ws/token-data" in server.stdout.readline().decode()
        yield free
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0, "Ctrl-C is a good end"


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """Of a simulated market."""
    with serving("--seed", "7") as free:
        yield free
