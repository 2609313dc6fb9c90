"""The suite shares no code with what it judges."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenwire_conformance

PACKAGE = Path(tokenwire_conformance.__file__).parent
FORBIDDEN = ("tokenwire", "tokenwire_server", "websockets", "msgspec", "aiohttp", "uvloop")
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Everything that the file imports, also inside functions and by name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in {"__import__", "import_module"} and node.args:
                argument = node.args[0]
                yield argument.value if isinstance(argument, ast.Constant) else "tokenwire"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_what_is_tested(path: Path) -> None:
    for name in imported(path):
        top = name.partition(".")[0]
        assert top not in FORBIDDEN, f"{path.name} imports {name}"
        if top == "tokenwire_schemas":
            assert name == "tokenwire_schemas.schema_files.SCHEMAS", f"{path.name} imports {name}"


def test_the_check_sees_an_import(tmp_path: Path) -> None:
    module = tmp_path / "bad.py"
    module.write_text("def f():\n    from websockets.sync import client\n    __import__('tokenwire')\n", "utf-8")
    assert list(imported(module)) == ["websockets.sync.client", "tokenwire"]


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_no_command_loads_what_is_tested() -> None:
    code = (
        "import tokenwire_conformance.cli, tokenwire_conformance.run_command\n"
        "from tokenwire_conformance.options import all_cases\nassert all_cases()"
    )
    assert not loaded_by(code) & set(FORBIDDEN)


def test_the_pytest_plugin_loads_nothing_but_pytest() -> None:
    plain = loaded_by("import pytest")
    more = loaded_by("import tokenwire_conformance.pytest_plugin") - plain
    assert more == {"tokenwire_conformance"}
