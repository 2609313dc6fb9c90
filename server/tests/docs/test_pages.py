"""The pages beside the README: what they name is there, and what they say to type works."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tokenwire_server.settings import load

from .conftest import ROOT

PAGES = [
    *("server/README.md", "server/COMING_FROM.md", "server/tokenwire_server/sources/README.md"),
    *("client_sdk/README.md", "schemas/README.md", "deploy/README.md", "deploy/SIZING.md"),
]
TABLES = (ROOT / "server/COMING_FROM.md").read_text("utf-8")
COMMANDS = sorted(
    {
        command
        for row in TABLES.splitlines()
        if row.startswith("|") and "to come" not in row
        for command in re.findall(r"`([^`]+)`", row.rpartition(" | ")[2])
    }
)
PROGRAMS = {"tokenwire": "tokenwire", "tokenwire-server": "tokenwire_server"}


def words_of(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables that a command sets, and its words."""
    words = shlex.split(command)
    given = [word for word in words if re.match(r"[A-Z_]+=", word)]
    return dict(word.split("=", 1) for word in given), words[len(given) :]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        found = path.parent / file if file else path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_the_tables_have_commands_of_each_kind() -> None:
    kinds = {words_of(command)[1][0] for command in COMMANDS if words_of(command)[1]}
    assert {"curl", "make", "tokenwire", "tokenwire-server", "wscat"} <= kinds


@pytest.mark.parametrize("command", [command for command in COMMANDS if "curl " in command])
def test_the_curl_commands_answer(port: int, command: str) -> None:
    line = command.replace("curl ", "curl -sf ", 1).replace("8080", str(port))
    assert subprocess.run(["bash", "-c", line], capture_output=True, timeout=30, check=True).stdout


@pytest.mark.parametrize("command", [command for command in COMMANDS if re.search(r"\btokenwire(-server)? ", command)])
def test_the_commands_exist_with_their_options(command: str) -> None:
    variables, (program, *words) = words_of(command)
    if variables:
        assert not load(environ=variables).notices
    name = [word for word in words[:1] if not word.startswith("-")] or (["run"] if program != "tokenwire" else [])
    text = subprocess.run(
        [sys.executable, "-m", PROGRAMS[program], *name, "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    for option in (word for word in words if word.startswith("--")):
        assert option in text, option


@pytest.mark.parametrize("command", [command for command in COMMANDS if re.search(r"\bmake ", command)])
def test_the_make_targets_exist(command: str) -> None:
    target = words_of(command)[1][1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
