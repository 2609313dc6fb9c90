"""The catalogue: its shape, that it is frozen, and that what derives from it is current."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tokenwire_schemas import errors, generate, limits
from tokenwire_schemas.close_codes import CloseCode, may_reconnect
from tokenwire_schemas.errors import CATALOGUE, Category, ErrorCode, Level
from tokenwire_schemas.schema_files import SCHEMAS

PACKAGE = Path(errors.__file__).parent

FROZEN = [
    "INVALID_JSON",
    "INVALID_MESSAGE",
    "UNKNOWN_TYPE",
    "INVALID_ACTION",
    "BINARY_NOT_SUPPORTED",
    "MESSAGE_TOO_LARGE",
    "INVALID_TOKEN",
    "AMBIGUOUS_TOKEN",
    "TOKEN_NOT_FOUND",
    "UNKNOWN_CHANNEL",
    "SUBSCRIPTION_LIMIT",
    "BATCH_LIMIT",
    "SEQUENCE_GAP",
    "RATE_LIMITED",
    "MAX_CONNECTIONS",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "RESUME_FAILED",
    "ACK_OUT_OF_RANGE",
    "REPLAY_UNAVAILABLE",
    "SLOW_CONSUMER",
    "UPSTREAM_STALE",
    "UPSTREAM_UNAVAILABLE",
    "DATA_REJECTED",
    "SERVER_SHUTDOWN",
    "INTERNAL_ERROR",
]


def load(name: str) -> Any:
    return json.loads((PACKAGE / name).read_text("utf-8"))


def test_the_codes_are_frozen() -> None:
    """Published codes stay; a new one is added here too, at the end of the list of its commit."""
    assert [code.value for code in ErrorCode] == FROZEN
    assert all(code.name == code.value for code in ErrorCode)


def test_the_catalogue_is_complete_and_fits_its_schema() -> None:
    schema = load("errors.schema.json")
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(load("errors.json"))
    assert load("errors.json")["$schema"] == "./errors.schema.json"
    assert list(CATALOGUE) == list(ErrorCode)
    assert all(entry.code is code for code, entry in CATALOGUE.items())


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=str)
def test_a_row_is_coherent(entry: errors.ErrorEntry) -> None:
    assert isinstance(entry.level, Level)
    assert isinstance(entry.category, Category)
    if entry.level is Level.FATAL:
        assert entry.close_code is not None
    if entry.close_code is not None:
        assert entry.close_code in set(CloseCode)
        assert may_reconnect(entry.close_code) == entry.retryable
    assert entry.meaning.endswith(".")
    assert entry.action.endswith(".")


def test_the_numbers_in_the_texts_are_the_limits() -> None:
    assert f"more than {limits.MAX_BATCH} tokens" in CATALOGUE[ErrorCode.BATCH_LIMIT].meaning
    assert f"below {limits.INBOUND_RATE_PER_S} messages" in CATALOGUE[ErrorCode.RATE_LIMITED].action
    assert f"for {limits.WRITE_STALL_CLOSE_MS // 1000} s" in CATALOGUE[ErrorCode.SLOW_CONSUMER].meaning
    assert f"1 to {limits.MAX_TOKEN_NAME_CHARS}" in CATALOGUE[ErrorCode.INVALID_TOKEN].action


def test_the_error_schema_names_the_catalogue_s_categories_and_levels() -> None:
    schema: Any = SCHEMAS["extended/server/error"]
    fields = schema["properties"]["data"]["properties"]
    assert sorted(fields["category"]["enum"]) == sorted(Category)
    assert sorted(fields["level"]["enum"]) == sorted(Level)


def test_generated_files_are_current() -> None:
    assert generate.outdated() == {}, "run python -m tokenwire_schemas.generate"


def test_generate_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "tokenwire_schemas.generate", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_generate_writes_what_is_outdated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "_error_codes.py"
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{generate.BEGIN}\nstale text\n{generate.END}\nafter\n", "utf-8")
    monkeypatch.setattr(generate, "MODULE_FILE", module)
    monkeypatch.setattr(generate, "README_FILE", readme)
    assert generate.main(["--check"]) == 1
    assert not module.exists()
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    text = readme.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| `INVALID_JSON` | error |" in text
    assert "stale text" not in text
    assert "written: README.md" in capsys.readouterr().out


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        generate.readme_with_table("nothing", "table")


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 1014, 4000, 4001, 4002, 4003, 4005, 4250, 4499])
def test_codes_after_which_a_client_reconnects(code: int) -> None:
    assert may_reconnect(code)


@pytest.mark.parametrize(
    "code", [0, 1000, 1002, 1003, 1007, 1008, 1009, 1010, 1015, 3000, 3999, 4500, 4501, 4999, 5000]
)
def test_codes_after_which_it_does_not(code: int) -> None:
    assert not may_reconnect(code)


def test_close_codes_are_frozen() -> None:
    own = {code.name: code.value for code in CloseCode if code >= 4000}
    assert own == {
        "HEARTBEAT_TIMEOUT": 4000,
        "SLOW_CONSUMER": 4001,
        "REBALANCE": 4002,
        "SESSION_LOST": 4003,
        "RATE_LIMITED": 4005,
        "SUPERSEDED": 4500,
        "UNAUTHORIZED": 4501,
        "PROTOCOL_ERRORS": 4502,
        "UNSUPPORTED_VERSION": 4503,
    }
