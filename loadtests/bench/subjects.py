"""What is measured: our server in each of its modes, the floor, and the peers."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from loadtests.bench.tools import ROOT, compiled
from loadtests.peers.manifest import BY_NAME, Compress, Peer

__all__ = ["KEEP_CONTEXT", "OURS", "Subject", "floor_of", "ours", "peer_subject"]

Family = Literal["ours", "floor", "peer"]

KEEP_CONTEXT: Final = frozenset({"websockets", "websockets-broadcast", "aiohttp", "uvicorn"})
"""Peers whose default compression refers to earlier messages."""


@dataclass(frozen=True)
class Subject:
    """One row: a server and the mode it is asked for. ``label`` is unique within a workload."""

    label: str
    family: Family
    mode: str
    query: str = ""
    deflate: bool = False
    first_messages: int = 0
    """Messages that a client waits for before it counts as ready (0: it gets no answer to a subscription)."""
    settings: str = ""
    easier: bool = False
    dialect: str = "websocket"
    peer: str = ""
    keeps_context: bool = False
    """It compresses with what it sent before, so its first messages are larger than those that follow."""
    packs: bool = False
    """Its batches come compressed, every one."""
    bytes_per_tick: int = 0
    """Of the floor: what it sends to each connection at each tick."""
    stands_for: str = ""
    """Of the floor: the rows that it is the floor of."""

    def command(self, port: int, workload: Path, interval_ms: int, frames: int) -> tuple[list[str], Path | None]:
        """How it is started, and where."""
        if self.family == "ours":
            command = [sys.executable, "-m", "loadtests.bench.ours"]
            return [*command, "--port", str(port), "--workload", str(workload)], ROOT
        if self.family == "floor":
            words = ["--port", port, "--interval-ms", interval_ms, "--frames", frames, "--bytes", self.bytes_per_tick]
            return [str(compiled("floor")), *map(str, words)], None
        peer = BY_NAME[self.peer]
        compress: Compress = self.mode  # type: ignore[assignment]
        return peer.argv(port, workload, compress), peer.directory


def ours(mode: str) -> Subject:
    """Our server, by the name of a mode."""
    return OURS[mode]


def _ours(mode: str, query: str, deflate: bool, settings: str) -> Subject:
    keeps = deflate or "zstd" in query
    return Subject(f"tokenwire {mode}", "ours", mode, query, deflate, 3, settings, keeps_context=keeps, packs=keeps)


OURS: Final[Mapping[str, Subject]] = {
    subject.mode: subject
    for subject in (
        _ours("strict", "", False, "nothing negotiated: v1.0 as it stands"),
        _ours("resume", "?caps=resume", False, "caps=resume: what is sent is kept for a replay"),
        _ours("batch", "?caps=batch", False, "caps=batch, not compressed"),
        _ours("deflate", "?caps=batch", True, "caps=batch, permessage-deflate: compressed once, window shared"),
        _ours("zstd", "?caps=batch,zstd", False, "caps=batch,zstd: compressed once, window shared"),
        _ours("deflate+resume", "?caps=batch,resume", True, "caps=batch,resume, permessage-deflate"),
        _ours("strict+deflate", "", True, "nothing negotiated but permessage-deflate, as browsers offer"),
    )
}


def floor_of(bytes_per_tick: int, stands_for: str) -> Subject:
    """A loop of send() of so many bytes."""
    return Subject(
        f"floor of {stands_for}",
        "floor",
        "none",
        settings=f"C: one send() of {bytes_per_tick} ready bytes per connection and tick",
        bytes_per_tick=bytes_per_tick,
        stands_for=stands_for,
    )


def peer_subject(peer: Peer, compressed: bool) -> Subject:
    """A peer, compressing by its default if the task asks for it and it can."""
    mode: Compress = "default" if compressed and "default" in peer.modes else "none"
    return Subject(
        f"{peer.name} {mode}" if compressed else peer.name,
        "peer",
        mode,
        deflate=mode != "none",
        settings=peer.settings,
        easier=peer.easier,
        dialect=peer.dialect,
        peer=peer.name,
        keeps_context=mode != "none" and peer.name in KEEP_CONTEXT,
        packs=mode != "none",
    )
