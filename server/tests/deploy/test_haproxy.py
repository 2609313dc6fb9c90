"""Clients of two real servers behind the balancer: closed, killed, frozen and restarted one by one."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tokenwire import ClientConfig, Connected, Error, Event, Reconnecting, TokenClient, Update

from ..services.fixtures import Balance
from ..services.haproxy import HAProxy
from .gateways import LiveGateway

Live = Callable[..., LiveGateway]
LIMIT_S = 60
CLIENTS = 12
_PATH = "/api/v1/ws/token-data"
_TRADE = b'{"id":"1","symbol":"PEPE","price":"1","amount":"2","side":"Buy","timestamp":"2026-03-21T10:30:00Z"}'


def url(address: str, path: str = _PATH) -> str:
    return f"ws://{address}{path}"


async def started(gateways: list[LiveGateway]) -> None:
    await asyncio.gather(*(asyncio.to_thread(gateway.start) for gateway in gateways))


async def ending(socket: ClientConnection) -> tuple[int | None, str]:
    """Code and reason with which it ends; None when no close frame came."""
    with suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), LIMIT_S)
    closed = socket.protocol.close_rcvd
    return (closed.code, closed.reason) if closed is not None else (None, "")


async def holder(balancer: HAProxy) -> int:
    """Which of the gateways has the only connection there is, from 0."""
    for _ in range(LIMIT_S * 10):
        counts = await asyncio.to_thread(balancer.clients)
        if sum(counts.values()) == 1:
            return [count for _, count in sorted(counts.items())].index(1)
        await asyncio.sleep(0.1)
    raise AssertionError(counts)


async def test_codes_and_reasons_of_closes_arrive_as_they_were_sent(balance: Balance, live: Live) -> None:
    gateway = live("--drain", "0")
    await started([gateway])
    balancer = balance([gateway.place])
    direct, through = (url(address) for address in (f"127.0.0.1:{gateway.port}", balancer.address))

    async def ending_of_binary(target: str) -> tuple[int | None, str]:
        async with connect(target) as socket:
            await socket.send(b"binary")
            return await ending(socket)

    told = await ending_of_binary(direct)
    assert told[0] == 1003
    assert told[1]
    assert await ending_of_binary(through) == told
    async with connect(direct) as one, connect(through) as other, connect(url(balancer.address, "/ws/DOGE")) as plain:
        gateway.terminate()
        assert await ending(one) == await ending(other)
        assert one.protocol.close_rcvd is not None
        assert one.protocol.close_rcvd.code == 1012
        assert (await ending(plain))[0] == 1001
    await asyncio.to_thread(gateway.wait)


async def test_a_client_of_a_killed_gateway_is_cut_and_finds_the_other(balance: Balance, live: Live) -> None:
    gateways = [live(), live()]
    await started(gateways)
    balancer = balance([gateway.place for gateway in gateways])
    await asyncio.to_thread(balancer.wait_for, "gateway-1", "gateway-2")
    async with connect(url(balancer.address)) as socket:
        first = await holder(balancer)
        gateways[first].kill()
        assert await ending(socket) == (None, "")
        assert socket.close_code == 1006
    # At once: before a health check can have noticed.
    async with connect(url(balancer.address)) as socket:
        assert json.loads(await socket.recv())["type"] == "connection"
        assert await holder(balancer) == 1 - first
    await asyncio.to_thread(balancer.wait_for, f"gateway-{2 - first}")
    await asyncio.to_thread(gateways[first].start)
    await asyncio.to_thread(balancer.wait_for, "gateway-1", "gateway-2")


async def test_a_frozen_gateway_gets_nobody_new_until_it_goes_on(balance: Balance, live: Live) -> None:
    gateways = [live(), live()]
    await started(gateways)
    balancer = balance([gateway.place for gateway in gateways])
    await asyncio.to_thread(balancer.wait_for, "gateway-1", "gateway-2")
    gateways[0].running.stop()
    await asyncio.to_thread(balancer.wait_for, "gateway-2")
    for _ in range(4):
        async with connect(url(balancer.address)) as socket:
            assert json.loads(await socket.recv())["type"] == "connection"
    gateways[0].running.cont()
    await asyncio.to_thread(balancer.wait_for, "gateway-1", "gateway-2")


async def test_new_clients_are_spread_over_the_gateways(balance: Balance, live: Live) -> None:
    gateways = [live("--drain", "0"), live("--drain", "0")]
    await started(gateways)
    balancer = balance([gateway.place for gateway in gateways])
    await asyncio.to_thread(balancer.wait_for, "gateway-1", "gateway-2")
    sockets = [await connect(url(balancer.address)) for _ in range(6)]
    assert await asyncio.to_thread(balancer.clients) == {"gateway-1": 3, "gateway-2": 3}
    for socket in sockets:
        await socket.close()


class Follower:
    """An SDK client that follows one token through the balancer, and what it was told."""

    def __init__(self, balancer: HAProxy) -> None:
        config = ClientConfig(url=url(balancer.address), backoff_base_ms=50, backoff_cap_ms=400, max_retries=None)
        self.client = TokenClient(config.url, config=config)
        self.told: list[Event] = []
        self.updates = 0

    async def follow(self) -> None:
        async with self.client as client:
            await client.subscribe(["DOGE"])
            async for event in client:
                if isinstance(event, Update):
                    self.updates += 1
                else:
                    self.told.append(event)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.told if isinstance(event, kind)]


async def until(what: Callable[[], bool], said: Callable[[], object]) -> None:
    for _ in range(LIMIT_S * 50):
        if what():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(said())


async def test_gateways_are_restarted_one_by_one_and_every_client_goes_on(balance: Balance, live: Live) -> None:
    gateways = [live("--drain", "2"), live("--drain", "2")]
    await started(gateways)
    balancer = balance([gateway.place for gateway in gateways])
    await asyncio.to_thread(balancer.wait_for, "gateway-1", "gateway-2")
    followers = [Follower(balancer) for _ in range(CLIENTS)]
    following = [asyncio.create_task(follower.follow()) for follower in followers]
    newcomers = 0
    try:
        await until(lambda: all(follower.updates for follower in followers), lambda: [f.told for f in followers])
        for number, gateway in enumerate(gateways):
            ended = asyncio.create_task(asyncio.to_thread(gateway.restart))
            while not ended.done():  # whoever comes meanwhile is served at the first try
                async with connect(url(balancer.address)) as socket:
                    assert json.loads(await socket.recv())["type"] == "connection"
                    newcomers += 1
                await asyncio.sleep(0.02)
            await ended
            await asyncio.to_thread(balancer.wait_for, "gateway-1", "gateway-2")
            seen = [follower.updates for follower in followers]
            await until(
                lambda seen=seen: all(f.updates > n for f, n in zip(followers, seen, strict=True)),  # type: ignore[misc]
                lambda number=number: (number, [f.told[-3:] for f in followers]),  # type: ignore[misc]
            )
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    assert newcomers > 10
    cuts = [event for follower in followers for event in follower.of(Reconnecting)]
    assert {event.code for event in cuts if isinstance(event, Reconnecting)} == {1012}
    assert len(cuts) >= CLIENTS, "the first restart moved half of them, the second at least those to the first"
    codes = [event.code for follower in followers for event in follower.of(Error) if isinstance(event, Error)]
    assert set(codes) <= {"SERVER_SHUTDOWN", "RESUME_FAILED"}
    for follower in followers:
        # No try in vain: each cut is followed by a connection to the other gateway.
        assert len(follower.of(Connected)) == 1 + len(follower.of(Reconnecting))


async def test_posts_through_the_balancer_need_the_token(balance: Balance, live: Live) -> None:
    """The server believes programs of its own machine; those that come through the balancer are not."""
    gateway = live("--drain", "0")
    await started([gateway])
    balancer = balance([gateway.place])
    await asyncio.to_thread(balancer.wait_for, "gateway-1")
    reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port)
    head = f"POST /api/v1/trades HTTP/1.1\r\nhost: {balancer.address}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(_TRADE)}\r\nconnection: close\r\n\r\n".encode() + _TRADE)
    answer = await asyncio.wait_for(reader.read(), LIMIT_S)
    writer.close()
    assert answer.split()[1] in (b"401", b"403"), answer
