"""Channels under whatever happens: nothing is missed, and nothing comes twice (I-60)."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.core.grants import Offer

from .conftest import Bench, Client
from .topic_clients import CAPS, numbers


class Audience:
    """Clients that come, go, lag and return; each checks that it misses nothing and gets nothing twice."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench(tokens=4)
        self.newest: dict[Client, dict[str, int]] = {}
        self.held: dict[Client, set[str]] = {}
        self.state: dict[Client, dict[str, int]] = {}
        self.secret: dict[Client, str] = {}

    def join(self) -> None:
        caps = self.random.choice([CAPS, "channels,details", "channels,resume", f"{CAPS},zstd", "channels,batch"])
        deflate = self.random.random() < 0.5
        offer = Offer(frozenset(caps.split(",")), self.random.choice(["latest", "every"]))
        client = Client(self.bench, deflate, offer)
        self.newest[client], self.held[client], self.state[client] = {}, set(), {}
        self.secret[client] = client.read()[0]["data"].get("session", "")
        self.subscribe(client)

    def subscribe(self, client: Client) -> None:
        token = self.random.choice(list(self.bench.directory.values))
        if token in self.held[client]:
            client.subscribe(token, action="unsubscribe")
            self.read(client)
            self.held[client].discard(token)
            self.newest[client].pop(token, None)
        else:
            client.subscribe(token, channels=["token", "trades", "state"])
            self.held[client].add(token)

    def read(self, client: Client) -> None:
        messages = client.read()
        for token, number in numbers(messages):
            before = self.newest[client].get(token)
            assert before is None or number == before + 1, "an event is missing or comes twice"
            self.newest[client][token] = number
        for token, number in numbers(messages, "kline"):
            assert number >= self.state[client].get(token, 0)
            self.state[client][token] = number

    def lag(self, client: Client) -> None:
        if client.link.writable:
            self.bench.hub.pause(client.link, self.bench.now)

    def leave_and_return(self, client: Client) -> None:
        if not self.secret[client]:
            return
        grants = client.link.session.grants
        self.read(client)
        position = client.last
        self.happen()
        self.bench.lose(client)
        self.happen()
        offer = Offer(
            frozenset(grants.capabilities), "every" if grants.every else "latest", self.secret[client], position
        )
        again = Client(self.bench, False, offer)
        for fate in (self.newest, self.held, self.state, self.secret):
            fate[again] = fate.pop(client)  # type: ignore[attr-defined]

    def happen(self) -> None:
        for _ in range(self.random.randint(0, 12)):
            token = self.random.choice(list(self.bench.directory.values))
            self.random.choice([self.bench.happen, self.bench.happen, self.bench.turn, self.bench.change])(token)
        self.bench.hub.flush_stream()
        self.bench.flush_topics(self.random.choice([50, 300]))

    def live_through(self, steps: int) -> None:
        for _ in range(steps):
            clients = list(self.held)
            step = self.random.randrange(10)
            if step == 0 or not clients:
                self.join()
            elif step == 1:
                self.subscribe(self.random.choice(clients))
            elif step == 2:
                self.lag(self.random.choice(clients))
            elif step == 3:
                self.leave_and_return(self.random.choice(clients))
            elif step == 4:
                self.read(self.random.choice(clients))
            elif step == 5:
                self.bench.tick()
            else:
                self.happen()
        self.happen()
        for client in self.held:
            self.read(client)
        self.bench.flush_topics(300)
        directory = self.bench.directory
        for client, tokens in self.held.items():
            self.read(client)
            for token in tokens:
                if token in self.newest[client]:
                    assert self.newest[client][token] == directory.events[token]
                assert self.state[client].get(token, 0) == directory.states.get(token, 0)


@given(st.integers(0, 1 << 32))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_nothing_is_missed_and_nothing_comes_twice(seed: int) -> None:
    Audience(seed).live_through(40)
