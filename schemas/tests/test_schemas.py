"""The schemas against their vectors, and proof that the vectors cover every constraint."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from tokenwire_schemas.schema_files import SCHEMAS

VECTORS = Path(__file__).parent.parent / "vectors"
NAMES = sorted(SCHEMAS)
FORBIDDEN = {"prefixItems", "unevaluatedProperties", "unevaluatedItems", "dependentRequired", "$dynamicRef", "$anchor"}
CONSTRAINTS = {
    "$ref",
    "type",
    "const",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "items",
    "additionalProperties",
}


def vectors(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / "v1" / f"{name}.json").read_text("utf-8"))
    return found


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every subschema, the root first."""
    yield schema
    for keyword in ("properties", "$defs"):
        for child in schema.get(keyword, {}).values():
            yield from nodes(child)
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from nodes(schema[keyword])


def loosened(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema again and again, each time without one constraint."""
    for index, node in enumerate(nodes(schema)):
        for keyword in sorted(CONSTRAINTS & node.keys()):
            changed = copy.deepcopy(schema)
            del list(nodes(changed))[index][keyword]
            yield f"{keyword} of {node}", changed
        for field in node.get("required", ()):
            changed = copy.deepcopy(schema)
            list(nodes(changed))[index]["required"].remove(field)
            yield f"required {field} of {node}", changed


def test_there_is_a_vector_file_for_every_schema() -> None:
    files = {str(path.relative_to(VECTORS / "v1").with_suffix("")) for path in VECTORS.rglob("*.json")}
    assert files == set(NAMES)
    assert len(NAMES) == 21


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_sound_and_says_what_it_is(name: str) -> None:
    schema: Any = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    Draft7Validator.check_schema(schema)
    part, side, message = name.split("/")
    assert schema["$id"] == f"urn:tokenwire:v1:{part}:{side}:{message}"
    assert schema["properties"]["type"] == {"const": message}
    assert schema["title"]
    assert "Spec, " in schema["description"] or "I-" in schema["description"]
    for node in nodes(schema):
        assert not FORBIDDEN & node.keys()
        assert "$ref" not in node or len(node) == 1, "draft-07 ignores what stands beside a $ref"
        closed = node.get("additionalProperties") is False
        assert closed or side == "client" or node.get("type") != "object"


def test_definitions_of_one_name_are_equal_everywhere() -> None:
    seen: dict[str, Any] = {}
    for name in NAMES:
        definitions: Any = SCHEMAS[name].get("$defs", {})
        for key, value in definitions.items():
            assert seen.setdefault(key, value) == value, f"{key} in {name}"


@pytest.mark.parametrize("validator", [Draft202012Validator, Draft7Validator])
@pytest.mark.parametrize("name", NAMES)
def test_vectors(name: str, validator: Any) -> None:
    case = vectors(name)
    assert case["schema"] == f"v1/{name}.schema.json"
    check = validator(SCHEMAS[name])
    for vector in case["valid"]:
        check.validate(vector["instance"])
    for vector in case["invalid"]:
        assert not check.is_valid(vector["instance"]), vector["description"]


@pytest.mark.parametrize("name", NAMES)
def test_every_constraint_is_held_by_a_vector(name: str) -> None:
    invalid = [vector["instance"] for vector in vectors(name)["invalid"]]
    count = 0
    for what, schema in loosened(SCHEMAS[name]):
        check = Draft202012Validator(schema)
        assert any(check.is_valid(instance) for instance in invalid), f"no vector needs {what}"
        count += 1
    assert count >= 10


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("strict/")])
def test_the_extended_schema_accepts_what_the_strict_one_accepts(name: str) -> None:
    extended = Draft202012Validator(SCHEMAS[name.replace("strict", "extended")])
    for vector in vectors(name)["valid"]:
        extended.validate(vector["instance"])


def test_the_specification_examples_are_valid_once_their_placeholders_are_filled() -> None:
    """The messages of the specification, verbatim but for values that are placeholders there."""
    examples: dict[str, Any] = {
        "connection": {
            "status": "connected",
            "connectionId": "3d1f8e2a-58a4-4b2c-8f60-0e4b7f1d2c9a",
            "maxSubscriptions": 100,
        },
        "token_update": {
            "address": "string",
            "price": "1.5",
            "marketCap": "1000",
            "volume": {"h24": "3", "h1": "2", "m5": "1"},
        },
        "subscription": {"action": "subscribe", "tokens": ["address1", "address2"], "status": "success"},
        "error": {"code": "ERROR_CODE", "message": "Error description", "level": "fatal"},
    }
    for sequence, (kind, data) in enumerate(examples.items(), 1):
        message = {"type": kind, "sequence": sequence, "timestamp": 1234567890123, "data": data}
        Draft202012Validator(SCHEMAS[f"strict/server/{kind}"]).validate(message)
