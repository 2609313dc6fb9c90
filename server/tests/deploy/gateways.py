"""What stands behind the balancer in these tests: real servers, and one that answers as it is told."""

import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from ..services.haproxy import Gateway
from ..services.ports import free_port
from ..services.process import POLL_S, Process, spawn

START_S = 60
END_S = 30


def get(url: str) -> str:
    """What is served there; ``OSError`` when nothing is."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


class LiveGateway:
    """``tokenwire-server run`` in a process of its own, with a market that every one of the same seed makes alike."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.place = Gateway(self.port, self.port)
        self.options = options
        self.log = folder / f"gateway-{self.port}.log"
        self.process: Process | None = None

    def launch(self) -> None:
        """Start it without waiting for it."""
        command = [sys.executable, "-m", "tokenwire_server", "run", "--seed", "7", "--update-interval", "0.1"]
        self.process = spawn([*command, "--port", str(self.port), *self.options], self.log)

    def start(self) -> None:
        """Start it; returns when it is ready."""
        self.launch()
        deadline = time.monotonic() + START_S
        while not self.ready():
            assert self.running.alive(), self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(POLL_S)

    @property
    def running(self) -> Process:
        assert self.process is not None
        return self.process

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=2):
                return True
        except OSError:
            return False

    def restart(self) -> None:
        """SIGTERM: it drains and ends; then start it anew."""
        self.terminate()
        self.wait()
        self.start()

    def terminate(self) -> None:
        """SIGTERM, and go on while it drains."""
        if self.running.alive():
            os.kill(self.running.pid, signal.SIGTERM)

    def wait(self) -> None:
        """Until it has ended by itself."""
        deadline = time.monotonic() + END_S
        while self.running.alive():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(POLL_S)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill(END_S)


@dataclass
class ScriptedGateway:
    """Answers every request in the same way, and writes down what it was asked."""

    status: int = 200
    """Of every answer except that to ``/ready``; 0 closes the connection instead."""
    ready: bool = True
    port: int = 0
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers (names in small letters) of every request except for ``/ready``."""

    @property
    def place(self) -> Gateway:
        return Gateway(self.port, self.port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: the balancer resets connections of checks whose answer it has."""


@contextmanager
def scripted(status: int = 200, *, ready: bool = True) -> Iterator[ScriptedGateway]:
    """One that listens on the loopback for the block."""
    gateway = ScriptedGateway(status, ready)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            status = gateway.status
            if self.path == "/ready":
                status = 200 if gateway.ready else 503
            else:
                names = {name.lower() for name in self.headers}
                headers = {name: ", ".join(self.headers.get_all(name) or ()) for name in names}
                gateway.asked.append((self.command, self.path, headers))
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: what was asked is in ``asked``."""

    server = _Server(("127.0.0.1", 0), Handler)
    gateway.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_S})
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
