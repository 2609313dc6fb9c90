"""What the extensions bring, against the real server."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from tokenwire import ClientCheckpoint, Connected, Event, Gap, Reconnecting, Resumed, Snapshot, TokenClient, Update

from ..live import quick, real_server

NAMES = [f"T{number:03}" for number in range(150)]


async def prices(client: TokenClient, name: str, last: str) -> list[Event]:
    """All events up to the one that brings ``name`` to the price ``last``."""
    events: list[Event] = []
    async with asyncio.timeout(15):
        async for event in client:
            events.append(event)
            if isinstance(event, Update | Snapshot) and (event.quote.name, event.quote.price) == (name, last):
                return events
    raise AssertionError("the stream ended")


def kinds(events: list[Event]) -> set[type]:
    return {type(event) for event in events}


async def test_a_cut_socket_is_resumed() -> None:
    async with real_server() as (server, source), TokenClient(server.url, config=quick()) as client:
        await client.subscribe("DOGE")
        await prices(client, "DOGE", "1")
        for price in ("2", "3", "4"):
            client.drop_connections()
            source.trade("DOGE", price)
            events = await prices(client, "DOGE", price)
            assert {Reconnecting, Resumed} <= kinds(events)
            assert not kinds(events) & {Connected, Gap, Snapshot}
        assert client.metrics.resumes == {"resumed": 3}


async def test_every_version_survives_outages() -> None:
    config = quick(delivery="every")
    async with real_server() as (server, source), TokenClient(server.url, config=config) as client:
        await client.subscribe("DOGE")
        await prices(client, "DOGE", "1")
        for price in range(2, 42):
            source.trade("DOGE", str(price))
            if price % 10 == 0:
                client.drop_connections()
            await asyncio.sleep(0.005)
        events = await prices(client, "DOGE", "41")
        seen = [event.quote.price for event in events if isinstance(event, Update)]
        assert seen == [str(price) for price in range(2, 42)]
        assert not any(event.missed for event in events if isinstance(event, Update))


@pytest.mark.parametrize("keep", [True, False])
async def test_a_checkpoint_goes_on_in_another_client(keep: bool) -> None:
    async with real_server() as (server, source):
        async with TokenClient(server.url, ack="checkpoint") as client:
            await client.subscribe("DOGE")
            await prices(client, "DOGE", "1")
            saved = client.checkpoint().to_json()
            source.trade("DOGE", "2")
            await prices(client, "DOGE", "2")  # dealt with, but not in the checkpoint: it comes again
            await client.close(keep_session=keep)
        source.trade("DOGE", "3")
        async with TokenClient(server.url, checkpoint=saved, ack="checkpoint") as client:
            events = await prices(client, "DOGE", "3")
        values = [event.quote.price for event in events if isinstance(event, Update | Snapshot)]
        if keep:
            assert isinstance(events[0], Resumed)
            assert values == ["2", "3"]
            assert not kinds(events) & {Connected, Gap}
        else:
            assert {Connected, Gap} <= kinds(events)


async def test_a_checkpoint_of_several_connections() -> None:
    async with real_server(tokens=NAMES) as (server, source):
        async with TokenClient(server.url, ack="checkpoint") as client:
            await client.subscribe(NAMES)
            await prices(client, NAMES[149], "1")
            saved = client.checkpoint()
        assert len(saved.shards) == 2
        source.trade(NAMES[0], "5")
        source.trade(NAMES[149], "5")
        async with TokenClient(server.url, checkpoint=ClientCheckpoint.parse(saved.to_json())) as client:
            assert (await client.subscribe(NAMES)).rejected == {}
            assert client.connections == 2
            events = await prices(client, NAMES[149], "5")
            assert sum(isinstance(event, Resumed) for event in events) >= 1
            assert not kinds(events) & {Gap, Connected}


async def test_large_messages_come_as_zstd() -> None:
    async with real_server(tokens=NAMES) as (server, source), TokenClient(server.url) as client:
        await client.subscribe(NAMES[:100])
        for round_number in range(2, 6):
            for name in NAMES[:100]:
                source.trade(name, str(round_number))
            events = await prices(client, NAMES[99], str(round_number))
            granted = [event.capabilities for event in events if isinstance(event, Connected)]
            assert all("zstd" in names for names in granted)
        async with asyncio.timeout(10):
            while {quote.price for quote in client.latest.values()} != {"5"}:
                await client.next_event()
        assert client.metrics.invalid_messages == 0


async def test_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    async with real_server(tls_cert=certificate, tls_key=key) as (server, _):
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with TokenClient(server.url, ssl=trusted) as client:
            assert (await client.subscribe("DOGE")).accepted
        async with TokenClient(server.url, config=quick(max_retries=0)) as client:
            with pytest.raises(Exception, match="certificate is not trusted"):
                await client.subscribe("DOGE")
