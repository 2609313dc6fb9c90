"""The peers of the benchmark: how each is installed, started and described, and why one can't run here.

A peer is a small server by another library that does the same task as ours; README.md says what it is told and what
it sends. Nothing is guessed: a peer that can't run is listed with the reason.
"""

import re
import shutil
import subprocess
from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

HERE = Path(__file__).parent

Dialect = Literal["websocket", "socketio", "centrifuge"]
Compress = Literal["none", "default", "full"]


@dataclass(frozen=True, slots=True)
class Peer:
    """One server of the benchmark, by one way of sending of one library."""

    name: str
    language: str
    folder: str
    """Where its files are, under this folder; commands run there."""
    needs: tuple[str, ...]
    """Programs that must be in PATH."""
    install: tuple[tuple[str, ...], ...]
    """Commands that may be repeated; they write only to git-ignored folders under the peer's own."""
    built: str
    """A file that is there once it is installed."""
    command: tuple[str, ...]
    """How it is started, with {port}, {workload} and {compress} to fill in; run it in ``directory``."""
    version: tuple[str, ...]
    """Prints its versions in one line."""
    settings: str
    """What is measured: API and options, printed in its row of results."""
    modes: tuple[Compress, ...] = ("none", "default")
    """``--compress`` values that differ from each other for it."""
    dialect: Dialect = "websocket"
    easier: bool = False
    """It sends the same bytes to many connections, with one number for all: an easier task than ours."""
    lacking: str = field(default="")
    """Why there is no server of it at all; empty when there is one."""

    @property
    def directory(self) -> Path:
        return HERE / self.folder

    def why_not(self) -> str:
        """Why it can't run here, in one line; empty when it can."""
        if self.lacking:
            return self.lacking
        absent = [program for program in self.needs if shutil.which(program) is None]
        if absent:
            return f"no {' and no '.join(absent)} in PATH"
        if not (self.directory / self.built).exists():
            return f"not built: python -m loadtests.peers.install {self.name}"
        return ""

    def available(self) -> bool:
        return not self.why_not()

    def argv(self, port: int, workload: Path, compress: Compress = "none") -> list[str]:
        """The command that starts it; its working folder is ``directory``."""
        if compress not in self.modes:
            raise ValueError(f"{self.name} has no compress mode {compress!r}, only {', '.join(self.modes)}")
        values = {"port": port, "workload": workload.absolute(), "compress": compress}
        return [part.format(**values) for part in self.command]

    def versions(self) -> str:
        """Library and runtime with their versions, one line; asks the installed peer itself."""
        done = subprocess.run(self.version, cwd=self.directory, capture_output=True, text=True, timeout=60, check=False)
        line = re.sub(r"\s+", " ", done.stdout).strip()
        return line if done.returncode == 0 and line else "version unknown"


OPTIONS = ("--port", "{port}", "--workload", "{workload}", "--compress", "{compress}")
REQUIREMENTS = ("-r", "requirements.txt")
BROADCAST = (*OPTIONS, "--broadcast")


def python_peer(
    name: str,
    file: str,
    packages: str,
    settings: str,
    modes: tuple[Compress, ...] = ("none", "default"),
    easier: bool = False,
) -> Peer:
    """One of the servers in ``python``, which share a virtual environment."""
    python = ".venv/bin/python"
    return Peer(
        name=name,
        language="Python",
        folder="python",
        needs=("python3",),
        install=(
            ("python3", "-m", "venv", ".venv"),
            (python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--require-hashes", *REQUIREMENTS),
            (python, "-c", "open('.venv/installed', 'w').close()"),
        ),
        built=".venv/installed",
        command=(python, file, *(BROADCAST if easier else OPTIONS)),
        version=(python, "versions.py", *packages.split()),
        settings=settings,
        modes=modes,
        easier=easier,
    )


def node_peer(name: str, file: str, packages: str, settings: str, easier: bool = False) -> Peer:
    """One of the servers in ``node``."""
    return Peer(
        name=name,
        language="Node.js",
        folder="node",
        needs=("node", "npm"),
        install=(("npm", "ci", "--silent"),),
        built="node_modules/ws/package.json",
        command=("node", file, *(BROADCAST if easier else OPTIONS)),
        version=("node", "versions.mjs", *packages.split()),
        settings=settings,
        modes=("none", "default", "full"),
        dialect="socketio" if file == "socketio.mjs" else "websocket",
        easier=easier,
    )


def bun_peer(name: str, settings: str, easier: bool = False) -> Peer:
    """The server on Bun, whose program is in an npm package."""
    bun = "node_modules/.bin/bun"
    return Peer(
        name=name,
        language="Bun",
        folder="bun",
        needs=("node", "npm"),
        install=(("npm", "ci", "--silent"), (bun, "--version")),
        built=bun,
        command=(bun, "server.mjs", *(BROADCAST if easier else OPTIONS)),
        version=(bun, "--print", "`bun ${Bun.version} (uWebSockets inside)`"),
        settings=settings,
        modes=("none", "default", "full"),
        easier=easier,
    )


def go_peer(name: str, settings: str, easier: bool = False) -> Peer:
    """The server in Go."""
    return Peer(
        name=name,
        language="Go",
        folder="go",
        needs=("go",),
        install=(("go", "build", "-p", "2", "-trimpath", "-o", "bin/gorilla", "."),),
        built="bin/gorilla",
        command=("bin/gorilla", *(BROADCAST if easier else OPTIONS)),
        version=("bin/gorilla", "--version"),
        settings=settings,
        easier=easier,
    )


PEERS = [
    python_peer(
        "websockets",
        "websockets_server.py",
        "websockets uvloop",
        "asyncio.serve on uvloop, send(bytes, text=True) one connection after the other; pings every 20 s; "
        "default: permessage-deflate as shipped (window 12, memLevel 5, context kept, every message); "
        "full: window 15, memLevel 8",
        modes=("none", "default", "full"),
    ),
    python_peer(
        "websockets-broadcast",
        "websockets_server.py",
        "websockets uvloop",
        "asyncio.serve on uvloop, broadcast(connections of a set, bytes, text=True); compression as in websockets",
        modes=("none", "default", "full"),
        easier=True,
    ),
    node_peer(
        "ws",
        "ws.mjs",
        "ws bufferutil",
        "send(string) per connection, bufferutil installed, no pings (as shipped); "
        "default: perMessageDeflate with its README's values (level 3, window 10, memLevel 7, no context, from 1 KB "
        "on); full: true (zlib as it comes, context kept, every message)",
    ),
    bun_peer(
        "bun",
        "ws.send(string, compress), one ws.cork() per connection when there are several messages; backpressure limit "
        "as shipped; default: perMessageDeflate true (shared compressor), for messages of 1 KB and more; "
        "full: a compressor per connection (dedicated, context kept)",
    ),
    bun_peer(
        "bun-publish",
        "server.publish(topic of a set, string, compress); compression as in bun",
        easier=True,
    ),
    python_peer(
        "picows",
        "picows_server.py",
        "picows uvloop aiofastnet",
        "ws_create_server on uvloop (aiofastnet, as shipped), WSTransport.send(TEXT, bytes); it has no compression",
        modes=("none",),
    ),
    python_peer(
        "aiohttp",
        "aiohttp_server.py",
        "aiohttp uvloop",
        "WebSocketResponse.send_frame(bytes, TEXT) on uvloop; no pings (as shipped); "
        "default: compress=True (window 15, context kept, every message)",
    ),
    node_peer(
        "socketio",
        "socketio.mjs",
        "socket.io ws bufferutil",
        "socket.emit('message', object) per socket, transports ['websocket'], first request dropped, bufferutil "
        "installed; pings every 25 s; compression as in ws",
    ),
    node_peer(
        "socketio-broadcast",
        "socketio.mjs",
        "socket.io ws bufferutil",
        "io.to(room of a set).emit('message', object); the rest as in socketio",
        easier=True,
    ),
    python_peer(
        "uvicorn",
        "uvicorn_server.py",
        "uvicorn starlette websockets uvloop httptools",
        "Starlette's websocket.send({'type': 'websocket.send', 'text': …}) under uvicorn, ws=websockets-sansio, "
        "uvloop, httptools; pings every 20 s; default: ws_per_message_deflate (window 12, memLevel 5, every message)",
    ),
    go_peer(
        "gorilla",
        "a goroutine and a channel per connection, WriteMessage(TextMessage, …); write buffers of 4 KB from a pool; "
        "default: EnableCompression, level 1, no context kept (all it has), for messages of 1 KB and more",
    ),
    go_peer(
        "gorilla-prepared",
        "one PreparedMessage per set and tick, WritePreparedMessage from a goroutine per connection; the rest as in "
        "gorilla",
        easier=True,
    ),
    Peer(
        name="tokio-tungstenite",
        language="Rust",
        folder="rust",
        needs=("cargo",),
        install=(("cargo", "build", "--quiet", "--release", "--jobs", "2"),),
        built="target/release/tungstenite-peer",
        command=("target/release/tungstenite-peer", *OPTIONS),
        version=("target/release/tungstenite-peer", "--version"),
        settings="release build, a task per connection woken by a broadcast channel per set, send(Message::text), "
        "current-thread runtime (the server has one core), read_buffer_size 4 KiB (shipped: 128 KiB, zeroed at each "
        "look for input: twice the CPU); it has no compression",
        modes=("none",),
    ),
    Peer(
        name="centrifuge",
        language="Go",
        folder="go",
        needs=("go",),
        install=(),
        built="",
        command=(),
        version=(),
        settings="channel publish by the library inside Centrifugo",
        modes=(),
        dialect="centrifuge",
        easier=True,
        lacking="not measured: the module proxy does not serve its module",
    ),
]
"""Every peer, in the order of their rows."""

BY_NAME = {peer.name: peer for peer in PEERS}

NAMES_HELP: Final = f"all when none is named; {', '.join(BY_NAME)}"


def peer_named(name: str) -> Peer:
    """A peer, for a command line.

    Raises:
        ArgumentTypeError: there is none of this name.
    """
    if name not in BY_NAME:
        raise ArgumentTypeError(f"no peer is called {name}; there are {', '.join(BY_NAME)}")
    return BY_NAME[name]
