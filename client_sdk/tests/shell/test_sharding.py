"""Many tokens: which shard they go to, and one stream from all of them."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tokenwire import (
    ClientCheckpoint,
    ClientMetrics,
    ConnectionFailedError,
    ConnectionState,
    Snapshot,
    SubscriptionError,
    TokenClient,
    Update,
)
from tokenwire.checkpoint import Checkpoint
from tokenwire.errors import CheckpointError
from tokenwire.sharding import Placement, merged_metrics, worst_state

from ..live import Peer, quick, real_server, scripted

NAMES = [f"T{number:03}" for number in range(250)]


def test_shards_fill_one_after_the_other() -> None:
    placement = Placement(max_shards=3, capacity=2)
    assert placement.assign("abc") == ({0: ["a", "b"], 1: ["c"]}, [])
    assert placement.assign("bd") == ({0: ["b"], 1: ["d"]}, []), "a known name stays where it is"
    assert placement.assign("efg") == ({2: ["e", "f"]}, ["g"])
    placement.release("a")
    assert placement.assign("g") == ({0: ["g"]}, [])


def test_another_limit_counts_from_when_it_is_known() -> None:
    placement = Placement(max_shards=3, capacity=4)
    placement.assign("ab")
    placement.limit(0, 2)
    assert placement.assign("cd") == ({1: ["c", "d"]}, [])
    placement.is_full(1)
    assert placement.assign("e") == ({2: ["e"]}, [])


def test_two_names_of_a_token_share_a_shard() -> None:
    placement = Placement(max_shards=2, capacity=1)
    placement.assign(["a"])
    placement.learn("a", "address")
    assert placement.assign(["address"]) == ({0: ["address"]}, [])


def test_states_and_metrics_are_merged() -> None:
    connected, reconnecting = ConnectionState.CONNECTED, ConnectionState.RECONNECTING
    assert worst_state([connected, reconnecting]) is reconnecting
    assert worst_state([connected]) is connected
    one = ClientMetrics(state=connected, frames=3, latency_max_ms=5.0, resumes={"resumed": 1})
    two = ClientMetrics(state=reconnecting, frames=4, resumes={"resumed": 1, "unknown_session": 2}, rtt_ms=9)
    total = merged_metrics([one, two])
    assert (total.frames, total.latency_max_ms, total.rtt_ms) == (7, 5.0, 9)
    assert total.resumes == {"resumed": 2, "unknown_session": 2}
    assert total.state is reconnecting


def test_a_checkpoint_survives_its_json() -> None:
    checkpoint = ClientCheckpoint((Checkpoint(session="s", position=7), Checkpoint()))
    assert ClientCheckpoint.parse(checkpoint.to_json()) == checkpoint
    assert ClientCheckpoint.parse(checkpoint) is checkpoint
    for text in ("", "{}", '{"shards":[],"format":99}', '{"shards":[{"position":-1}],"format":1}', b"\xff"):
        with pytest.raises(CheckpointError):
            ClientCheckpoint.parse(text)


async def test_more_tokens_than_a_connection_holds() -> None:
    async with real_server(tokens=NAMES) as (server, source), TokenClient(server.url) as client:
        result = await client.subscribe(NAMES)
        assert len(result.accepted) == 250
        assert client.connections == 3
        seen = set()
        async with asyncio.timeout(20):
            async for event in client:
                if isinstance(event, Snapshot):
                    seen.add(event.quote.name)
                    if len(seen) == 250:
                        break
        assert len(client.latest) == 250
        for name in (NAMES[0], NAMES[120], NAMES[249]):
            source.trade(name, "9")
        changed: dict[str, str] = {}
        async with asyncio.timeout(20):
            async for event in client:
                if isinstance(event, Update) and event.quote.price == "9":
                    changed[event.quote.name] = event.quote.price
                    if len(changed) == 3:
                        break
        assert client.metrics.updates >= 253
        assert len(client.checkpoint().shards) == 3
        await client.unsubscribe(NAMES[:100])
        assert len(client.latest) == 150
        await client.subscribe(NAMES[:100])
        assert client.connections == 3, "places that became free are used again"


async def test_the_servers_own_limit_is_used() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(maxSubscriptions=2)
        await peer.accept(limit=2)
        await peer.stay()

    async with scripted(script) as url, TokenClient(url, config=quick()) as client:
        result = await client.subscribe(["a", "b", "c", "d", "e"])
        assert set(result.accepted) == {"a", "b", "c", "d", "e"}
        assert client.connections == 3


async def test_a_server_that_takes_fewer_than_it_says() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept(limit=2)
        await peer.stay()

    async with scripted(script) as url, TokenClient(url, config=quick()) as client:
        result = await client.subscribe(["a", "b", "c", "d", "e"])
        assert set(result.accepted) == {"a", "b", "c", "d", "e"}
        assert client.connections == 3


ADDRESSES = {"A": "0xA", "B": "0xB", "C": "0xC", "0xA": "0xA", "0xB": "0xB", "0xC": "0xC"}


async def keep_to(peer: Peer, limit: int, held: list[str], asked: list[dict[str, Any]]) -> None:
    """Answer everything, holding at most ``limit`` tokens; names and addresses are understood."""
    while True:
        data = await peer.hear("subscription")
        asked.append(data)
        taken, refused = [], []
        for token in data["tokens"]:
            address = ADDRESSES[token]
            if data["action"] == "unsubscribe":
                held[:] = [one for one in held if one != address]
            elif address not in held and len(held) >= limit:
                refused.append(token)
                continue
            elif address not in held:
                held.append(address)
            taken.append(address)
        answer = {"action": data["action"], "requestId": data["requestId"]}
        if taken:
            await peer.say("subscription", {**answer, "tokens": taken, "status": "success"})
        if refused:
            codes = [{"token": token, "code": "SUBSCRIPTION_LIMIT"} for token in refused]
            await peer.say("subscription", {**answer, "tokens": refused, "status": "error", "rejected": codes})
            error = {"code": "SUBSCRIPTION_LIMIT", "message": "full", "level": "error", "tokens": refused}
            await peer.say("error", {**error, "requestId": data["requestId"]})


async def test_an_address_whose_symbol_was_given_up_goes_where_there_is_room() -> None:
    asked: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await peer.welcome(maxSubscriptions=1, capabilities=["details"], stream="s")
        with suppress(ConnectionClosed):
            await keep_to(peer, 1, [], asked)

    async with scripted(script) as url, TokenClient(url, config=quick()) as client, asyncio.timeout(10):
        await client.subscribe(["A"])
        await client.unsubscribe(["A"])
        await client.subscribe(["B"])
        assert (await client.subscribe(["0xA"])).accepted == {"0xA": "0xA"}
        assert client.connections == 2
        assert len(asked) < 8


async def test_a_server_that_refuses_everything_is_not_asked_for_ever() -> None:
    asked: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await peer.welcome(capabilities=["details"], stream="s")
        with suppress(ConnectionClosed):
            await keep_to(peer, 0, [], asked)

    config = quick()
    async with scripted(script) as url, TokenClient(url, config=config, max_connections=30) as client:
        with pytest.raises(SubscriptionError, match="SUBSCRIPTION_LIMIT"):
            async with asyncio.timeout(10):
                await client.subscribe(["A"])
        assert client.connections == 10


async def test_a_limit_that_shrinks_moves_what_does_not_fit() -> None:
    held: dict[int, list[str]] = {}

    async def script(peer: Peer) -> None:
        limit = 3 if peer.number == 1 else 2
        await peer.welcome(maxSubscriptions=limit, capabilities=["details"], stream="s")
        with suppress(ConnectionClosed):
            await keep_to(peer, limit, held.setdefault(peer.number, []), [])

    async with scripted(script) as url, TokenClient(url, config=quick()) as client, asyncio.timeout(10):
        await client.subscribe(["A", "B", "C"])
        client.drop_connections()
        while sorted(held.get(2, []) + held.get(3, [])) != ["0xA", "0xB", "0xC"]:
            await asyncio.sleep(0.01)
        assert client.connections == 2
        await client.unsubscribe(["A", "B", "C"])
        assert held[2] == held[3] == []


async def test_a_limit_that_shrinks_where_nothing_else_has_room() -> None:
    held: dict[int, list[str]] = {}

    async def script(peer: Peer) -> None:
        limit = 1 if peer.number == 2 else 2
        await peer.welcome(maxSubscriptions=limit, capabilities=["details"], stream="s")
        with suppress(ConnectionClosed):
            await keep_to(peer, limit, held.setdefault(peer.number, []), [])

    settings = {"config": quick(), "max_connections": 1}
    async with scripted(script) as url, TokenClient(url, **settings) as client, asyncio.timeout(10):  # type: ignore[arg-type]
        await client.subscribe(["A", "B"])
        client.drop_connections()
        while not held.get(2):
            await asyncio.sleep(0.01)
        assert client.state is ConnectionState.CONNECTED
        assert client.connections == 1


def test_placement_keeps_nothing_of_what_was_given_up() -> None:
    placement = Placement(max_shards=2, capacity=5)
    for round_ in range(100):
        names = [f"{round_}-{number}" for number in range(5)]
        placement.assign(names)
        for name in names:
            placement.learn(name, f"{name}-address")
        placement.release(names)
    assert not placement._shard
    assert not placement._address
    assert not placement._meant_by
    assert not any(placement._names)


async def test_a_name_refused_for_good_leaves_no_trace() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(capabilities=["details"], stream="s")
        data = await peer.hear("subscription")
        answer = {"action": "subscribe", "requestId": data["requestId"], "tokens": data["tokens"], "status": "error"}
        codes = [{"token": token, "code": "INVALID_TOKEN"} for token in data["tokens"]]
        await peer.say("subscription", {**answer, "rejected": codes})
        error = {"code": "INVALID_TOKEN", "message": "no", "level": "error", "tokens": data["tokens"]}
        await peer.say("error", {**error, "requestId": data["requestId"]})
        await peer.stay()

    async with scripted(script) as url, TokenClient(url, config=quick()) as client, asyncio.timeout(10):
        with pytest.raises(SubscriptionError, match="INVALID_TOKEN"):
            await client.subscribe(["A"])
        assert client._shards is not None
        assert client._shards._placement.placed("A") is None


async def test_beyond_max_connections() -> None:
    async with real_server(tokens=NAMES) as (server, _), TokenClient(server.url, max_connections=2) as client:
        result = await client.subscribe(NAMES)
        assert len(result.accepted) == 200
        assert set(result.rejected.values()) == {"SUBSCRIPTION_LIMIT"}
        with pytest.raises(SubscriptionError, match="max_connections"):
            await client.subscribe(NAMES[240:])
        assert client.connections == 2


async def test_one_connection_that_fails_for_good_ends_all() -> None:
    gone: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.welcome(maxSubscriptions=2)
        await peer.accept(limit=2)
        await peer.stay()
        gone.append(peer.number)

    refusing = scripted(script, lambda count: (403, {}) if count == 3 else None)
    async with refusing as url, TokenClient(url, config=quick()) as client:
        assert len((await client.subscribe(["a", "b", "c", "d"])).accepted) == 4
        assert client.connections == 2
        with pytest.raises(ConnectionFailedError, match="403"):
            await client.subscribe(["e"])
        with pytest.raises(ConnectionFailedError):  # noqa: PT012
            async with asyncio.timeout(10):
                async for _ in client:
                    pass
        assert client.state is ConnectionState.FAILED
        async with asyncio.timeout(10):
            while len(gone) < 2:
                await asyncio.sleep(0.01)
