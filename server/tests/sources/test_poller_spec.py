"""From text to what is polled, and the command that polls once."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tokenwire_server.errors import UserError
from tokenwire_server.fetch_command import fetch_once, print_fetched
from tokenwire_server.poller_spec import MAX_POLLED_TOKENS, MAX_QUERY_CHARS
from tokenwire_server.settings import Settings
from tokenwire_server.source_spec import parse_source
from tokenwire_server.sources import SourceSpecError
from tokenwire_server.sources import parse_source as build
from tokenwire_server.sources.aggregator import Aggregator

from .poller_service import JUP, PAIRS, SYMMETRY, TOKENS, Reply, Service

Services = tuple[Service, Service]
PEPE = "0x6982508145454Ce325dDbE47a25d4ec3d2311933"


@pytest.mark.parametrize(
    ("text", "symbols", "search", "url"),
    [
        (f"dexscreener:{SYMMETRY}", (SYMMETRY,), "", None),
        (f"dexscreener: ethereum:{PEPE} , {SYMMETRY},{SYMMETRY}", (f"ethereum:{PEPE}", SYMMETRY), "", None),
        ("dexscreener:sui:0x2::sui::SUI@http://h:1", ("sui:0x2::sui::SUI",), "", "http://h:1"),
        ("dexscreener:search= SOL/USDC, or: me@home ", (), "SOL/USDC, or: me@home", None),
        ("dexscreener:search=a@b@https://h/api", (), "a@b", "https://h/api"),
        (f"jupiter:{JUP}@http://127.0.0.1:9", (JUP,), "", "http://127.0.0.1:9"),
    ],
)
def test_every_form(text: str, symbols: tuple[str, ...], search: str, url: str | None) -> None:
    spec = parse_source(text)
    assert (spec.symbols, spec.search, spec.rest_url) == (symbols, search, url)
    assert isinstance(build(text), Aggregator)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dexscreener:", "dexscreener needs tokens: dexscreener:ADDRESS,ADDRESS or dexscreener:search=QUERY"),
        ("dexscreener", "needs tokens"),
        ("jupiter:,", "jupiter needs tokens: jupiter:MINT,MINT"),
        ("dexscreener:search=", "1 to 100 characters"),
        ("dexscreener:search=" + "x" * (MAX_QUERY_CHARS + 1), "1 to 100 characters"),
        ("dexscreener:search=a\nb", "1 to 100 characters"),
        ("dexscreener:../../x", "'../../x' is not a token address"),
        ("dexscreener:a?b=c", "not a token address"),
        (f"jupiter:{PEPE}", "not a mint of a Solana token"),
        (f"jupiter:{JUP[:-1]}0", "not a mint of a Solana token"),
        (f"jupiter:{JUP}@ws://h", "'ws://h' is not a URL of an API"),
        (f"jupiter:{JUP}@http://", "not a REST URL"),
        (f"jupiter:{JUP}@http://h:0", "not a REST URL"),
        (
            "jupiter:" + ",".join(f"{'1' * 36}{n + 1111}".replace("0", "A") for n in range(3 * MAX_POLLED_TOKENS)),
            "at most 1000 tokens",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SourceSpecError, match=message) as caught:
        build(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    dex, jup = Service(), Service()
    dex.always["/latest/dex/tokens/"] = Reply(PAIRS)
    jup.always["/tokens/v2/search"] = Reply(json.dumps([json.loads(TOKENS)[0] | {"id": SYMMETRY}]))
    async with dex.running(), jup.running():
        yield dex, jup


def settings_for(dex: Service, jup: Service) -> Settings:
    return Settings(source=(f"dexscreener:{SYMMETRY}@{dex.url}", f"jupiter:{SYMMETRY}@{jup.url}", "simulator"))


async def test_fetch_shows_what_each_says(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    fetched = await fetch_once(settings_for(*services))
    assert fetched.answered
    print_fetched(fetched, merged=False, as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["source"], row["symbol"], row["price"]) for row in rows] == [
        ("dexscreener", "sym", "0.0007094"),
        ("jupiter", "JUP", "0.1415"),
    ]
    print_fetched(fetched, merged=False, as_json=False)
    shown = capsys.readouterr()
    assert SYMMETRY in shown.out
    assert "dexscreener: 1 tokens in" in shown.err


async def test_fetch_shows_what_it_amounts_to(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    print_fetched(await fetch_once(settings_for(*services)), merged=True, as_json=True)
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["sources"], row["price"], row["h24"]) == ("dexscreener+jupiter", "0.1415", "5636909.86")


async def test_fetch_says_what_went_wrong(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    dex, jup = services
    dex.always["/latest/dex/tokens/"] = Reply("<html>")
    jup.always["/tokens/v2/search"] = Reply('{"error":"x"}', 401)
    fetched = await fetch_once(settings_for(dex, jup))
    assert not fetched.answered
    print_fetched(fetched, merged=False, as_json=False)
    told = capsys.readouterr().err
    assert "1 times not_json" in told
    assert "1 times http_401" in told


async def test_fetch_needs_something_to_poll() -> None:
    with pytest.raises(UserError, match="nothing to fetch: give --source"):
        await fetch_once(Settings(source=("simulator",)))


async def test_the_command(services: Services, tmp_path: Any) -> None:
    dex, _ = services
    command = [
        sys.executable,
        "-m",
        "tokenwire_server",
        "fetch",
        "--source",
        f"dexscreener:{SYMMETRY}@{dex.url}",
        "--json",
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=tmp_path)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert json.loads(out)["price"] == "0.0007094"
    dex.always.clear()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL, cwd=tmp_path)
    assert await asyncio.wait_for(process.wait(), 60) == 1
