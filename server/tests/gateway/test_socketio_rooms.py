"""Rooms of tokens, against a model: whoever takes everything knows the newest value of all it has joined."""

import json
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.board import Board
from tokenwire_server.gateway import socketio_rooms
from tokenwire_server.gateway.socketio_rooms import ALL, BATCH_TOKENS, MAX_NOTICES, Peer, Rooms, error_frame
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.registry import Resolution
from tokenwire_server.market.trades import Side, TokenInfo, Trade

TOKENS = ("DOGE", "PEPE", "SHIB", "FLOKI", "BONK")
TIME_MS = 1_700_000_000_000


class Names:
    """A market with its board, and trades on it."""

    def __init__(self, tokens: Sequence[str] = TOKENS) -> None:
        self.board = Board()
        self.market = Market(lambda token: self.board.changed(self.board.row(token), 0), TIME_MS)
        self.market.add_tokens("test", [TokenInfo(f"{name}-address", name) for name in tokens])
        self.trades = 0

    def resolve(self, name: str) -> Resolution:
        return self.market.resolve(name)

    def value(self, address: str) -> TokenState | None:
        return self.market.get(address)

    def trade(self, symbol: str) -> str:
        self.trades += 1
        price = str(self.trades)
        at = TIME_MS + self.trades
        self.market.apply("test", Trade(f"{symbol}-address", price, Decimal(price), Decimal(1), Side.BUY, at))
        return price


def frames(data: bytes) -> list[tuple[str, object]]:
    """The events in a series of text frames, each whole."""
    events = []
    while data:
        assert data[0] == 0x81
        length, start = data[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        text = data[start : start + length].decode()
        assert text.startswith("42")
        event, payload = json.loads(text[2:])
        events.append((event, payload))
        data = data[start + length :]
    return events


def take(peer: Peer) -> list[tuple[str, object]]:
    events = []
    while data := peer.take():
        events += frames(data)
    return events


def prices(events: list[tuple[str, object]]) -> dict[str, str]:
    """The newest price by address."""
    found: dict[str, str] = {}
    for event, payload in events:
        assert event in ("token_update", "tokens_update")
        for value in payload if isinstance(payload, list) else [payload]:
            found[value["address"]] = value["price"]
    return found


def test_a_join_gives_the_current_value_and_a_tick_only_what_changed() -> None:
    names = Names()
    rooms = Rooms(names.board, names, 100)
    names.trade("DOGE")
    peer = Peer()
    assert rooms.join(peer, ["DOGE", "pepe", "DOGE-address"]) == (["DOGE-address", "PEPE-address"], [])
    assert prices(take(peer)) == {"DOGE-address": "1"}  # PEPE has none yet
    assert rooms.tick() == []
    names.trade("PEPE")
    names.trade("SHIB")
    assert rooms.tick() == [peer]
    assert prices(take(peer)) == {"PEPE-address": "2"}
    assert rooms.tick() == []


def test_what_was_due_in_a_room_is_not_sent_after_leaving_it() -> None:
    names = Names()
    rooms = Rooms(names.board, names, 100)
    names.trade("DOGE")
    peer = Peer()
    rooms.join(peer, ["DOGE", ALL])
    rooms.leave(peer, ["DOGE", ALL])
    assert not peer.waits
    assert take(peer) == []


def test_partial_failure_names_each_refused_token_with_its_code() -> None:
    names = Names()
    names.market.add_tokens("test", [TokenInfo("other", "DOGE")])
    rooms = Rooms(names.board, names, 2)
    peer = Peer()
    accepted, refused = rooms.join(peer, ["PEPE", None, "nope", "", "DOGE", "SHIB", "FLOKI", "PEPE", "x" * 257])
    assert accepted == ["PEPE-address", "SHIB-address"]
    assert [each.code for each in refused] == [
        ErrorCode.INVALID_TOKEN,
        ErrorCode.TOKEN_NOT_FOUND,
        ErrorCode.INVALID_TOKEN,
        ErrorCode.AMBIGUOUS_TOKEN,
        ErrorCode.SUBSCRIPTION_LIMIT,
        ErrorCode.INVALID_TOKEN,
    ]
    assert "DOGE-address, other" in refused[3].message
    assert rooms.leave(peer, ["SHIB", "unheard of"]) == (["SHIB-address", "unheard of"], [])
    assert rooms.join(peer, ["FLOKI"]) == (["FLOKI-address"], [])  # there is a place again


def test_everything_comes_in_batches_that_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    real = socketio_rooms.event_frame
    monkeypatch.setattr(socketio_rooms, "event_frame", lambda *args: encoded.append(args) or real(*args))
    symbols = [f"T{number}" for number in range(2 * BATCH_TOKENS + 1)]
    names = Names(symbols)
    rooms = Rooms(names.board, names, 1)
    peers = [Peer(), Peer(), Peer()]
    for peer in peers:
        assert rooms.join(peer, [ALL]) == ([ALL], [])
    for symbol in symbols:
        names.trade(symbol)
    rooms.tick()
    for peer in peers:
        sizes = [len(payload) for _, payload in take(peer) if isinstance(payload, list)]
        assert sizes == [BATCH_TOKENS, BATCH_TOKENS, 1]
    assert len(encoded) == 3
    rooms.tick()
    assert [take(peer) for peer in peers] == [[], [], []]


def test_a_value_that_cannot_be_encoded_spoils_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names()
    for symbol in TOKENS:
        names.trade(symbol)
    rooms = Rooms(names.board, names, 100)
    token = names.market.get("DOGE-address")
    assert token is not None
    token.price = Decimal("NaN")
    one, everywhere = Peer(), Peer()
    rooms.join(one, ["DOGE", "PEPE"])
    rooms.join(everywhere, [ALL])
    assert prices(take(one)) == {"PEPE-address": "2"}
    assert len(prices(take(everywhere))) == len(TOKENS) - 1


def test_notices_have_an_end_and_come_first() -> None:
    names = Names()
    names.trade("DOGE")
    rooms = Rooms(names.board, names, 100)
    peer = Peer()
    rooms.join(peer, ["DOGE"])
    for _ in range(2 * MAX_NOTICES):
        peer.notify(error_frame(ErrorCode.INVALID_MESSAGE, "no"))
    events = take(peer)
    assert [event for event, _ in events] == ["error"] * MAX_NOTICES + ["token_update"]
    assert events[0][1] == {"code": "INVALID_MESSAGE", "message": "no", "level": "error"}


class RoomsMachine(RuleBasedStateMachine):
    """Clients join, leave, read all or a part, and vanish, while tokens trade."""

    @initialize()
    def start(self) -> None:
        self.names = Names()
        self.rooms = Rooms(self.names.board, self.names, 3)
        self.truth: dict[str, str] = {}
        self.ticked: dict[str, str] = {}
        self.peers = {number: Peer() for number in range(3)}
        self.joined: dict[int, set[str]] = {number: set() for number in self.peers}
        self.everywhere: dict[int, bool] = dict.fromkeys(self.peers, False)
        self.seen: dict[int, dict[str, str]] = {number: {} for number in self.peers}

    @rule(symbol=st.sampled_from(TOKENS))
    def trade(self, symbol: str) -> None:
        self.truth[f"{symbol}-address"] = self.names.trade(symbol)

    @rule(number=st.integers(0, 2), chosen=st.lists(st.sampled_from((*TOKENS, ALL, "nope")), max_size=4))
    def join(self, number: int, chosen: list[str]) -> None:
        accepted, _ = self.rooms.join(self.peers[number], chosen)
        self.everywhere[number] |= ALL in accepted
        self.joined[number] |= set(accepted) - {ALL}
        assert len(self.joined[number]) <= 3

    @rule(number=st.integers(0, 2), chosen=st.lists(st.sampled_from((*TOKENS, ALL)), max_size=4))
    def leave(self, number: int, chosen: list[str]) -> None:
        self.rooms.leave(self.peers[number], chosen)
        self.everywhere[number] &= ALL not in chosen
        self.joined[number] -= {f"{name}-address" for name in chosen}
        allowed = self.truth if self.everywhere[number] else self.joined[number]
        self.seen[number] = {address: price for address, price in self.seen[number].items() if address in allowed}

    @rule(number=st.integers(0, 2))
    def vanish(self, number: int) -> None:
        self.rooms.remove(self.peers[number])
        self.peers[number] = Peer()
        self.joined[number], self.everywhere[number], self.seen[number] = set(), False, {}

    @rule(number=st.integers(0, 2))
    def read_a_part(self, number: int) -> None:
        self.note(number, frames(self.peers[number].take()))

    @rule()
    def tick_and_read_all(self) -> None:
        self.rooms.tick()
        for number, peer in self.peers.items():
            self.note(number, take(peer))
            wanted = self.truth if self.everywhere[number] else self.joined[number]
            known = {address: price for address, price in self.truth.items() if address in wanted}
            assert {address: self.seen[number].get(address) for address in known} == known

    def note(self, number: int, events: list[tuple[str, object]]) -> None:
        for address, price in prices(events).items():
            assert self.everywhere[number] or address in self.joined[number]
            assert int(price) >= int(self.seen[number].get(address, "0"))  # never back
            self.seen[number][address] = price

    @invariant()
    def empty_rooms_are_forgotten(self) -> None:
        if hasattr(self, "rooms"):
            distinct = set().union(*self.joined.values())
            assert len(self.rooms) == len(distinct) + any(self.everywhere.values())


TestRooms = RoomsMachine.TestCase
TestRooms.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
