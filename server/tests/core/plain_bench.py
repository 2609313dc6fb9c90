"""A plain hub in virtual time, and peers whose sockets are byte strings of bounded patience."""

from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from tokenwire_server.core.plain_hub import PlainConfig, PlainHub
from tokenwire_server.core.plain_room import Consumer, Room, RoomKey, StreamForm
from tokenwire_server.core.wire import text_frame

DOGE = RoomKey(StreamForm.TRADES, "DOGE-address")
PEPE = RoomKey(StreamForm.TRADES, "PEPE-address")


class Peer:
    """One client. Its socket is full above ``high`` bytes, and takes more again at half of that."""

    def __init__(self, bench: "Bench", key: RoomKey, high: int = 200) -> None:
        self.bench = bench
        self.high = high
        self.buffer = bytearray()
        self.aborted = False
        self.gone = False
        self.pings = 0
        self.closed_with: tuple[int, str] | None = None
        self.numbers: list[int] = []
        self.first = bench.published.get(key, 0) + 1
        self.key = key
        self._parser = Protocol(CLIENT, max_size=None)
        self.consumer = Consumer(self.write, self.abort, str(len(bench.peers)), bench.now)
        bench.hub.join(self.consumer, key, bench.now)
        bench.peers.append(self)

    def write(self, data: bytes) -> None:
        assert not self.gone, "a socket that is gone was written to"
        was_full = len(self.buffer) > self.high
        self.buffer += data
        if len(self.buffer) > self.high and not was_full:
            self.bench.hub.pause(self.consumer)

    def abort(self) -> None:
        self.aborted = True

    def read(self, octets: int | None = None) -> None:
        """Take so many bytes out of the socket; all there is, also what follows, by default."""
        while self.buffer:
            taken = bytes(self.buffer[:octets])
            del self.buffer[: len(taken)]
            self._parse(taken)
            if not self.consumer.writable and len(self.buffer) <= self.high // 2:
                for data in self.bench.hub.resume(self.consumer):
                    self.write(data)
            if octets is not None:
                return

    def leave(self) -> None:
        self.bench.hub.disconnect(self.consumer)
        self.gone = True

    def say(self, octets: int = 6) -> None:
        self.bench.hub.received(self.consumer, octets, self.bench.now)

    def _parse(self, data: bytes) -> None:
        self._parser.receive_data(data)
        assert self._parser.parser_exc is None
        for event in self._parser.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.TEXT:
                assert self.closed_with is None, "a message behind the close frame"
                self.numbers.append(int(bytes(event.data).partition(b" ")[0]))
            elif event.opcode is Opcode.PING:
                self.pings += 1
        close = self._parser.close_rcvd
        if close is not None:
            self.closed_with = (close.code, close.reason)


class Bench:
    """The hub, its clock, and everybody connected to it."""

    def __init__(self, config: PlainConfig | None = None) -> None:
        self.now = 1_000_000
        self.vacated: list[Room] = []
        self.hub = PlainHub(self.now, config, self.vacated.append)
        self.peers: list[Peer] = []
        self.published: dict[RoomKey, int] = {}

    def publish(self, key: RoomKey, count: int = 1, padding: int = 20) -> None:
        """Numbered messages, if anybody listens; flushed as the shell does it."""
        for _ in range(count):
            number = self.published[key] = self.published.get(key, 0) + 1
            room = self.hub.rooms.get(key)
            if room is not None and self.hub.publish(room, text_frame(b"%d %b" % (number, b"x" * padding))):
                self.flush()

    def flush(self) -> None:
        for writes, data in self.hub.flush(self.now):
            for write in writes:
                write(data)

    def pass_time(self, ms: int, step: int = 250) -> None:
        end = self.now + ms
        while self.now < end:
            self.now = min(self.now + step, end)
            frames, aborts = self.hub.timers(self.now)
            for consumer, data in frames:
                consumer.write(data)
            for consumer in aborts:
                consumer.abort()
