"""Every example and every block of the README runs, against a real server."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tokenwire_server.sources.simulator import Simulator

from ..live import real_server

SDK = Path(__file__).parents[2]
EXAMPLES = sorted(path.name for path in (SDK / "examples").glob("*.py"))
README = (SDK / "README.md").read_text("utf-8")
OPTIONS = {
    "quickstart.py": ["--count", "4"],
    "callbacks.py": ["--seconds", "0.5"],
    "checkpoint.py": ["--count", "3"],
    "bot_with_staleness.py": ["--seconds", "0.5"],
    "many_tokens.py": ["--seconds", "0.5"],
    "blocking.py": ["--count", "4"],
    "conformance_client.py": ["DOGE,PEPE", "--seconds", "0.5"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    async with real_server(tokens=()) as (server, _):
        market = asyncio.create_task(Simulator().run(server.pipeline))
        yield server.url
        market.cancel()


async def run(*arguments: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


def test_every_example_is_run() -> None:
    assert sorted(OPTIONS) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
async def test_example(name: str, url: str, tmp_path: Path) -> None:
    options = OPTIONS[name]
    if name == "checkpoint.py":
        options = [*options, "--file", str(tmp_path / "position.json")]
        await run(str(SDK / "examples" / name), url, *options)
        assert (tmp_path / "position.json").stat().st_mode & 0o077 == 0
    out = await run(str(SDK / "examples" / name), url, *options)
    assert out


@pytest.mark.parametrize("number", range(len(blocks("python"))))
async def test_readme_program(number: int, url: str) -> None:
    program = blocks("python")[number].replace("ws://127.0.0.1:8080", url)
    assert await run("-c", program)


@pytest.mark.parametrize("line", [line for block in blocks("bash") for line in block.splitlines()])
async def test_readme_command(line: str, url: str) -> None:
    words = shlex.split(line.replace("ws://127.0.0.1:8080", url))
    assert words[0] == "tokenwire"
    assert await run("-m", *words, TOKENWIRE_URL=url)


def test_readme_links() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (SDK / target).exists(), target


def test_readme_names_every_argument() -> None:
    import inspect

    from tokenwire import TokenClient

    arguments = set(inspect.signature(TokenClient).parameters) - {"url", "connect"}
    assert arguments == set(re.findall(r"^\| `(\w+)` \|", README.split("## Settings")[1], re.MULTILINE))


def test_the_reference_is_up_to_date() -> None:
    source = (SDK / "tools/reference.py").read_text("utf-8")
    scope: dict[str, object] = {"__name__": "reference", "__file__": str(SDK / "tools/reference.py")}
    exec(compile(source, "reference.py", "exec"), scope)
    document = scope["document"]
    assert callable(document)
    assert (SDK / "REFERENCE.md").read_text("utf-8") == document(), "run: python client_sdk/tools/reference.py"
