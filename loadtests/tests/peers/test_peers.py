"""Each peer does the benchmark's task, and the check that says so notices when one does not."""

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from loadtests.peers.check import CheckError, cases, examine
from loadtests.peers.manifest import BY_NAME, PEERS, Compress, Peer

OWN = {"websockets": "websockets", "websockets-broadcast": "websockets", "aiohttp": "aiohttp", "uvicorn": "starlette"}
"""Peers whose libraries our own tests need anyway: these run on this Python where they have none of theirs."""


def here(peer: Peer) -> Peer:
    """The peer as it can run here."""
    library = OWN.get(peer.name)
    if peer.available() or library is None or importlib.util.find_spec(library) is None:
        return peer
    return dataclasses.replace(peer, needs=(), built="feed.py", command=(sys.executable, *peer.command[1:]))


# The rest has to be installed first (a compiler's and three package managers' work), which a CI run need not do.
WRITTEN = [here(peer) for peer in PEERS if not peer.lacking]
CHECKED = [peer for peer in WRITTEN if peer.available() or not os.environ.get("CI")]
CASES = [(peer, compress, kind) for peer in CHECKED for compress, kind in cases(peer)]


@pytest.mark.parametrize(
    ("peer", "compress", "kind"), CASES, ids=[f"{peer.name}-{compress}-{kind}" for peer, compress, kind in CASES]
)
async def test_it_does_the_task(peer: Peer, compress: Compress, kind: str) -> None:
    if not peer.available():
        pytest.skip(peer.why_not())
    try:
        await examine(peer, compress, kind)
    except CheckError:  # a tick may be a whole interval late on a busy machine: once more
        await examine(peer, compress, kind)


def changed(tmp_path: Path, old: str, new: str) -> Peer:
    """A peer with a mistake."""
    source = BY_NAME["websockets"].directory
    for name in ("feed.py", "websockets_server.py"):
        text = (source / name).read_text()
        (tmp_path / name).write_text(text.replace(old, new))
    peer = BY_NAME["websockets"]
    command = (sys.executable, str(tmp_path / "websockets_server.py"), *peer.command[2:])
    return dataclasses.replace(peer, needs=(), built="feed.py", command=command)


MISTAKES = {
    "numbers": ("client.sequence += 1", "client.sequence += 2", "numbers"),
    "one number for all": ("client.sequence += 1", "client.sequence = group.sequence = group.sequence + 1", "numbers"),
    "everything to everybody": ("if wanted[index]]", "]", "not those of the workload"),
    "the wrong tick": ("self.plan[number %", "self.plan[(number + 1) %", "not those of the workload"),
    "seconds": ("// 1_000_000)", "// 1_000_000_000)", "not now in ms"),
    "no grid": ('print(f"grid {start}"', 'print(f"start {start}"', "instead of 'grid"),
    "compresses all the same": ('if told.compress == "default"', 'if told.compress == "none"', "told not to"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_the_check_notices(mistake: str, tmp_path: Path) -> None:
    old, new, said = MISTAKES[mistake]
    with pytest.raises(CheckError, match=said):
        await examine(changed(tmp_path, old, new), "none", "batch")


async def test_the_check_notices_a_peer_that_does_not_compress(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="offer"):
        await examine(changed(tmp_path, '"deflate"', "None"), "default", "batch")


async def test_the_check_notices_a_peer_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="SyntaxError"):
        await examine(changed(tmp_path, "async def main", "async main"), "none", "batch")


async def test_the_check_notices_a_peer_that_runs_on(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); uvloop.run(main())"
    with pytest.raises(CheckError, match="after SIGTERM"):
        await examine(changed(tmp_path, "uvloop.run(main())", deaf), "none", "batch")
