"""Writes CASES.md: every case on one page. Run: python conformance/tools/cases.py"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenwire_conformance import rfc6455  # noqa: F401 - adds its cases
from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.client.cases import CLIENT
from tokenwire_conformance.model import PROFILES
from tokenwire_conformance.registry import Suite
from tokenwire_conformance.server.cases import SERVER

PAGE = Path(__file__).parents[1] / "CASES.md"


def document() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The cases"
    yield ""
    yield "Made by `python conformance/tools/cases.py` from the cases themselves. An id is never used again. A clause"
    yield "in *italics* is an Interpretation or an extension: [what a verdict means](README.md#what-a-verdict-means)."
    for heading, suite in (("Servers", SERVER), ("Clients", CLIENT)):
        yield ""
        yield f"## {heading}: {len(suite.cases)} cases"
        yield from _suite(suite)


def _suite(suite: Suite[Any]) -> Iterator[str]:
    for profile in PROFILES:
        infos = [case.info for case in suite.cases if case.info.profile == profile]
        if not infos:
            continue
        yield ""
        yield f"### {profile}"
        yield ""
        yield "| case | what it sends | what it expects | clauses |"
        yield "|---|---|---|---|"
        for info in infos:
            clauses = ", ".join(_clause(name) for name in info.clauses)
            yield f"| **{info.id}** {_cell(info.title)} | {_cell(info.sends)} | {_cell(info.expects)} | {clauses} |"


def _clause(name: str) -> str:
    clause = CLAUSES[name]
    return name if clause.authority in {"verbatim", "implied"} else f"*{name}* ({clause.source})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(document(), "utf-8")
