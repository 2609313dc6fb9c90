"""The schemas and the Structs read the same messages: what one accepts as a shape, the other does too."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tokenwire_schemas import extension_messages, messages
from tokenwire_schemas.limits import MAX_SEQUENCE
from tokenwire_schemas.schema_files import SCHEMAS

VECTORS = Path(__file__).parent.parent / "vectors" / "v1"


def by_schema() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    for prefix, union in (
        ("strict/server/", messages.ServerMessage),
        ("extended/server/", extension_messages.ExtendedServerMessage),
        ("extended/client/", extension_messages.ClientMessage),
    ):
        for struct in get_args(union):
            yield prefix + struct.__struct_config__.tag, struct


STRUCTS = dict(by_schema())
DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "strict/server": msgspec.json.Decoder(messages.ServerMessage),
    "extended/server": msgspec.json.Decoder(extension_messages.ExtendedServerMessage),
    "extended/client": msgspec.json.Decoder(extension_messages.ClientMessage),
}
CHECKS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}

PATTERNS: dict[str, st.SearchStrategy[str]] = {}


def strings(schema: Any) -> st.SearchStrategy[str]:
    if pattern := schema.get("pattern"):
        return PATTERNS.setdefault(
            pattern, st.from_regex(pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))
        ).filter(lambda text: "\n" not in text)
    return st.text(
        st.characters(codec="utf-8"), min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 20), 20)
    )


def instances(schema: Any, root: Any) -> st.SearchStrategy[Any]:
    """Instances of ``schema``, for the keywords that our schemas use."""
    if "$ref" in schema:
        return instances(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    low, high = schema.get("minimum", 0), schema.get("maximum", MAX_SEQUENCE)
    if kind == ["string", "number"]:
        return strings(schema) | st.integers(low, high) | st.floats(low, high)
    if kind == "integer":
        return st.integers(low, high)
    if kind == "boolean":
        return st.booleans()
    if kind == "string":
        return strings(schema)
    if kind == "array":
        return st.lists(
            instances(schema.get("items", {"type": "string"}), root),
            min_size=schema.get("minItems", 0),
            max_size=min(schema.get("maxItems", 3), 3),
            unique_by=json.dumps if schema.get("uniqueItems") else None,
        )
    assert kind == "object", schema
    if isinstance(schema.get("additionalProperties"), dict):
        return st.dictionaries(st.text(max_size=5), instances(schema["additionalProperties"], root), max_size=2)
    fields = {key: instances(value, root) for key, value in schema.get("properties", {}).items()}
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {key: value for key, value in fields.items() if key in required},
        optional={key: value for key, value in fields.items() if key not in required},
    )


GENERATED = {name: instances(SCHEMAS[name], SCHEMAS[name]) for name in STRUCTS}


def decode(name: str, instance: Any) -> msgspec.Struct:
    found = DECODERS[name.rpartition("/")[0]].decode(json.dumps(instance))
    assert isinstance(found, STRUCTS[name])
    return found


def test_every_message_has_a_struct() -> None:
    assert set(STRUCTS) == set(SCHEMAS) - {"strict/client/subscription"}


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_an_instance_of_the_schema_is_read_and_written_unchanged(name: str) -> None:
    @given(GENERATED[name])
    @settings(max_examples=25, deadline=None)
    def check(instance: Any) -> None:
        CHECKS[name].validate(instance)
        again = json.loads(msgspec.json.encode(decode(name, instance)))
        if instance["type"] == "ping":
            instance.setdefault("data", {})
        assert again == instance
        CHECKS[name].validate(again)

    check()


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_valid_vectors_are_read(name: str) -> None:
    for vector in json.loads((VECTORS / f"{name}.json").read_text("utf-8"))["valid"]:
        again = json.loads(msgspec.json.encode(decode(name, vector["instance"])))
        assert again == ({"data": {}} if name.endswith("/ping") else {}) | vector["instance"]


def broken(instance: Any, schema: Any, root: Any, words: bool = True) -> Iterator[Any]:
    """``instance`` again and again, each time with one value of another type or word, or one field absent.

    Lists of words are closed by the schemas only: the Structs leave them open, for a reader of the future.
    """
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(schema.get("type"), str):
        yield from ({"string": 5, "object": [], "array": {}, "integer": "5", "boolean": "true"}[schema["type"]], None)
    elif "type" in schema:
        yield from ({}, None)
    if "const" in schema or "enum" in schema:
        yield from ("some other word", 5) if words else (5,)
    if isinstance(instance, list):
        for index, value in enumerate(instance[:1]):
            for bad in broken(value, schema.get("items", {}), root, words=False):
                yield [*instance[:index], bad, *instance[index + 1 :]]
    if isinstance(instance, dict):
        for key in schema.get("required", ()):
            yield {other: value for other, value in instance.items() if other != key}
        for key, value in instance.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            for bad in broken(value, inner, root):
                yield instance | {key: bad}


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_wrong_types_words_and_absent_fields_are_refused_by_both(name: str) -> None:
    vectors = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))["valid"]
    count = 0
    for vector in vectors[:2]:
        for bad in broken(vector["instance"], SCHEMAS[name], SCHEMAS[name]):
            assert not CHECKS[name].is_valid(bad), bad
            with pytest.raises(msgspec.ValidationError):
                print(decode(name, bad), bad)
            count += 1
    assert count >= 5
