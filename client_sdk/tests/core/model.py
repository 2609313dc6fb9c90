"""A small honest server with an unreliable network in front of it, for random schedules."""

import json
import random
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tokenwire.events import Snapshot
from tokenwire.requests import Request

from .peer import URL, Peer, update

SYMBOLS = {f"S{index}": f"a{index}" for index in range(8)} | {"ALIAS": "a0"}
ADDRESSES = sorted(set(SYMBOLS.values()))


class Session:
    """What outlives sockets."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.number = 0
        self.ring: dict[int, str] = {}
        self.held: dict[str, None] = {}
        self.pending: dict[str, None] = {}
        self.replies: list[tuple[str, Any]] = []


class World:
    """One client, one server, one network; ``step`` does something random."""

    def __init__(self, seed: int, caps: tuple[str, ...], faults: bool) -> None:
        self.chance = random.Random(seed)
        self.caps = caps
        self.faults = faults
        self.settings: dict[str, Any] = {
            "capabilities": caps,
            "max_retries": None,
            "queue_events": self.chance.choice((12, 50, 10_000)),
            "url": URL,
        }
        self.peer = Peer(random=self.chance.random, **self.settings)
        self.versions = dict.fromkeys(ADDRESSES, 1)
        self.stream = "m1"
        self.sessions: dict[str, Session] = {}
        self.current: Session | None = None
        self.wire: list[str] = []
        self.seen = 0
        self.dialled = 0
        self.count = 0
        self.requests: list[Request] = []
        self.lineage: dict[str, int] = {}
        self.happened: dict[str, int] = {}
        self.quiet = False
        self.peer.start()

    def tick(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1

    # --- the server

    def post(self, kind: str, data: Any, *, numbered: bool = True) -> None:
        session = self.current
        assert session is not None
        session.number += numbered
        text = json.dumps({"type": kind, "sequence": session.number, "timestamp": self.peer.wall, "data": data})
        if numbered:
            session.ring[session.number] = text
        if numbered and self.faults and not self.quiet and self.chance.random() < 0.01:
            self.tick("lost")
            return
        self.wire.append(text)
        if self.faults and not self.quiet and self.chance.random() < 0.02:
            self.wire.append(text)
            self.tick("doubled")

    def flush(self) -> None:
        session = self.current
        if session is None:
            return
        for kind, data in session.replies:
            self.post(kind, data)
        session.replies.clear()
        batch = [
            update(address, str(self.versions[address]), self.versions[address] if "details" in self.caps else None)
            for address in session.pending
        ]
        session.pending.clear()
        if "batch" in self.caps and batch:
            self.post("token_batch", {"updates": batch})
        elif batch:
            for data in batch:
                self.post("token_update", data)

    def greet(self) -> None:
        connect = self.peer.connects[-1]
        query = parse_qs(urlsplit(connect.url).query)
        secret = dict(connect.headers).get("X-Tokenwire-Session", "")
        old = self.sessions.get(secret)
        position = int(query.get("seq", ["-1"])[0])
        data: dict[str, Any] = {"status": "connected", "connectionId": "c", "maxSubscriptions": 100}
        if self.caps:
            data["capabilities"] = list(self.caps)
        self.wire.clear()
        if old is not None and all(number in old.ring for number in range(position + 1, old.number + 1)):
            self.tick("resumed")
            self.current = old
            held = [{"token": token, "channels": ["token"]} for token in old.held]
            data |= {
                "session": secret,
                "resumed": True,
                "replayFrom": position + 1,
                "subscriptions": held,
                "stream": self.stream,
            }
            self.post("connection", data, numbered=False)
            self.wire += [old.ring[number] for number in range(position + 1, old.number + 1)]
            return
        self.count += 1
        fresh = self.current = Session(f"s{self.count}")
        if "resume" in self.caps:
            self.sessions[fresh.secret] = fresh
            data |= {"session": fresh.secret, "resumed": False, "subscriptions": []}
            if secret:
                data["reason"] = "unknown_session"
            if old is not None:
                self.tick("position")
                del self.sessions[secret]
                fresh.held, data["reason"] = dict(old.held), "position_evicted"
                fresh.pending = dict(old.held)
                data["subscriptions"] = [{"token": token, "channels": ["token"]} for token in fresh.held]
        if "details" in self.caps:
            data["stream"] = self.stream
        self.post("connection", data)

    def serve(self, message: dict[str, Any]) -> None:
        session, data = self.current, message["data"]
        assert session is not None
        if message["type"] == "ping":
            self.flush()
            self.post("heartbeat", {"echo": data["echo"]}, numbered=False)
        elif message["type"] == "ack":
            assert data["sequence"] <= session.number
            for number in [number for number in session.ring if number <= data["sequence"]]:
                del session.ring[number]
        elif message["type"] == "replay":
            self.tick("replay")
            self.wire += [
                session.ring[number] for number in range(data["from"], data["to"] + 1) if number in session.ring
            ]
        elif self.faults and not self.quiet and self.chance.random() < 0.05:
            self.tick("limited")
            session.replies.append(("error", {"code": "RATE_LIMITED", "message": "1", "level": "error"}))
        else:
            self.answer(session, data)

    def answer(self, session: Session, data: dict[str, Any]) -> None:
        found: dict[str, None] = {}
        refused: list[str] = []
        for name in data["tokens"]:
            address = name if name in self.versions else SYMBOLS.get(name)
            if data["action"] == "unsubscribe":
                found[address or name] = None
                session.held.pop(address or name, None)
                session.pending.pop(address or name, None)
            elif address is None:
                refused.append(name)
            else:
                found[address] = session.held[address] = None
                known = data.get("known", {}) if data.get("stream") == self.stream else {}
                if self.versions[address] > known.get(address, -1):
                    session.pending[address] = None
        same = {"action": data["action"]} | ({"requestId": data["requestId"]} if "requestId" in data else {})
        if found:
            session.replies.append(("subscription", same | {"tokens": list(found), "status": "success"}))
        if refused:
            detail = {"rejected": [{"token": name, "code": "TOKEN_NOT_FOUND"} for name in refused]}
            session.replies.append(
                (
                    "subscription",
                    same | {"tokens": refused, "status": "error"} | (detail if "requestId" in same else {}),
                )
            )
            session.replies.append(
                ("error", {"code": "TOKEN_NOT_FOUND", "message": f"no: {', '.join(refused)}", "level": "error"})
            )

    # --- the network

    def carry(self, most: int) -> None:
        """Actions of the client reach the server, and some of its messages come back."""
        peer = self.peer
        if len(peer.connects) > self.dialled:
            self.dialled = len(peer.connects)
            self.current = None
            self.seen = len(peer.sent)
            if self.faults and not self.quiet and self.chance.random() < 0.2:
                self.tick("refused")
                peer.session.refused(self.chance.choice((None, 503, 429)), None, "no", peer.now, peer.wall)
                peer.act()
                return
            peer.open()
            self.greet()
        if self.current is None:
            return
        peer.session.alive(peer.now)  # pongs
        while self.seen < len(peer.sent):
            self.seen += 1
            self.serve(peer.sent[self.seen - 1])
        self.flush()
        closes = len(peer.closes)
        for _ in range(min(most, len(self.wire))):
            peer.raw(self.wire.pop(0))
            if len(peer.closes) > closes:
                self.current = None
                return

    def cut(self) -> None:
        if self.current is not None:
            self.tick("cut")
            if self.faults and self.chance.random() < 0.2:
                self.sessions.clear()
                self.tick("forgotten")
            elif self.chance.random() < 0.2:
                self.current.ring.clear()
            self.current = None
            self.wire.clear()
            self.peer.cut(self.chance.choice((None, 1001, 1011, 1012, 4002)))

    def restart(self) -> None:
        """The process dies with what it had not taken, and comes back from its checkpoint."""
        self.tick("restart")
        saved = self.peer.session.checkpoint()
        for request in self.requests:
            request.waiting.clear()
        now = self.peer.now
        self.peer = Peer(checkpoint=saved, random=self.chance.random, **self.settings)
        self.peer.now = now
        self.current, self.dialled, self.seen = None, 0, 0
        self.wire.clear()
        self.peer.start()

    # --- the application

    def take(self, most: int) -> None:
        for _ in range(most):
            event = self.peer.session.next_event()
            if event is None:
                return
            quote = getattr(event, "quote", None)
            if quote is not None and quote.version is not None:
                last = self.lineage.get(quote.address, 0)
                fresh = isinstance(event, Snapshot)  # subscribed anew, it may be told the same again
                assert quote.version > last or (fresh and quote.version == last), "old or repeated value"
                self.lineage[quote.address] = quote.version

    def wish(self) -> None:
        session, names = self.peer.session, self.chance.sample([*SYMBOLS, *ADDRESSES, "none"], 3)
        if self.chance.random() < 0.6:
            self.requests.append(session.subscribe(names, self.peer.now))
        else:
            self.requests.append(session.unsubscribe(names, self.peer.now))
        self.peer.act()

    def change(self) -> None:
        for address in self.chance.sample(ADDRESSES, 3):
            self.versions[address] += self.chance.choice((1, 1, 3))
            for session in [*self.sessions.values(), *([self.current] if self.current is not None else [])]:
                if address in session.held:
                    session.pending[address] = None

    def step(self) -> None:
        what = self.chance.random()
        if what < 0.15:
            self.wish()
        elif what < 0.40:
            self.change()
        elif what < 0.75:
            self.carry(self.chance.choice((1, 3, 100)))
        elif what < 0.85:
            self.take(self.chance.choice((1, 5, 1_000)))
        elif what < 0.89:
            self.cut()
        elif what < 0.90:
            self.restart()
        else:
            self.peer.advance(self.chance.choice((1, 50, 1_000, 7_000)))

    def settle(self) -> None:
        """The weather clears up: everything must converge."""
        self.quiet = True
        for turn in range(400):
            if turn == 200:
                self.change()
            self.carry(1_000)
            self.take(1_000)
            self.peer.advance(500)
