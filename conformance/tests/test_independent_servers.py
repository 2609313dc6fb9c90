"""Servers by other hands: two that keep the specification pass core, a careless one fails for the right reasons.

All three run at once, over real sockets and in real time.
"""

import asyncio
import json
import shutil
import socket
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "independent"
PACKAGES = Path(__file__).parents[2] / "server" / "tests" / "node" / "package.json"
CORE_S = 60
"""What core may take against a healthy server."""
_LIMIT_S = 150
_START_S = 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


async def reachable(port: int) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def judged(folder: Path, *command: str) -> dict[str, Any]:
    """Start the server, run core against it, and give ``results.json``."""
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in command]
    quiet = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(*words, stdin=quiet, stdout=quiet, stderr=quiet)
    suite = None
    try:
        await reachable(port)
        report = folder / f"{port}.json"
        suite = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokenwire_conformance", "server", f"ws://127.0.0.1:{port}"),
            *("--json", str(report), "--update-interval", "5", "--no-colour"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(_LIMIT_S):
            out, err = await suite.communicate()
        assert err == b"", err.decode()
        result: dict[str, Any] = json.loads(report.read_bytes())
        result["console"] = out.decode()
        result["status"] = suite.returncode
        return result
    finally:
        for process in (server, suite):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


_SERVERS = {
    "aiohttp": (sys.executable, str(FOLDER / "aiohttp_server.py"), "{port}"),
    "ws": ("node", str(FOLDER / "ws_server.mjs"), "{port}", str(PACKAGES)),
    "naive": (sys.executable, str(FOLDER / "naive_server.py"), "{port}"),
}


def without_node() -> str:
    if shutil.which("node") is None:
        return "Node.js is not installed"
    if not (PACKAGES.parent / "node_modules" / "ws").is_dir():
        return "run `npm ci` in server/tests/node first"
    return ""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("independent")
    names = [name for name in _SERVERS if name != "ws" or not without_node()]

    async def all_of_them() -> list[dict[str, Any]]:
        return await asyncio.gather(*(judged(folder, *_SERVERS[name]) for name in names))

    return dict(zip(names, asyncio.run(all_of_them()), strict=True))


def failures(result: dict[str, Any]) -> dict[str, set[str]]:
    """The cases that FAILED for each clause."""
    found: dict[str, set[str]] = defaultdict(set)
    for case in result["cases"]:
        for violation in case["violations"]:
            if violation["status"] == "FAILED":
                found[violation["clause"]].add(case["id"])
    return dict(found)


def assert_passes(result: dict[str, Any]) -> None:
    assert failures(result) == {}, result["console"]
    assert result["status"] == 0, result["console"]
    statuses = result["summary"]["statuses"]
    # Most of core was really judged, and something is worth telling them: they know none of the Interpretations.
    assert statuses["OK"] > 2 * statuses["SKIPPED"]
    assert statuses["NON-STRICT"] > 0


def test_a_server_on_aiohttp_passes_core(results: dict[str, dict[str, Any]]) -> None:
    assert_passes(results["aiohttp"])


@pytest.mark.node
@pytest.mark.skipif(bool(without_node()), reason=without_node())
def test_a_server_on_ws_passes_core(results: dict[str, dict[str, Any]]) -> None:
    assert_passes(results["ws"])


NAIVE = {
    "MB.sequence-first": "one counter for everybody",
    "MB.sequence-contiguous": "which also skips",
    "MB.timestamp-near-now": "seconds in the place of milliseconds",
    "MC.connected": "the status ok",
    "MC.status": "the status ok",
    "MC.fields": "neither connectionId nor maxSubscriptions",
    "MC.fresh-id": "no connectionId",
    "MS.answered": "its answers are of a type of its own",
    "MS.subscribe": "its answers are of a type of its own",
    "MU.price": "a float",
    "MU.market-cap": "a float",
    "MU.volume": "a number in the place of an object",
    "PF.compress-large": "no compression",
    "EH.invalid-answered": "it does not answer what it does not know",
    "EH.invalid-survived": "any other bad input ends the connection",
}
"""The clauses that it breaks, each with its mistake."""
FOLLOWS = {
    "EP.path": "a request is not answered in the right type, with or without compression",
    "EH.partial-failure": "a good token beside a bad one is not answered in the right type",
    "DC.acknowledged": "the answer is not of the right type",
    "MS.action": "no answer of the right type, and so no action",
    "MS.unsubscribe": "it is not answered in the right type, and not obeyed",
    "MU.unsubscribed-stops": "unsubscribe is not obeyed",
    "MU.address": "what is no name is subscribed to as well",
    "CM.cleanup": "whether it recovered is seen by an answer of the right type",
}
"""What may be seen as broken because of these."""


def test_a_careless_server_fails_for_its_mistakes(results: dict[str, dict[str, Any]]) -> None:
    result = results["naive"]
    assert result["status"] == 1
    found = failures(result)
    assert set(NAIVE) <= set(found), sorted(set(NAIVE) - set(found))
    beyond = set(found) - set(NAIVE) - set(FOLLOWS)
    assert not beyond, {name: found[name] for name in beyond}
    assert "FAILED" in result["console"]


def test_core_takes_less_than_a_minute(results: dict[str, dict[str, Any]]) -> None:
    for name in results.keys() - {"naive"}:
        assert results[name]["duration_s"] < CORE_S
