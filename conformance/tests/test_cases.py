"""The registry of cases: complete, explained, and in step with its page and the clauses."""

from pathlib import Path

import pytest

from tokenwire_conformance import rfc6455  # noqa: F401 - adds its cases
from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.client.cases import CLIENT
from tokenwire_conformance.model import Authority, CaseInfo, Role
from tokenwire_conformance.server.cases import SERVER

FOLDER = Path(__file__).parents[1]
INFOS = [case.info for suite in (SERVER, CLIENT) for case in suite.cases]

NO_CASE: dict[tuple[str, Role], str] = {}
"""Clauses that no case is about, each with its reason."""


def test_there_are_enough() -> None:
    assert len(SERVER.cases) >= 65
    assert len(CLIENT.cases) >= 40


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.id)
def test_a_case_explains_itself(info: CaseInfo) -> None:
    assert all(len(text) > 5 for text in (info.title, info.sends, info.expects, info.why))
    assert 0 < info.deadline_s <= 600
    for name in info.clauses:
        assert info.role in CLAUSES[name].roles, name


def test_every_clause_has_a_case_or_says_why() -> None:
    covered = {(name, info.role) for info in INFOS for name in info.clauses}
    wanted = {(clause.id, role) for clause in CLAUSES.values() for role in clause.roles}
    assert sorted(wanted - covered) == sorted(NO_CASE)


def test_core_needs_nothing_that_was_not_granted() -> None:
    for info in INFOS:
        extensions = [name for name in info.clauses if CLAUSES[name].authority is Authority.EXTENSION]
        assert not extensions or info.profile.startswith("ext."), info.id


def test_the_page_is_up_to_date() -> None:
    source = (FOLDER / "tools/cases.py").read_text("utf-8")
    scope: dict[str, object] = {"__name__": "cases", "__file__": str(FOLDER / "tools/cases.py")}
    exec(compile(source, "cases.py", "exec"), scope)
    document = scope["document"]
    assert callable(document)
    assert (FOLDER / "CASES.md").read_text("utf-8") == document(), "run: python conformance/tools/cases.py"
