"""The AsyncAPI document: sound by the official schema, its references lead somewhere, its payloads are ours."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from tokenwire_schemas.asyncapi import PATH, asyncapi_document
from tokenwire_schemas.schema_files import SCHEMAS

ROOT = Path(__file__).parent.parent.parent
VECTORS = ROOT / "schemas" / "vectors" / "v1"
OFFICIAL = ROOT / "server/tests/node/node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json"

URLS = [None, "ws://127.0.0.1:8080", "https://user:secret@example.org/base/"]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(document: Any, reference: str) -> Any:
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part]
    return document


@pytest.mark.node
@pytest.mark.parametrize("url", URLS)
def test_the_official_schema_accepts_the_document(url: str | None) -> None:
    if not OFFICIAL.is_file():
        pytest.skip("run `npm ci` in server/tests/node first; it brings @asyncapi/specs")
    check = Draft7Validator(json.loads(OFFICIAL.read_text("utf-8")))
    document = asyncapi_document(url)
    check.validate(document)
    document["operations"]["sendStrict"]["action"] = "publish"
    assert not check.is_valid(document)


@pytest.mark.parametrize("url", URLS)
def test_every_reference_leads_somewhere_and_nothing_is_left_of_the_files(url: str | None) -> None:
    document = asyncapi_document(url)
    for reference in references(document):
        assert resolve(document, reference)
    text = json.dumps(document)
    assert "$defs" not in text
    assert "$id" not in text
    assert "secret@" not in text


def test_the_server_sends_and_receives_every_message() -> None:
    document = asyncapi_document()
    seen = set()
    for name, operation in document["operations"].items():
        for message in operation["messages"]:
            key = message["$ref"].rpartition("/")[2]
            part, side, _ = key.split("-")
            assert operation["action"] == ("send" if side == "server" else "receive")
            assert name == operation["action"] + part.capitalize()
            seen.add(key.replace("-", "/"))
    assert seen == set(SCHEMAS)
    assert document["channels"]["tokenData"]["address"] == PATH == "/api/v1/ws/token-data"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_an_embedded_schema_judges_the_vectors_like_its_file(name: str) -> None:
    document = asyncapi_document()
    key = name.replace("/", "-")
    assert document["components"]["messages"][key]["payload"] == {"$ref": f"#/components/schemas/{key}"}
    check = Draft7Validator({"$ref": f"#/components/schemas/{key}", "components": document["components"]})
    vectors = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    for vector in vectors["valid"]:
        check.validate(vector["instance"])
    for vector in vectors["invalid"]:
        assert not check.is_valid(vector["instance"]), vector["description"]


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("ws://127.0.0.1:8080", {"host": "127.0.0.1:8080", "protocol": "ws"}),
        ("http://localhost", {"host": "localhost", "protocol": "ws"}),
        ("https://u:p@example.org/base/", {"host": "example.org", "protocol": "wss", "pathname": "/base"}),
    ],
)
def test_the_given_server(url: str, server: dict[str, str]) -> None:
    servers = asyncapi_document(url, version="1.2.3")["servers"]
    assert servers == {"this": server | {"description": "This server."}}


@pytest.mark.parametrize("url", ["ftp://example.org", "example.org", "wss://", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL with a host"):
        asyncapi_document(url)


def test_documents_are_independent() -> None:
    first = asyncapi_document(version="9")
    assert first["info"]["version"] == "9"
    first["channels"]["tokenData"]["bindings"]["ws"]["query"]["properties"].clear()
    first["components"]["schemas"]["decimal"].clear()
    assert asyncapi_document() == asyncapi_document()
    assert asyncapi_document()["components"]["schemas"]["decimal"]["type"] == "string"
