"""A scripted server and a shell in virtual time around one pure session."""

import json
from collections.abc import Callable
from typing import Any

from tokenwire.actions import Close, Connect, Ping, Send
from tokenwire.checkpoint import Checkpoint
from tokenwire.config import ClientConfig
from tokenwire.events import Event, Snapshot, Update
from tokenwire.session import ClientSession

URL = "ws://example.org/api/v1/ws/token-data"
WALL = 1_764_547_200_000
ALL = ("batch", "heartbeat", "resume", "details")


def update(address: str, price: str = "1", version: int | None = None) -> dict[str, Any]:
    """The data of a token update."""
    data: dict[str, Any] = {"address": address, "price": price, "marketCap": "0"}
    data["volume"] = {"h24": "3", "h1": "2", "m5": "1"}
    if version is not None:
        data |= {"version": version, "sourceTime": WALL}
    return data


class Peer:
    """Drives a session: reports go in, actions are sorted into lists."""

    def __init__(
        self,
        checkpoint: Checkpoint | None = None,
        random: Callable[[], float] = lambda: 1.0,
        **settings: Any,
    ) -> None:
        self.now = 5_000_000
        self.skew = 0
        self.session = ClientSession(ClientConfig(**{"url": URL} | settings), random, checkpoint)
        self.connects: list[Connect] = []
        self.sent: list[dict[str, Any]] = []
        self.closes: list[Close] = []
        self.pings = 0
        self.number = 0

    @property
    def wall(self) -> int:
        return WALL + self.now - 5_000_000 + self.skew

    def act(self) -> None:
        for action in self.session.take_actions():
            if isinstance(action, Connect):
                self.connects.append(action)
            elif isinstance(action, Send):
                self.sent.append(json.loads(action.text))
            elif isinstance(action, Close):
                self.closes.append(action)
            else:
                assert isinstance(action, Ping)
                self.pings += 1

    def start(self) -> "Peer":
        self.session.start(self.now)
        self.act()
        return self

    def open(self) -> "Peer":
        self.session.opened(self.now)
        self.act()
        return self

    def greet(self, *caps: str, sequence: int = 1, **data: Any) -> "Peer":
        """Opens the socket and sends the connection message; ``caps`` are granted."""
        self.open()
        content: dict[str, Any] = {"status": "connected", "connectionId": "c-1", "maxSubscriptions": 100}
        if caps:
            content["capabilities"] = list(caps)
        if "resume" in caps:
            content |= {"session": "secret-1", "resumed": False, "subscriptions": []}
        if "details" in caps:
            content["stream"] = "m1"
        self.number = sequence
        self.raw({"type": "connection", "sequence": sequence, "timestamp": self.wall, "data": content | data})
        return self

    def raw(self, message: Any) -> None:
        text = message if isinstance(message, str | bytes) else json.dumps(message)
        self.session.received(text, self.now, self.wall)
        self.act()
        assert not self.closes or "could not be handled" not in self.closes[-1].reason

    def say(self, kind: str, sequence: int | None = None, timestamp: int | None = None, **data: Any) -> int:
        """Sends a message, by default with the next number."""
        if sequence is None:
            self.number += 1
            sequence = self.number
        stamp = self.wall if timestamp is None else timestamp
        self.raw({"type": kind, "sequence": sequence, "timestamp": stamp, "data": data})
        return sequence

    def value(
        self, address: str, price: str = "1", version: int | None = None, sequence: int | None = None, **extra: Any
    ) -> int:
        return self.say("token_update", sequence, **update(address, price, version), **extra)

    def accept(self, *addresses: str, request: dict[str, Any] | None = None) -> None:
        """Answers the last subscription message."""
        asked = request or self.requests[-1]
        data = {"action": asked["action"], "tokens": list(addresses), "status": "success"}
        if "requestId" in asked:
            data["requestId"] = asked["requestId"]
        self.say("subscription", **data)

    def refuse(self, *names: str, code: str | None = None) -> None:
        asked = self.requests[-1]
        data: dict[str, Any] = {"action": asked["action"], "tokens": list(names), "status": "error"}
        if "requestId" in asked:
            data |= {"requestId": asked["requestId"], "rejected": [{"token": name, "code": code} for name in names]}
        self.say("subscription", **data)

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [message["data"] for message in self.sent if message["type"] == "subscription"]

    def sent_of(self, kind: str) -> list[dict[str, Any]]:
        return [message["data"] for message in self.sent if message["type"] == kind]

    def cut(self, code: int | None = None, reason: str = "") -> None:
        self.session.closed(code, reason, self.now, self.wall)
        self.act()

    def advance(self, ms: int) -> None:
        """Lets time pass; every deadline that is reported must be served by the timer."""
        end = self.now + ms
        spins = 0
        while (due := self.session.next_deadline()) is not None and due <= end:
            spins = 0 if due > self.now else spins + 1
            assert spins < 4, "a deadline that is not served keeps the shell spinning"
            self.now = max(self.now, due)
            self.session.handle_timer(self.now, self.wall)
            self.act()
        self.now = end

    def back(self) -> Connect:
        """Waits for the next try and returns it."""
        count = len(self.connects)
        while len(self.connects) == count:
            due = self.session.next_deadline()
            assert due is not None
            self.advance(max(due - self.now, 0))
        return self.connects[-1]

    def events(self) -> list[Event]:
        found = []
        while (event := self.session.next_event()) is not None:
            found.append(event)
        return found

    def take(self, *kinds: type) -> list[Any]:
        """The waiting events of these kinds; the others are taken, too."""
        return [event for event in self.events() if isinstance(event, kinds)]

    def values(self) -> list[tuple[str, str, str]]:
        return [(type(one).__name__, one.quote.name, one.quote.price) for one in self.take(Snapshot, Update)]


def live(*names: str, caps: tuple[str, ...] = ALL, **settings: Any) -> Peer:
    """A peer with a session in which ``names`` are subscribed as addresses ``a-NAME``; all events are taken."""
    peer = Peer(**settings).start()
    peer.greet(*caps)
    if names:
        peer.session.subscribe(names, peer.now)
        peer.act()
        peer.accept(*(f"a-{name}" for name in names))
    peer.events()
    return peer
