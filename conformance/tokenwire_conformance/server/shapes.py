"""Messages against the schemas of the extensions; a mistake is laid to the clause that it breaks."""

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from tokenwire_conformance.server.bench import Bench, History
from tokenwire_conformance.server.checkers import mistake_text
from tokenwire_conformance.wire.messages import Received
from tokenwire_schemas.schema_files import SCHEMAS

__all__ = ["expect_shapes", "problems"]

_DECIMALS: Final = frozenset({"price", "marketCap", "h24", "h1", "m5"})
_VOLUMES: Final = frozenset({"h24", "h1", "m5"})
_MAX_OF_A_TYPE: Final = 200  # messages judged of one connection; the rest looks alike


@cache
def _validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMAS[f"extended/server/{kind}"])


def problems(message: Received, clause: str) -> list[tuple[str, str]]:
    """What is wrong with ``message`` by the schema of its type, each with its clause: mostly ``clause``, but one of the
    readings where only a reading of a silence is not kept."""
    found = []
    try:
        errors = list(_validator(message.type or "").iter_errors(message.json))
    except RecursionError:
        return [(clause, f"{message.type}: nested so deeply that it cannot be judged")]
    for error in errors:
        where = error.json_path.removeprefix("$.")
        found.append((_clause_of(error, clause), f"{message.type}: {where}: {mistake_text(error)}"))
    return found


def expect_shapes(bench: Bench, histories: Iterable[History], capability: str, clauses: Mapping[str, str]) -> int:
    """Judge the messages of these types (each with its clause) on connections that were granted ``capability``.

    At most one violation for each clause is noted. Returns how many messages were judged.
    """
    judged = 0
    told: set[str] = set()
    for history in histories:
        if capability not in history.peer.granted:
            continue
        count = dict.fromkeys(clauses, 0)
        for message in history.peer.messages:
            if message.type not in count or count[message.type] >= _MAX_OF_A_TYPE:
                continue
            count[message.type] += 1
            judged += 1
            for clause, text in problems(message, clauses[message.type]):
                if clause not in told:
                    told.add(clause)
                    bench.expect(False, clause, f"{history.case_id}: {text}", history.peer)
    return judged


def _clause_of(error: ValidationError, clause: str) -> str:
    last: Any = error.absolute_path[-1] if error.absolute_path else ""
    if last in _DECIMALS and error.validator == "pattern" and _is_number(error.instance):
        return "MU.canonical"
    if last in _VOLUMES and error.validator == "type":
        return "MU.volume-decimal"
    if last == "code" and error.validator == "pattern":
        return "ME.catalogue"
    if error.validator == "maxLength" and "tokens" in error.absolute_path:
        return "MS.refused-echo"
    return clause


def _is_number(text: object) -> bool:
    try:
        return Decimal(str(text)).is_finite()
    except InvalidOperation:
        return False
