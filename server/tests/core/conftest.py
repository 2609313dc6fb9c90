"""A hub with sockets that are lists, and peers that decode what is written with ``websockets``."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from tokenwire_schemas.messages import TokenUpdateData, Volume
from tokenwire_server.core.grants import NOTHING, Deflate, Offer
from tokenwire_server.core.hub import Hub, HubConfig
from tokenwire_server.core.link import Link
from tokenwire_server.core.session import Session
from tokenwire_server.core.topics import Topic, Topics

WALL = 1_700_000_000_000
LONG = "9" * 900
_KINDS = {"trades": b"transaction", "state": b"kline", "both": b"kline"}


@dataclass
class FakeValue:
    """A token whose price shows its version."""

    address: str
    source: str = "test"
    version: int = 1
    source_time_ms: int = 1_699_999_999_000
    has_value: bool = True
    cap: str = "0"

    def data(self) -> TokenUpdateData:
        return TokenUpdateData(self.address, str(self.version), self.cap, Volume("3", "2", "1"))


@dataclass
class FakeDirectory:
    """Resolves what it holds; a name with several values is ambiguous. ``trades`` has events, ``state`` a state."""

    values: dict[str, FakeValue] = field(default_factory=dict)
    symbols: dict[str, list[str]] = field(default_factory=dict)
    topics: dict[tuple[str, str], Topic] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)  # number of the newest
    states: dict[str, int] = field(default_factory=dict)
    sets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bare: set[str] = field(default_factory=set)  # without channels
    idle: list[tuple[str, str, bool]] = field(default_factory=list)

    def resolve(self, name: str) -> Any:
        found = [name] if name in self.values else self.symbols.get(name, [])
        if len(found) == 1:
            return SimpleNamespace(address=found[0], code=None, candidates=())
        code = "AMBIGUOUS_TOKEN" if found else "TOKEN_NOT_FOUND"
        return SimpleNamespace(address=None, code=code, candidates=tuple(found))

    def value(self, address: str) -> FakeValue | None:
        return self.values.get(address)

    def channel(self, name: str) -> str | None:
        return {"TRADES": "trades"}.get(name, name if name in ("trades", "state", "both") else None)

    def channel_names(self) -> str:
        return "token, trades, state and both"

    def set_names(self) -> str:
        return "set:all"

    def members(self, name: str) -> tuple[str, ...] | None:
        return self.sets.get(name)

    def topic(self, address: str, channel: str, topics: Topics) -> Topic | None:
        if address in self.bare:
            return None
        key = (address, channel)
        if key not in self.topics:
            topic = self.topics[key] = Topic(topics, address, channel, _KINDS[channel])
            topic.on_idle = lambda: self.idle.append((*key, self.topics.pop(key, None) is not None))
            if channel != "trades":
                topic.gap_ms = 250
                topic.state = lambda details: self.data(address, self.states.get(address, 0))
            if channel != "state":
                topic.recover = lambda number, newer, details: [
                    self.data(address, each) for each in range(number + 1, self.events.get(address, 0) - newer + 1)
                ]
        return self.topics[key]

    @staticmethod
    def data(address: str, number: int) -> bytes:
        return json.dumps({"address": address, "version": number, "padding": "x" * 50}).encode() if number else b""


class FakeSocket:
    """Keeps what is written until :meth:`read`; full above 64 KiB, as the real one is told to be."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.aborted = False
        self.on_full: Callable[[], None] = lambda: None

    def write(self, data: bytes, /) -> None:
        was_full = len(self.buffer) > 65536
        self.buffer += data
        if len(self.buffer) > 65536 and not was_full:
            self.on_full()

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def abort(self) -> None:
        self.aborted = True


class Client:
    """One connection seen from the client's side: numbers are checked on arrival.

    ``offer`` is what it asks for; with a position in it, numbers go on from there if the session is resumed.
    """

    def __init__(self, bench: "Bench", deflate: bool | Deflate = False, offer: Offer = NOTHING) -> None:
        self.bench = bench
        self.socket = FakeSocket()
        hub = bench.hub
        agreed = Deflate() if deflate is True else deflate or None
        encoder = hub.encoder(offer, agreed)
        self.link = Link(self.socket, f"00000000-0000-4000-8000-{len(bench.clients):012d}", encoder, bench.now, offer)
        self.socket.on_full = lambda: hub.pause(self.link, bench.now)
        self.parser = Protocol(CLIENT, max_size=None)
        if agreed is not None:
            self.parser.extensions = [PerMessageDeflate(not agreed.takeover, True, agreed.window_bits, 15)]
        self.last = 0
        self.zstd = zstandard.ZstdDecompressor().decompressobj()
        self.compressed: list[bool] = []
        self.frames: list[Frame] = []
        self.unread: list[dict[str, Any]] = []
        self.admitted = hub.connect(self.link, bench.now)
        bench.clients.append(self)
        bench.flush()

    def send(self, message: object) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        self.link.last_byte_ms = self.bench.now
        if self.bench.hub.admit(self.link, self.bench.now):
            self.bench.hub.receive(self.link, text, self.bench.now)
        self.bench.flush()

    def subscribe(self, *tokens: object, action: str = "subscribe", **more: object) -> None:
        self.send({"type": "subscription", "data": {"action": action, "tokens": list(tokens), **more}})

    def read(self) -> list[dict[str, Any]]:
        """Messages since the last call; the socket is drained first, and what waited in the hub follows."""
        messages, self.unread = self.unread, []
        while True:
            if self.socket.buffer:
                self.parser.receive_data(bytes(self.socket.buffer))
                self.socket.buffer.clear()
                assert self.parser.parser_exc is None
                for event in self.parser.events_received():
                    assert isinstance(event, Frame)
                    self.frames.append(event)
                    if event.opcode is Opcode.TEXT:
                        messages.append(self._message(json.loads(event.data)))
                    elif event.opcode is Opcode.BINARY:
                        flag, head_length, body_length = struct.unpack("!BHI", event.data[:7])
                        if flag == 0:
                            self.zstd = zstandard.ZstdDecompressor().decompressobj()
                        head = event.data[7 : 7 + head_length]
                        body = self.zstd.decompress(event.data[7 + head_length :])
                        assert len(body) == body_length
                        assert len(head + body) > 1024
                        messages.append(self._message(json.loads(head + body)))
            if not self.link.writable:
                self.bench.hub.resume(self.link, self.bench.now)
                self.bench.flush()
            elif not self.socket.buffer:
                return messages

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        assert list(message) == ["type", "sequence", "timestamp", "data"]
        data, number = message["data"], message["sequence"]
        if message["type"] == "connection" and data.get("resumed"):
            self.last = data["replayFrom"] - 1
            assert number >= self.last, "the high-water mark is below the position"
        elif message["type"] == "gap":
            assert data["from"] <= data["to"] <= number
            self.last = max(self.last, data["to"])
        elif message["type"] == "heartbeat":
            assert number == max(self.last, 1), "a heartbeat proves a loss"
        else:
            assert number == self.last + 1, "the sequence has a hole"
            self.last += 1
        return message

    @property
    def closed_with(self) -> int | None:
        return self.parser.close_rcvd.code if self.parser.close_rcvd else None


class Bench:
    """A hub, its clock and its clients."""

    def __init__(self, tokens: int = 0, config: HubConfig | None = None) -> None:
        self.now = 1_000_000
        self.secrets = 0
        self.directory = FakeDirectory()
        self.hub = Hub(self.directory, self.now, config, new_secret=self.new_secret, stream="stream-1")
        self.clients: list[Client] = []
        for index in range(tokens):
            self.add(f"token{index}")

    def new_secret(self) -> str:
        self.secrets += 1
        return f"secret-{self.secrets:020d}"

    def add(self, address: str, **fields: Any) -> FakeValue:
        value = FakeValue(address, **fields)
        self.directory.values[address] = value
        self.hub.board.row(value)
        return value

    def change(self, address: str, times: int = 1) -> None:
        value = self.directory.values[address]
        for _ in range(times):
            value.version += 1
            self.hub.board.changed(self.hub.board.row(value), self.now)

    def happen(self, address: str, times: int = 1) -> None:
        """Events of a token, in all its topics that have any."""
        directory = self.directory
        for _ in range(times):
            number = directory.events[address] = directory.events.get(address, 0) + 1
            for channel in ("trades", "both"):
                topic = directory.topics.get((address, channel))
                if topic is not None:
                    topic.tell(directory.data(address, number), directory.data(address, number))

    def turn(self, address: str) -> None:
        """A new state of a token."""
        directory = self.directory
        directory.states[address] = directory.states.get(address, 0) + 1
        for channel in ("state", "both"):
            topic = directory.topics.get((address, channel))
            if topic is not None:
                topic.touch()

    def flush_topics(self, ms: int = 50) -> None:
        self.now += ms
        for write, data in self.hub.flush_topics(self.now, WALL):
            write(data)
        self.flush()

    def tick(self) -> None:
        self.hub.follow_sets(self.now)
        self.flush()
        for write, data in self.hub.tick(self.now, WALL):
            write(data)
        self.flush()

    def flush(self) -> None:
        for link in self.hub.take_ready():
            while data := self.hub.pump(link, WALL):
                link.socket.write(data)

    def pass_time(self, ms: int, step: int = 250) -> None:
        """Let time pass and timers run."""
        end = self.now + ms
        while self.now < end:
            self.now = min(self.now + step, end)
            pings, aborts = self.hub.timers(self.now)
            for link in pings:
                link.socket.write(self.hub.ping)
            for link in aborts:
                link.socket.abort()
                self.hub.disconnect(link)
            self.hub.check_staleness(self.now)
            self.flush()

    def client(self, deflate: bool = False) -> Client:
        client = Client(self, deflate)
        client.read()
        return client

    def ask(self, caps: str, deflate: bool = False, **wishes: Any) -> tuple[Client, dict[str, Any]]:
        """A client with capabilities, and the ``data`` of its ``connection``; nothing more is read."""
        offer = Offer(frozenset(caps.split(",")), **wishes)
        client = Client(self, deflate, offer)
        first = client.read()
        client.unread = first[1:]
        return client, first[0]["data"]

    def lose(self, client: Client) -> None:
        """Its socket dies; what was not read is lost."""
        client.socket.buffer.clear()
        self.hub.disconnect(client.link)


@pytest.fixture
def bench() -> Bench:
    return Bench(tokens=5)


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


def codes(messages: list[dict[str, Any]]) -> list[str]:
    return [message["data"]["code"] for message in messages if message["type"] == "error"]


def wide_bench(tokens: int = 60) -> tuple[Bench, list[str]]:
    """Tokens with values so long that a replay of a few hundred of them has to be paced."""
    bench = Bench(tokens=tokens)
    names = [f"token{number}" for number in range(tokens)]
    for name in names:
        bench.directory.values[name].cap = LONG
    return bench, names


def change_all(bench: Bench, names: list[str]) -> None:
    for name in names:
        bench.change(name)
    bench.tick()


def session_of(bench: Bench, secret: str) -> Session:
    session = bench.hub.registry.find(secret)
    assert session is not None
    return session


def resume_paced(
    bench: Bench, secret: str, position: int, delivery: Any = "latest", caps: str = "resume,details"
) -> Client:
    """A client whose replay does not fit into its socket, which it has not read yet."""
    offer = Offer(frozenset(caps.split(",")), delivery, secret, position, 1)
    client = Client(bench, offer=offer)
    assert not client.link.writable
    assert client.link.session.replay is not None
    return client
