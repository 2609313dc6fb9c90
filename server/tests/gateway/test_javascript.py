"""The clients of the JavaScript world: ws, wscat and a browser."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import Serve
from .test_clients import subscribe

NODE_TESTS = Path(__file__).parents[1] / "node"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed"),
    pytest.mark.skipif(
        not (NODE_TESTS / "node_modules" / "ws").is_dir(), reason="run `npm ci` in server/tests/node first"
    ),
]


async def run(*command: str) -> tuple[list[str], str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,  # kept open: wscat ends with its input
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=NODE_TESTS,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines(), err.decode()


def check(lines: list[str], tokens: int) -> list[Any]:
    messages = [json.loads(line) for line in lines]
    assert [message["sequence"] for message in messages] == list(range(1, len(messages) + 1))
    assert [message["type"] for message in messages[:2]] == ["connection", "subscription"]
    assert len(messages[1]["data"]["tokens"]) == tokens
    return messages


@pytest.mark.parametrize("deflate", [False, True])
async def test_ws(serve: Serve, deflate: bool) -> None:
    tokens = [f"TOKEN{n}" for n in range(100)]
    async with serve(tokens=tokens) as (server, _):
        lines, err = await run("node", "ws_client.mjs", server.url, "102", str(deflate).lower(), *tokens)
        assert ("permessage-deflate" in err) is deflate
        check(lines, 100)


async def test_wscat(serve: Serve) -> None:
    async with serve() as (server, _):
        lines, _ = await run(
            str(NODE_TESTS / "node_modules/.bin/wscat"), "-c", server.url, "-x", subscribe("DOGE"), "-w", "1"
        )
        messages = check([line.removeprefix("< ") for line in lines if line.strip()], 1)
        assert messages[2]["data"]["address"] == "DOGE-address"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
async def test_a_browser(serve: Serve, tmp_path: Path) -> None:
    tokens = ["DOGE", "PEPE", "SHIB", "FLOKI", *(f"TOKEN{n}" for n in range(96))]
    async with serve(tokens=tokens) as (server, source):
        source.trade("DOGE", "0.12345")
        page = f"http://127.0.0.1:{server.port}/"
        shot = str(tmp_path / "page.png")
        lines, _ = await run("node", "browser_client.mjs", str(CHROMIUM), page, server.url, "102", shot, *tokens)
        seen = json.loads(lines.pop())
        check(lines, 100)
        assert "permessage-deflate" in seen["extensions"]
        assert seen["problems"] == []
        assert "0.12345" in seen["text"]
