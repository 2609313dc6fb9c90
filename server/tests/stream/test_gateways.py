"""``gateway`` as processes over real Kafka, behind real HAProxy: all tell the same, and a client that goes from one to
another misses nothing."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tokenwire import TokenClient
from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import Outgoing, Place
from tokenwire_server.stream.processor import Processor
from tokenwire_server.stream.topics import Topics

from ..services.haproxy import Gateway
from ..services.kafka import Kafka
from ..services.ports import free_port
from ..services.postgres import Postgres
from .role_process import RoleProcess, environment, feed, until
from .test_processor import NAMES, NOW_MS, PLAN, tape, topics_named

TRADES = 600
INTERVALS = {"TOKENWIRE_BAR_INTERVALS": "1s,1m", "TOKENWIRE_UPDATE_INTERVAL_S": "0.2", "TOKENWIRE_DRAIN_S": "0.5"}


class GatewayProcess(RoleProcess):
    """One gateway, on ports that it keeps over restarts."""

    def __init__(self, variables: Mapping[str, str], log: Path) -> None:
        self.port, self.role_port = free_port(), free_port()
        super().__init__(
            "gateway", {**variables, **INTERVALS}, log, ("--port", str(self.port)), role_port=self.role_port
        )

    async def get(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession() as client, client.get(url) as reply:
            body = await reply.json()
            assert reply.status == 200, body
            return body

    async def is_ready(self) -> bool:
        return bool((await self.ready())["ready"])


@asynccontextmanager
async def processing(servers: str, topics: Topics) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(servers)
    await bus.ensure(topics.specs())
    task = asyncio.create_task(Processor(bus, topics, "p", PLAN, 100).run())
    try:
        yield bus
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


def records() -> list[Outgoing]:
    return tape(3, TRADES)


async def standing(gateway: GatewayProcess) -> dict[str, Any]:
    """Versions, values and trade numbers of all tokens, as a gateway tells them."""
    found = {row["address"]: row for row in (await gateway.get("/api/v1/tokens?limit=100"))["data"]}
    for address, row in found.items():
        page = await gateway.get(f"/api/v1/trades/{address}?limit=1")
        row["newest"] = page["newest"]
    return found


async def _knows(gateway: GatewayProcess) -> bool:
    return len((await gateway.get("/api/v1/tokens?limit=100"))["data"]) == len(NAMES)


def test_all_gateways_tell_the_same_and_a_client_that_goes_over_misses_nothing(
    kafka: Kafka, postgres: Postgres, database: str, unique: str, tmp_path: Path, balance: Callable[..., Any]
) -> None:
    async def scenario() -> None:
        topics = topics_named(unique)
        variables = environment(kafka, topics, postgres, database)
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(processing(kafka.address, topics))
            loader = RoleProcess("load", variables, tmp_path / "load.log")
            stack.push_async_callback(loader.end)
            await loader.start()
            gateways = [GatewayProcess(variables, tmp_path / f"{name}.log") for name in ("one", "two")]
            for gateway in gateways:
                stack.push_async_callback(gateway.end)
                await gateway.start()
            everything = records()
            await feed(bus, topics, everything[: len(NAMES)], 0)
            balancer = await asyncio.to_thread(balance, [Gateway(each.port, each.role_port) for each in gateways])
            await until(lambda: len(balancer.up()) == 2)
            for gateway in gateways:  # the balancer takes each for one that is up until it has asked
                await until(gateway.is_ready)
                await until(lambda gateway=gateway: _knows(gateway))
            seen: list[tuple[int | None, str | None, int | None]] = []
            client = await stack.enter_async_context(TokenClient(f"ws://127.0.0.1:{balancer.port}"))
            trades = await stack.enter_async_context(client.trades(NAMES[0]))

            async def read() -> None:
                async for trade in trades:
                    seen.append((trade.number, trade.trade_id, trade.missed))  # noqa: PERF401 - while it goes on

            reading = asyncio.create_task(read())
            await until(lambda: sum(balancer.clients().values()) >= 1)
            last = everything[-100:]
            feeding = asyncio.create_task(feed(bus, topics, everything[len(NAMES) : -len(last)], 12))
            for gateway, number in ((gateways[0], signal.SIGKILL), (gateways[1], signal.SIGTERM)):
                await until(lambda: len(balancer.up()) == 2)
                await asyncio.sleep(1)
                assert await gateway.end(number) == (0 if number is signal.SIGTERM else -9)
                await gateway.start()
            await feeding
            for gateway in gateways:
                await until(gateway.is_ready)
            await feed(bus, topics, last, 0)  # each gateway reads some of the log, however long its start took
            await until(lambda: _is_done(bus, topics, gateways))
            one, two = [await standing(each) for each in gateways]
            assert one == two
            assert set(one) == set(NAMES)
            newest = one[NAMES[0]]["newest"]
            await until(lambda: seen and seen[-1][0] == newest)
            reading.cancel()
            assert [(number, missed) for number, _, missed in seen] == [(n, 0) for n in range(1, newest + 1)]
            page = await gateways[0].get(f"/api/v1/trades/{NAMES[0]}?after=0&limit=1000")
            assert [(each["number"], each["id"]) for each in page["data"]] == [(n, i) for n, i, _ in seen]
            bars = await gateways[1].get(f"/api/v1/klines/{NAMES[0]}?interval=1s&limit=1000")
            assert sum(bar["trades"] for bar in bars["data"]) == newest
            assert await gateways[0].metric("tokenwire_role_ready") == 1
            assert await gateways[0].metric("tokenwire_gateway_log_records_total") > 0
            for each in (*gateways, loader):
                assert await each.end(signal.SIGTERM) == 0
                assert "Traceback" not in each.said()

    asyncio.run(scenario())


async def _is_done(bus: KafkaBus, topics: Topics, gateways: list[GatewayProcess]) -> bool:
    """Nothing is written any more, and everybody has it all."""
    places = [Place(topics.log, number) for number in range(topics.partitions)]
    ends = await bus.ends(places)
    await asyncio.sleep(0.6)
    lags = [(await gateway.ready())["log"]["lag"] for gateway in gateways]
    return not any(lags) and ends == await bus.ends(places)


def test_a_gateway_is_ready_once_nothing_is_missing_before_what_it_has(
    kafka: Kafka, postgres: Postgres, database: str, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        topics = topics_named(unique)
        variables = environment(kafka, topics, postgres, database)
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(processing(kafka.address, topics))
            await feed(bus, topics, records()[:100], 0)
            gateway = GatewayProcess(variables, tmp_path / "gateway.log")
            stack.push_async_callback(gateway.end)
            await gateway.start()
            await until(lambda: _is_troubled(gateway, "the history can't be read"))
            assert (await gateway.ready())["history"]["state"] == "failing"
            loader = RoleProcess("load", variables, tmp_path / "load.log")
            stack.push_async_callback(loader.end)
            await loader.start()
            await until(gateway.is_ready)
            assert (await gateway.ready())["history"] == {"state": "ok"}
            status = await loader.end(signal.SIGTERM)
            assert status == 0
            await feed(bus, topics, records()[100:140], 0)
            await until(lambda: _lags_nothing(gateway))
            page = await gateway.get(f"/api/v1/trades/{NAMES[0]}?after=0&limit=1000")
            assert [each["number"] for each in page["data"]] == list(range(1, page["newest"] + 1))

    asyncio.run(scenario())


async def _is_troubled(gateway: GatewayProcess, reason: str) -> bool:
    body = await gateway.ready()
    return not body["ready"] and reason in body["reason"]


async def _lags_nothing(gateway: GatewayProcess) -> bool:
    return bool((await gateway.ready())["log"]["lag"] == 0)


@pytest.mark.proof(only=True)
def test_brokers_that_are_not_there_are_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        gateway = GatewayProcess({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, tmp_path / "gateway.log")
        try:
            await gateway.start()
            await until(lambda: _is_troubled(gateway, "kafka failing: "))
            with pytest.raises(aiohttp.ClientConnectorError):
                await gateway.get("/health")
            assert await gateway.end(signal.SIGTERM) == 0
            assert gateway.said().count("kafka failing") == 1
        finally:
            await gateway.end()

    asyncio.run(scenario())


def test_a_gateway_that_can_not_follow_any_further_sends_its_clients_away_and_ends(
    kafka: Kafka, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        topics = topics_named(unique)
        variables = environment(kafka, topics)
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(processing(kafka.address, topics))
            await feed(bus, topics, records()[:30], 0)
            gateway = GatewayProcess(variables, tmp_path / "gateway.log")
            stack.push_async_callback(gateway.end)
            await gateway.start()
            await until(gateway.is_ready)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            url = f"ws://127.0.0.1:{gateway.port}/api/v1/ws/token-data"
            socket = await stack.enter_async_context(session.ws_connect(url))
            hole = {"seq": 999_999, "event": {"tokenwire": "clock", "source": "s", "time_ms": NOW_MS}}
            writer = bus.writer("hole")
            await writer.commit([Outgoing(Place(topics.log, 0), b"", json.dumps(hole).encode())])
            await writer.close()
            while not (await socket.receive()).type.name.startswith("CLOSE"):
                pass
            assert socket.close_code == 1012
            process = gateway.process
            assert process is not None
            assert await asyncio.wait_for(process.wait(), 60) == 1
            assert "of the log are missing" in gateway.said()
            assert "start it again: it begins with newer snapshots" in gateway.said()

    asyncio.run(scenario())


@pytest.mark.parametrize("role", ["gateway", "process"])
def test_what_is_not_named_is_said(role: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        one = RoleProcess(role, {"KAFKA_BOOTSTRAP_SERVERS": ""}, tmp_path / "log")
        assert await (await one.launch()).wait() == 2
        assert one.said() == (
            f"tokenwire-server: {role} needs the brokers: --kafka HOST:PORT, or KAFKA_BOOTSTRAP_SERVERS\n"
        )

    asyncio.run(scenario())
