"""Many tokens: which shard they go to, and one stream from all of them."""

import asyncio

import pytest

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
