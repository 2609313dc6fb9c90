"""Whatever happens to sockets and subscriptions, every client can account for every version.

A token's price shows its version, so a client knows from what it received which versions were conflated away:
for each session and token, versions produced while subscribed = delivered + conflated + pending.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokenwire_server.core.hub import HubConfig

from .conftest import Bench, Client

TOKENS = [f"token{n}" for n in range(6)]
names = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=6, unique=True)
which = st.integers(0, 5)


@dataclass
class Ledger:
    """What one client knows of one token while it is subscribed."""

    since: int  # the version at the time of the subscribe
    delivered: set[int] = field(default_factory=set)
    newest: int = 0


class Delivery(RuleBasedStateMachine):
    @initialize(deflate=st.booleans())
    def start(self, deflate: bool) -> None:
        self.bench = Bench(tokens=len(TOKENS), config=HubConfig(max_subscriptions=5))
        self.deflate = deflate
        self.ledgers: dict[Client, dict[str, Ledger]] = {}
        self.blocked: set[Client] = set()
        for number in range(2):
            self.connect()
            self.subscribe(number, TOKENS[number : number + 4])

    def pick(self, number: int) -> Client | None:
        clients = list(self.ledgers)
        return clients[number % len(clients)] if clients else None

    @precondition(lambda self: len(self.ledgers) < 5)
    @rule()
    def connect(self) -> None:
        self.ledgers[self.bench.client(self.deflate)] = {}

    @rule(number=which)
    def disconnect(self, number: int) -> None:
        client = self.pick(number)
        if client is not None:
            self.bench.hub.disconnect(client.link)
            del self.ledgers[client]
            self.blocked.discard(client)

    @rule(number=which, tokens=names)
    def subscribe(self, number: int, tokens: list[str]) -> None:
        client = self.pick(number)
        if client is not None and client.link.close_with is None:
            self.bench.now += 100  # within the rate
            client.subscribe(*tokens)
            self.note_reply(client, tokens, "subscribe")

    @rule(number=which, tokens=names)
    def unsubscribe(self, number: int, tokens: list[str]) -> None:
        client = self.pick(number)
        if client is not None and client.link.close_with is None:
            self.bench.now += 100
            client.subscribe(*tokens, action="unsubscribe")
            self.note_reply(client, tokens, "unsubscribe")

    @rule(number=which, first=names, second=names)
    def ask_twice_while_blocked(self, number: int, first: list[str], second: list[str]) -> None:
        """The answers, and what was pending in between, come out together."""
        client = self.pick(number)
        if client is not None:
            if client not in self.blocked:
                self.block(number)
            self.bench.now += 200
            client.subscribe(*first)
            self.change(second, 1)
            client.subscribe(*second, action="unsubscribe")
            self.unblock(list(self.ledgers).index(client))

    def note_reply(self, client: Client, tokens: list[str], action: str) -> None:
        """The client asks one thing at a time: it reads up to the answer unless it is blocked."""
        if client in self.blocked:
            self.unblock(list(self.ledgers).index(client))
        else:
            self.read(client)

    @rule(tokens=names, times=st.integers(1, 3))
    def change(self, tokens: list[str], times: int) -> None:
        for token in tokens:
            self.bench.change(token, times)

    @rule(tokens=names)
    def change_and_tick(self, tokens: list[str]) -> None:
        self.change(tokens, 1)
        self.tick()

    @rule()
    def tick(self) -> None:
        self.bench.now += 50
        self.bench.tick()
        for client in self.ledgers:
            if client not in self.blocked:
                self.read(client)

    @rule(number=which)
    def block(self, number: int) -> None:
        client = self.pick(number)
        if client is not None and client not in self.blocked:
            self.blocked.add(client)
            self.bench.hub.pause(client.link, self.bench.now)

    @rule(number=which)
    def unblock(self, number: int) -> None:
        client = self.pick(number)
        if client in self.blocked:
            self.blocked.remove(client)
            self.bench.hub.resume(client.link, self.bench.now)
            self.bench.flush()
            self.read(client)

    def read(self, client: Client) -> None:
        ledgers = self.ledgers[client]
        for message in client.read():
            data = message["data"]
            if message["type"] == "subscription" and data["status"] == "success":
                for address in data["tokens"]:
                    if data["action"] == "unsubscribe":
                        ledgers.pop(address, None)
                    elif address not in ledgers:
                        ledgers[address] = Ledger(self.bench.directory.values[address].version)
            elif message["type"] == "token_update":
                ledger = ledgers.get(data["address"])
                assert ledger is not None, "an update of a token that is not subscribed"
                version = int(data["price"])
                assert version >= ledger.newest, "an older value after a newer one"
                ledger.newest = version
                ledger.delivered.add(version)

    @invariant()
    def versions_add_up(self) -> None:
        for client, ledgers in self.ledgers.items():
            assert len(ledgers) == len(client.link.session.tokens) or client in self.blocked
            for address, ledger in ledgers.items():
                newest = self.bench.directory.values[address].version
                produced = newest - ledger.since + 1
                pending = newest - max(ledger.newest, ledger.since - 1)
                conflated = len(set(range(ledger.since, ledger.newest + 1)) - ledger.delivered)
                assert produced == len(ledger.delivered) + conflated + pending
                # What the client could derive must be what the server still owes: pending, or due at the next tick.
                row = self.bench.hub.board.row(self.bench.directory.values[address])
                session = client.link.session
                owed = row.changed_tick > (session.synced_tick if session.is_behind else self.bench.hub.board.tick)
                assert pending == 0 or owed or row in (session.pending or {}), "a change that nobody remembers"

    @invariant()
    def the_books_of_the_hub_agree(self) -> None:
        hub = self.bench.hub
        assert hub.sets.subscriptions == sum(len(client.link.session.tokens) for client in self.ledgers)
        held = {client.link.session.tokens for client in self.ledgers if len(client.link.session.tokens)}
        assert len(hub.sets) == len(held), "equal sets must be one object, unused ones gone"

    def teardown(self) -> None:
        """Once sockets take bytes again, one tick brings everybody to the newest value."""
        for client in list(self.blocked):
            self.unblock(list(self.ledgers).index(client))
        self.tick()
        for client, ledgers in self.ledgers.items():
            assert not client.link.session.is_behind
            for address, ledger in ledgers.items():
                assert ledger.newest == self.bench.directory.values[address].version, "it did not converge"


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_conflations_are_counted_as_the_client_sees_them() -> None:
    bench = Bench(tokens=3)
    live, slow = bench.client(), bench.client()
    for client in (live, slow):
        client.subscribe("token0", "token1")
        client.read()
    bench.hub.pause(slow.link, bench.now)
    before = bench.hub.stats.conflated
    for _ in range(4):
        bench.change("token0", times=3)
        bench.change("token2", times=5)
        bench.tick()
        live.read()
    assert bench.hub.stats.conflated - before == 8
    bench.hub.resume(slow.link, bench.now)
    bench.flush()
    (update,) = slow.read()
    assert update["data"]["price"] == "13"
    assert bench.hub.stats.conflated - before == 8 + 11


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 99])
def test_any_number_of_rows_from_any_starting_number(count: int) -> None:
    bench = Bench(tokens=count)
    client = bench.client()
    client.subscribe(*(f"token{n}" for n in range(count)))
    client.read()
    for start in (8, 9, 10, 98, 99, 100, 995, 9_990, 99_999_999_999):
        client.link.session.sequence = client.last = start
        for n in range(count):
            bench.change(f"token{n}")
        bench.tick()
        assert len(client.read()) == count
