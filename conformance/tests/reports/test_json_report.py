"""``results.json``."""

import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tokenwire_conformance.model import Status, Verdict
from tokenwire_conformance.outcome import RunResult
from tokenwire_conformance.reports.json_report import JSON_MAX_BYTES, document, render_json

from .made import CONTROL, SURROGATES, a_full_result, a_log, a_result, a_verdict, texts

SCHEMA = json.loads(files("tokenwire_conformance").joinpath("results.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def read(result: RunResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render_json(result))
    VALIDATOR.validate(found)
    return found


def test_the_schema_is_one_and_leaves_no_object_open() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    objects = [
        SCHEMA,
        SCHEMA["properties"]["summary"],
        SCHEMA["properties"]["known_failures"],
        *SCHEMA["$defs"].values(),
    ]
    for schema in objects:
        if "properties" in schema:
            assert schema["additionalProperties"] is False
            assert sorted(schema["required"]) == sorted(schema["properties"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"exit_status": 5},
        {"role": "proxy"},
        {"started": None},
        {"more": 1},
        {"cases": [{}]},
        {"duration_s": -1},
    ],
)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document(a_full_result()) | change)


def test_what_a_failure_holds() -> None:
    verdict = a_verdict("S-MB-02", Status.FAILED, notes=("a note",), logs=(a_log(entries=1, omitted=4),))
    found = read(a_result(a_verdict(), verdict, known=["S-MB-01", "S-MB-02", "S-MB-09"]))
    case = found["cases"][1]
    assert case["violations"] == [
        {
            "clause": "MB.sequence",
            "status": "FAILED",
            "level": "MUST",
            "authority": "verbatim",
            "source": "4.2",
            "quote": '"MB.sequence" <quoted>',
            "message": "3 came after 1",
            "connection": 1,
        }
    ]
    assert case["notes"] == ["a note"]
    assert case["known_failure"] is True
    assert case["logs"][0]["not_recorded"] == 4
    assert case["logs"][0]["entries"][0]["text"] == '{"type": "connection"}'
    known = found["known_failures"]
    assert (known["expected"], known["fixed"], known["not_run"]) == (["S-MB-02"], ["S-MB-01"], ["S-MB-09"])
    assert (found["exit_status"], found["outcome"]) == (2, "KNOWN_PASSES")
    assert found["summary"]["statuses"]["FAILED"] == 1
    assert found["clauses"][0]["cases"] == [
        {"case": "S-MB-01", "status": "OK"},
        {"case": "S-MB-02", "status": "FAILED"},
    ]


@given(texts, st.booleans(), st.booleans())
@settings(deadline=None, max_examples=50)
def test_any_text_comes_back_and_the_schema_holds(text: str, strict: bool, interrupted: bool) -> None:
    found = read(a_full_result(text, strict=strict, interrupted=interrupted))
    expected = SURROGATES.sub("\ufffd", text)
    assert found["target"] == expected
    assert found["peer"] == {"capabilities": expected}
    by_status = {case["status"]: case for case in found["cases"]}
    assert by_status["SKIPPED"]["reason"] == expected
    for status in ("FAILED", "NON-STRICT", "INFORMATIONAL"):
        assert by_status[status]["violations"][0]["message"] == expected
        assert by_status[status]["logs"][0]["entries"][0]["text"] == expected


def test_a_terminal_may_show_the_file() -> None:
    content = render_json(a_full_result(CONTROL)).decode("ascii")
    assert content.replace("\n", "").isprintable()


def large(status: Status, number: int) -> Verdict:
    logs = tuple(a_log(connection, 300, "\x00" * 600) for connection in range(20))
    return a_verdict(f"S-MB-{number:02}", status, "\x00" * 10_000, logs=logs, notes=("\x00" * 10_000,) * 500)


def test_bounded_and_what_is_left_out_is_counted() -> None:
    verdicts = [large(Status.OK if number % 2 else Status.FAILED, number) for number in range(40)]
    content = render_json(a_result(*verdicts))
    assert JSON_MAX_BYTES // 2 < len(content) <= JSON_MAX_BYTES
    found = json.loads(content)
    VALIDATOR.validate(found)
    for case in found["cases"]:
        assert len(case["notes"]) + case["notes_left_out"] == 500
        assert len(case["logs"]) + case["logs_left_out"] == 20
        assert all(len(log["entries"]) + log["cut"] == 300 for log in case["logs"])
    assert all(case["violations"] for case in found["cases"] if case["status"] == "FAILED")
