"""A client with closed schemas (additionalProperties: false) lives through everything a server can say."""

import asyncio
import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import tokenwire_schemas
from tokenwire_server.core.hub import HubConfig

from .conftest import Serve
from .test_clients import subscribe
from .test_extensions import get

STRICT = Path(tokenwire_schemas.__file__).parent / "v1" / "strict" / "server"


class StrictClient:
    """Refuses any message that is not exactly the specification's."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.last = 0
        self.validators = {
            kind: Draft202012Validator(json.loads((STRICT / f"{kind}.schema.json").read_text("utf-8")))
            for kind in ("connection", "token_update", "subscription", "error")
        }

    async def next(self) -> dict[str, Any]:
        text = await asyncio.wait_for(self.connection.recv(), 5)
        assert isinstance(text, str)
        message: dict[str, Any] = json.loads(text)
        self.validators[message["type"]].validate(message)
        assert message["sequence"] == self.last + 1
        self.last += 1
        return message

    async def until(self, kind: str) -> dict[str, Any]:
        while (message := await self.next())["type"] != kind:
            pass
        return message

    async def rest(self) -> tuple[list[dict[str, Any]], int | None]:
        messages = []
        try:
            while True:
                messages.append(await self.next())
        except ConnectionClosed as closed:
            return messages, closed.rcvd.code if closed.rcvd else None


async def extended(url: str, delivery: str, tokens: list[str], enough: asyncio.Event) -> None:
    """A neighbour with every capability that comes and goes, resumes and asks for replays."""
    wishes = f"?caps=batch,heartbeat,resume,details,zstd&delivery={delivery}"
    session, attempt = "", 0
    while not enough.is_set():
        attempt += 1
        headers = {"X-Tokenwire-Session": session} if session else {}
        async with connect(f"{url}{wishes}&seq=1&attempt={attempt}", additional_headers=headers) as client:
            hello = (await get(client))["data"]
            assert len(hello["capabilities"]) == 5
            session = hello["session"]
            await client.send(subscribe(*tokens[:20]))
            await client.send('{"type":"ping","data":{"echo":1}}')
            await client.send('{"type":"replay","data":{"from":1,"to":1}}')
            for _ in range(8):
                await client.recv()
            client.transport.abort()


@pytest.mark.parametrize("company", [False, True], ids=["alone", "beside extended clients"])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_every_scenario(serve: Serve, compression: str | None, company: bool) -> None:
    tokens = ["DOGE", "PEPE", *(f"TOKEN{n}" for n in range(110))]
    async with serve(tokens=tokens) as (server, source), connect(server.url, compression=compression) as raw:
        wishes = ("latest", "every") if company else ()
        enough = asyncio.Event()
        neighbours = [asyncio.create_task(extended(server.url, delivery, tokens, enough)) for delivery in wishes]
        client = StrictClient(raw)
        for task in neighbours:
            while server.pipeline.hub.stats.resumes.get("resumed", 0) < 4:
                assert not task.done(), task.exception()
                source.trade("DOGE", "2")
                await asyncio.sleep(0.01)
        assert (await client.next())["data"]["status"] == "connected"
        await raw.send(subscribe("DOGE", "nobody", 5, *tokens))
        assert (await client.next())["data"]["status"] == "success"
        assert (await client.next())["data"]["status"] == "error"
        for code in ("TOKEN_NOT_FOUND", "INVALID_TOKEN", "SUBSCRIPTION_LIMIT"):
            assert (await client.next())["data"]["code"] == code
        for bad in ("{", "[]", '{"type":"kline"}', '{"type":"subscription","data":{"action":"x","tokens":[1]}}'):
            await raw.send(bad)
            assert (await client.until("error"))["data"]["level"] == "error"
        await raw.send(subscribe(*tokens[:50], action="unsubscribe"))
        await client.until("subscription")
        source.trade("TOKEN60", "0.000000001234")
        while (await client.until("token_update"))["data"]["price"] != "0.000000001234":
            pass
        for _ in range(50):
            await raw.send(subscribe("TOKEN60"))
        while (await client.until("error"))["data"]["code"] != "RATE_LIMITED":
            pass
        for task in neighbours:
            assert not task.done(), task.exception()
        enough.set()
        await asyncio.gather(*neighbours)
        server.server.should_exit = True
        messages, code = await client.rest()
        assert [message["type"] for message in messages[-2:]] == ["error", "connection"]
        assert messages[-1]["data"]["status"] == "disconnected"
        assert code == 1012


async def test_a_refusal_is_strict_too(serve: Serve) -> None:
    async with serve(HubConfig(max_connections=1)) as (server, _), connect(server.url), connect(server.url) as raw:
        messages, code = await StrictClient(raw).rest()
        assert [message["data"].get("code") for message in messages] == ["MAX_CONNECTIONS", None]
        assert code == 1013


async def test_over_tls(serve: Serve, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    trust = ssl.create_default_context(cafile=str(certificate))
    async with serve(tls_cert=certificate, tls_key=key) as (server, source):
        assert server.url.startswith("wss://")
        async with connect(server.url, ssl=trust) as raw:
            client = StrictClient(raw)
            await client.next()
            await raw.send(subscribe("DOGE"))
            await client.until("token_update")
            source.trade("DOGE", "9")
            while (await client.until("token_update"))["data"]["price"] != "9":
                pass
