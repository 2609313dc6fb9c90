"""The README's blocks run, and what it shows is what happens."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, serving

README = (ROOT / "README.md").read_text("utf-8")
WSCAT = ROOT / "server/tests/node/node_modules/.bin/wscat"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shape(message: Any) -> Any:
    """A message without what differs from run to run."""
    if isinstance(message, dict):
        return {
            key: shape(value)
            for key, value in message.items()
            if key not in ("timestamp", "connectionId", "price", "marketCap", "h24", "h1", "m5")
        }
    return message


@pytest.mark.node
@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.skipif(not WSCAT.exists(), reason="run `npm ci` in server/tests/node first")
def test_the_wscat_session_is_what_wscat_prints(port: int) -> None:
    (session,) = blocks("console")
    command, *printed = session.strip().splitlines()
    words = shlex.split(command.removeprefix("$ ").replace("8080", str(port)))
    with subprocess.Popen([str(WSCAT), *words[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as wscat:
        assert wscat.stdout is not None
        lines = [line.removeprefix("< ") for line in wscat.stdout.read().splitlines() if line.strip()]
    shown = [shape(json.loads(line)) for line in printed]
    assert [shape(json.loads(line)) for line in lines[: len(shown)]] == shown


@pytest.mark.parametrize("program", blocks("python"), ids=["SDK", "websockets alone"])
def test_the_python_blocks_run(port: int, program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace("8080", str(port))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) >= 3


CURLS = [line for block in blocks("bash") for line in block.splitlines() if "curl" in line]


@pytest.mark.parametrize("line", [line for line in CURLS if " -d " in line])
def test_the_lines_that_post_are_answered_by_a_server_that_keeps_what_is_posted(tmp_path: Path, line: str) -> None:
    with serving("--source", "none", cwd=tmp_path) as port:
        answers = [
            subprocess.run(["bash", "-c", line.replace("8080", str(port))], capture_output=True, check=True).stdout
            for _ in range(2)
        ]
    first, second = map(json.loads, answers)
    assert (first["accepted"], first["rejected"]) == (1, [])
    assert (second["accepted"], second["duplicates"]) == (0, 1)


@pytest.mark.parametrize("line", [line for line in CURLS if " -d " not in line])
def test_the_curl_lines_answer(port: int, line: str) -> None:
    result = subprocess.run(
        ["bash", "-c", line.replace("curl -s", "curl -sf").replace("8080", str(port))],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert result.stdout
    if "health" in line:
        assert result.stdout == "OK"


@pytest.mark.parametrize(
    "line",
    [line for block in blocks("bash") for line in block.splitlines() if "tokenwire watch" in line or "doctor" in line],
)
def test_the_client_commands_work(port: int, line: str) -> None:
    words = shlex.split(line.split("#", maxsplit=1)[0].replace("8080", str(port)))[1:]
    url = ["--url", f"ws://127.0.0.1:{port}"] if words[0] == "watch" else []
    command = [sys.executable, "-m", "tokenwire", *words, *url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stdout


@pytest.mark.parametrize(
    "line", [line for block in blocks("bash") for line in block.splitlines() if "tokenwire-conformance" in line]
)
def test_the_conformance_commands_work(port: int, line: str) -> None:
    words = shlex.split(line.split("#", maxsplit=1)[0].replace("8080", str(port)))[1:]
    command = [sys.executable, "-m", "tokenwire_conformance", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stdout


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_server_lines_name_real_options() -> None:
    for line in (line for block in blocks("bash") for line in block.splitlines() if "tokenwire-server" in line):
        words = shlex.split(line.split("#")[0])[1:]
        command = [word for word in words[:1] if not word.startswith("-")] or ["run"]
        text = subprocess.run(
            [sys.executable, "-m", "tokenwire_server", *command, "--help"],
            capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
        ).stdout  # fmt: skip
        for option in (word for word in words if word.startswith("--")):
            assert option in text, f"{option} in: {line}"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
