"""The clause registry has its shape, quotes what it cites, and leaves no sentence of the specification out."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import tokenwire_conformance
from tokenwire_conformance.clauses import CLAUSES, INTERPRETATIONS, SENTENCES, Interpretation, Sentence, load_clauses
from tokenwire_conformance.model import EXTENSION_PROFILES, SPECIFICATION, Authority, Clause

PACKAGE = Path(tokenwire_conformance.__file__).parent
README = (PACKAGE.parents[1] / "schemas/README.md").read_text("utf-8")
REGISTRY: dict[str, Any] = json.loads((PACKAGE / "clauses.json").read_text("utf-8"))
SCHEMA: dict[str, Any] = json.loads((PACKAGE / "clauses.schema.json").read_text("utf-8"))

TAPES = os.environ.get("TOKENWIRE_TAPES", "")
ID = re.compile(r"[A-Z]{2}\.[a-z0-9-]+")
BRACES_ONLY = re.compile(r"[{}\[\],\s]*")
PLACED: tuple[Sentence | Interpretation, ...] = (*SENTENCES, *INTERPRETATIONS.values())
OF_THE_SPECIFICATION = (Authority.VERBATIM, Authority.IMPLIED)


def flowing(text: str) -> str:
    return " ".join(text.split())


def in_force(clause: Clause) -> bool:
    return clause.authority in OF_THE_SPECIFICATION


def test_valid_against_its_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(REGISTRY)]
    assert errors == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": "MB.Sequence"},
        {"id": "QQ.sequence"},
        {"level": "must"},
        {"authority": "guess"},
        {"roles": []},
        {"roles": ["proxy"]},
        {"text": ""},
        {"capability": "batch"},
        {"source": "I-4"},
        {"authority": "interpretation"},
        {"authority": "extension", "source": "I-56"},
        {"authority": "extension", "source": "I-56", "capability": "ack"},
        {"note": "unknown"},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    entry = next(entry for entry in REGISTRY["clauses"] if entry["id"] == "MB.sequence")
    validator = Draft202012Validator(SCHEMA)
    assert validator.is_valid(REGISTRY | {"clauses": [entry]})
    assert not validator.is_valid(REGISTRY | {"clauses": [entry | change]})


@pytest.mark.parametrize("name", ["sentences", "interpretations"])
def test_the_schema_wants_clauses_or_a_reason(name: str) -> None:
    entry = next(entry for entry in REGISTRY[name] if "clauses" in entry)
    bare = {key: value for key, value in entry.items() if key != "clauses"}
    validator = Draft202012Validator(SCHEMA)
    assert validator.is_valid(REGISTRY | {name: [bare | {"untestable": "It cannot be seen."}]})
    assert not validator.is_valid(REGISTRY | {name: [bare]})
    assert not validator.is_valid(REGISTRY | {name: [entry | {"untestable": "It cannot be seen."}]})


def test_ids_are_unique_and_formed_alike() -> None:
    ids = [entry["id"] for entry in REGISTRY["clauses"]]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert [name for name in ids if not ID.fullmatch(name)] == []
    assert list(load_clauses()) == ids


def test_groups_stand_together() -> None:
    groups = [name.partition(".")[0] for name in CLAUSES]
    runs = [group for group, before in zip(groups, [None, *groups], strict=False) if group != before]
    assert runs == list(dict.fromkeys(groups))


def test_a_repeated_id_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = REGISTRY["clauses"][0]
    monkeypatch.setattr("tokenwire_conformance.clauses._registry", lambda: {"clauses": [entry, entry]})
    with pytest.raises(ValueError, match="twice"):
        load_clauses.__wrapped__()


def test_of_the_same_specification() -> None:
    assert REGISTRY["specification"] == SPECIFICATION


def test_capabilities_have_a_profile() -> None:
    capabilities = {clause.capability for clause in CLAUSES.values() if clause.capability}
    assert {f"ext.{name}" for name in capabilities} == {*EXTENSION_PROFILES} - {"ext.ack"}
    assert all(bool(clause.capability) == (clause.authority is Authority.EXTENSION) for clause in CLAUSES.values())


def test_every_clause_that_is_named_exists() -> None:
    named = {name for entry in PLACED for name in entry.clauses}
    assert named - set(CLAUSES) == set()


def test_every_sentence_and_interpretation_is_tested_or_explained() -> None:
    for entry in PLACED:
        assert bool(entry.clauses) != bool(entry.untestable), entry


def test_every_clause_of_the_specification_is_reached_from_a_sentence() -> None:
    reached = {name for sentence in SENTENCES for name in sentence.clauses}
    assert [clause.id for clause in CLAUSES.values() if in_force(clause) and clause.id not in reached] == []


def test_clauses_of_the_specification_quote_a_sentence_that_names_them() -> None:
    for clause in filter(in_force, CLAUSES.values()):
        quoted = [entry for entry in SENTENCES if (entry.section, entry.text) == (clause.source, clause.quote)]
        assert len(quoted) == 1, clause.id
        assert clause.id in quoted[0].clauses, clause.id


@pytest.mark.parametrize(
    "clause", [clause for clause in CLAUSES.values() if not in_force(clause)], ids=lambda clause: clause.id
)
def test_clauses_of_an_interpretation_quote_the_protocol_page(clause: Clause) -> None:
    assert f"- **{clause.source}** " in README
    assert clause.id in INTERPRETATIONS[clause.source].clauses
    place = own_words(clause.source) + (sections(clause.source) if clause.authority is Authority.EXTENSION else "")
    assert flowing(clause.quote) in place


def own_words(number: str) -> str:
    """The text of an Interpretation."""
    _, _, rest = README.partition(f"- **{number}** ")
    return flowing(re.split(r"\n(?:- \*\*I-|\n|#)", rest, maxsplit=1)[0])


def sections(number: str) -> str:
    """The sections that an Interpretation refers to."""
    titles = re.findall(r"\[([^\]]+)\]\(#[^)]+\)", own_words(number))
    found = [
        re.search(rf"^### {re.escape(title)}\n(.*?)(?=^#|\Z)", README, re.MULTILINE | re.DOTALL) for title in titles
    ]
    return "".join(flowing(match[1]) for match in found if match)


def test_every_interpretation_is_covered() -> None:
    assert list(INTERPRETATIONS) == re.findall(r"^- \*\*(I-\d+)\*\*", README, re.MULTILINE)


@pytest.mark.tapes
@pytest.mark.skipif(not TAPES, reason="TOKENWIRE_TAPES names no folder, beside which the specification would be")
def test_every_line_of_the_specification_is_there_and_nothing_else() -> None:
    path = Path(TAPES).parents[1] / "seeds/003_4b6ac5bb08272414.txt"
    if not path.exists():
        pytest.skip("the specification is not beside the folder of TOKENWIRE_TAPES")
    ours = [(entry.section, flowing(entry.text)) for entry in SENTENCES]
    assert ours == lines_under_headings(path.read_text("utf-8"))


def lines_under_headings(text: str) -> list[tuple[str, str]]:
    """Every line with the headings above it; fences, and lines of nothing but braces, left out."""
    headings: dict[int, str] = {}
    found = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and (heading := re.fullmatch(r"(#+) (.*)", line)):
            depth = len(heading[1])
            headings = {above: title for above, title in headings.items() if above < depth} | {depth: heading[2]}
        elif not BRACES_ONLY.fullmatch(line):
            found.append((" / ".join(title for depth, title in headings.items() if depth > 1), flowing(line)))
    return found
