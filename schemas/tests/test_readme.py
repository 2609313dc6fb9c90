"""The protocol page: its examples are valid, its tables and numbers agree with the data."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import tokenwire_schemas
from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.schema_files import SCHEMAS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
FLOWING = " ".join(README.split())
STRICT, _, EXTENDED = README.partition("## The extensions in full")
CITED = re.compile(r"\bI-(\d+)(?: to I-(\d+))?\b")


def examples(text: str) -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def schemas_for(message: dict[str, Any], part: str) -> list[str]:
    return [name for name in SCHEMAS if name.startswith(part) and name.endswith(f"/{message['type']}")]


@pytest.mark.parametrize(
    ("part", "message"),
    [("strict", message) for message in examples(STRICT)] + [("extended", message) for message in examples(EXTENDED)],
    ids=lambda value: value if isinstance(value, str) else value["type"],
)
def test_examples_are_valid(part: str, message: dict[str, Any]) -> None:
    names = schemas_for(message, part)
    assert any(Draft202012Validator(SCHEMAS[name]).is_valid(message) for name in names), message


def test_every_message_has_an_example() -> None:
    for part, text in (("strict", STRICT), ("extended", STRICT + EXTENDED)):
        shown = {message["type"] for message in examples(text)}
        assert shown == {name.rpartition("/")[2] for name in SCHEMAS if name.startswith(part)}


def test_interpretations_are_unique_and_every_cited_one_exists() -> None:
    defined = [int(number) for number in re.findall(r"^- \*\*I-(\d+)\*\*", README, re.MULTILINE)]
    assert defined == sorted(set(defined))
    package = Path(tokenwire_schemas.__file__).parent
    texts = [README] + [path.read_text("utf-8") for path in package.rglob("*") if path.suffix in (".py", ".json")]
    cited = {int(number) for text in texts for pair in CITED.findall(text) for number in pair if number}
    assert cited <= set(defined)


def test_frozen_interpretations() -> None:
    """Numbers are only ever added."""
    defined = {int(number) for number in re.findall(r"^- \*\*I-(\d+)\*\*", README, re.MULTILINE)}
    assert defined >= {*range(1, 27), *range(30, 66)}


def test_every_close_code_is_tabled() -> None:
    tabled = {int(code) for code in re.findall(r"^\| (\d{4}) \|", README, re.MULTILINE)}
    named_only_in_the_rule = {CloseCode.NO_STATUS, CloseCode.ABNORMAL, CloseCode.BAD_GATEWAY}
    assert tabled == set(CloseCode) - named_only_in_the_rule


def test_limits_are_the_ones_in_force() -> None:
    for number in (
        f"{limits.MAX_MESSAGE_BYTES:,} bytes",
        f"| {limits.MAX_CONNECTIONS}; the next one",
        f"beyond {limits.MAX_REJECTED_SOCKETS} such at once",
        f"{limits.INBOUND_RATE_PER_S} a second, bursts of {limits.INBOUND_BURST}",
        f"{limits.INBOUND_CONTROL_RATE_PER_S} a second",
        f"every {limits.HEARTBEAT_INTERVAL_MS // 1000} s",
        f"after {limits.IDLE_TIMEOUT_MS // 1000} s without one byte",
        f"{limits.WRITE_STALL_CLOSE_MS // 1000} s without progress",
        f"more than {limits.COMPRESSION_THRESHOLD_BYTES} bytes",
        f"{limits.MAX_OUTBOX_FRAMES} messages or {limits.MAX_OUTBOX_BYTES // 1024} KiB",
        f"1 to {limits.MAX_TOKEN_NAME_CHARS} printable",
        f"1 to {limits.MAX_REQUEST_ID_CHARS} characters",
        f"{limits.RESUME_MAX_FRAMES} messages or {limits.RESUME_MAX_BYTES // 2**20} MiB",
        f"{limits.RESUME_WINDOW_MS // 1000} s after",
        f"most {limits.MAX_BATCH_BYTES // 1024} KiB",
    ):
        assert number in FLOWING, number


def test_links_inside_the_page_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors
