"""What the Python peers share: the workload, who subscribed to what, and the grid of planned ticks.

A message is ``prefix``, the connection's own number, and a tail that is built once per tick and distinct set.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Generic, TypeVar

Connection = TypeVar("Connection")


class Client(Generic[Connection]):
    """A subscribed connection and the number of its last message."""

    __slots__ = ("connection", "group", "sequence")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.group: Group[Connection] | None = None
        self.sequence = 0


class Group(Generic[Connection]):
    """The clients that subscribed to the same tokens; ``sequence`` counts for all of them in the easier task."""

    __slots__ = ("members", "sequence", "wanted")

    def __init__(self, tokens: frozenset[int], count: int) -> None:
        self.wanted = [index in tokens for index in range(count)]
        self.members: dict[Client[Connection], None] = {}
        self.sequence = 0


class Feed(Generic[Connection]):
    """Ticks on a fixed grid, for the groups that have members."""

    def __init__(self, workload: Path) -> None:
        told = json.loads(workload.read_bytes())
        self.interval_ns: int = told["interval_ms"] * 1_000_000
        self.batch: bool = told["kind"] == "batch"
        self.prefix = b'{"type":"token_batch","sequence":' if self.batch else b'{"type":"token_update","sequence":'
        self.index: dict[str, int] = {token: index for index, token in enumerate(told["tokens"])}
        self.plan: list[list[tuple[int, bytes]]] = [
            [(index, data.encode()) for index, data in tick] for tick in told["ticks"]
        ]
        self.groups: dict[frozenset[int], Group[Connection]] = {}

    def subscribe(self, client: Client[Connection], message: str | bytes) -> None:
        """Take the client's first message; it is served from the next tick on."""
        tokens = frozenset(self.index[token] for token in json.loads(message)["data"]["tokens"])
        self.leave(client)
        client.group = self.groups.setdefault(tokens, Group(tokens, len(self.index)))
        client.group.members[client] = None

    def leave(self, client: Client[Connection]) -> None:
        if client.group is not None:
            client.group.members.pop(client, None)

    def tails(self, number: int, group: Group[Connection]) -> list[bytes]:
        """What follows the number in each message of a tick: none when nothing of the set changed."""
        wanted = group.wanted
        changed = [data for index, data in self.plan[number % len(self.plan)] if wanted[index]]
        stamp = b',"timestamp":%d,"data":' % (time.time_ns() // 1_000_000)
        if not self.batch:
            return [b"%b%b}" % (stamp, data) for data in changed]
        return [b'%b{"updates":[%b]}}' % (stamp, b",".join(changed))] if changed else []

    async def ticks(self) -> AsyncIterator[list[tuple[Group[Connection], list[Client[Connection]], list[bytes]]]]:
        """Each tick at its planned instant: the groups, their members now, and the tails of their messages."""
        print("listening", flush=True)
        start = -(-time.monotonic_ns() // 1_000_000) * 1_000_000
        print(f"grid {start}", flush=True)
        number = 0
        while True:
            number = max(number + 1, -(-(time.monotonic_ns() - start) // self.interval_ns) - 1)
            due = start + number * self.interval_ns
            while (early := due - time.monotonic_ns()) > 0:
                await asyncio.sleep(early / 1e9)
            yield [
                (group, list(group.members), self.tails(number, group))
                for group in self.groups.values()
                if group.members
            ]


def options(library: str) -> argparse.Namespace:
    """The command line of every peer."""
    parser = argparse.ArgumentParser(description=f"The benchmark's task on {library}; see loadtests/peers/README.md.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--compress", choices=["none", "default", "full"], default="none")
    parser.add_argument("--broadcast", action="store_true", help="one number for all: the easier task")
    return parser.parse_args()
