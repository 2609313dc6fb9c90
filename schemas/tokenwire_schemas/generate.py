"""Writes what derives from ``errors.json``: ``_error_codes.py`` and the error table of ``README.md``.

``python -m tokenwire_schemas.generate`` rewrites both in a source checkout; with ``--check`` it only says
whether they are current (exit status 1 when not). Needs the source tree, not an installed wheel.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

__all__ = ["error_codes_module", "error_table", "main", "outdated", "readme_with_table"]

_PACKAGE: Final = Path(__file__).parent
CATALOGUE_FILE: Final = _PACKAGE / "errors.json"
MODULE_FILE: Final = _PACKAGE / "_error_codes.py"
README_FILE: Final = _PACKAGE.parent / "README.md"
BEGIN: Final = "<!-- errors: generated from errors.json by `python -m tokenwire_schemas.generate` -->"
END: Final = "<!-- errors: end -->"

Entry = Mapping[str, str | int | bool | None]


def _entries() -> list[Entry]:
    entries: list[Entry] = json.loads(CATALOGUE_FILE.read_text("utf-8"))["errors"]
    return entries


def _enum(name: str, doc: str, values: Iterable[str]) -> str:
    members = "\n".join(f'    {value.upper()} = "{value}"' for value in values)
    return f'class {name}(StrEnum):\n    """{doc}"""\n\n{members}\n'


def error_codes_module(entries: Iterable[Entry]) -> str:
    """Source text of ``_error_codes.py``: the two enumerations whose members the catalogue decides."""
    rows = list(entries)
    codes = [str(row["code"]) for row in rows]
    categories = sorted({str(row["category"]) for row in rows})
    return "\n\n".join(
        [
            '"""Generated from ``errors.json`` by ``python -m tokenwire_schemas.generate``."""\n\n'
            "# ruff: noqa: S105\n\n"
            'from enum import StrEnum\n\n__all__ = ["Category", "ErrorCode"]\n',
            _enum(
                "ErrorCode",
                "Every ``code`` an error message may carry. Codes are frozen once published.",
                codes,
            ),
            _enum("Category", "What an error is about: whose fault it is, and who acts on it.", categories),
        ]
    )


def error_table(entries: Iterable[Entry]) -> str:
    """The catalogue as a Markdown table, one row for each code."""
    lines = [
        "| Code | Level | Category | Retryable | Close | Meaning | What to do |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in entries:
        close = "-" if row["closeCode"] is None else str(row["closeCode"])
        retry = "yes" if row["retryable"] else "no"
        cells = (
            f"`{row['code']}`",
            row["level"],
            row["category"],
            retry,
            close,
            row["meaning"],
            row["action"],
        )
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def readme_with_table(readme: str, table: str) -> str:
    """``readme`` with everything between the two markers replaced by ``table``.

    Raises ValueError when a marker is missing.
    """
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("the README lacks the markers of the error table")
    return f"{head}{BEGIN}\n\n{table}\n{END}{tail}"


def outdated() -> dict[Path, str]:
    """The files whose committed text differs from what the catalogue gives, with their new text."""
    entries = _entries()
    wanted = {MODULE_FILE: error_codes_module(entries)}
    if README_FILE.exists():
        wanted[README_FILE] = readme_with_table(README_FILE.read_text("utf-8"), error_table(entries))
    return {path: text for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text}


def main(argv: list[str]) -> int:
    """Write (or with ``--check`` only report) the outdated files; the exit status."""
    stale = outdated()
    for path, text in stale.items():
        if "--check" not in argv:
            path.write_text(text, "utf-8")
        print(f"{'outdated' if '--check' in argv else 'written'}: {path.name}")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
