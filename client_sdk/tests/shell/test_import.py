"""`import tokenwire` loads next to nothing; the rest comes when it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tokenwire

PROGRAM = """
import sys
before = set(sys.modules)
import tokenwire
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded))
"""
HEAVY = {"asyncio", "websockets", "zstandard", "ssl", "logging", "rich", "importlib_metadata", "email", "threading"}


SHELLS = {
    *("__init__", "__main__", "aio", "callbacks", "cli", "doctor"),
    *("driver", "link", "shards", "sync", "compression", "transport", "url", "watch"),
    *("endings", "feeds", "indicator_stream", "market_cli", "rest", "streams", "sync_streams"),
}
IMPURE = {"asyncio", "logging", "random", "select", "socket", "ssl", "threading", "time", "websockets"}


def loaded(program: str) -> set[str]:
    result = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_is_cheap() -> None:
    found = loaded(PROGRAM)
    assert not found & HEAVY
    third_party = {name for name in found if name not in sys.stdlib_module_names}
    # typing_extensions is what msgspec picks up where something else has brought it.
    assert third_party - {"typing_extensions"} == {"msgspec", "tokenwire", "tokenwire_schemas"}


def test_the_websocket_library_comes_with_the_first_socket() -> None:
    program = PROGRAM.replace("import tokenwire\n", "import tokenwire\ntokenwire.TokenClient('ws://x')\n")
    assert not loaded(program) & {"websockets", "zstandard", "rich"}


def test_every_public_name_is_there() -> None:
    for name in tokenwire.__all__:
        assert getattr(tokenwire, name) is not None
        assert name in dir(tokenwire)
    assert list(tokenwire.__all__) == sorted(tokenwire.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        tokenwire.Nonsense  # noqa: B018


def test_what_is_no_shell_is_pure() -> None:
    """A new module belongs to the core unless it is named here; the core does no input or output."""
    assert tokenwire.__file__ is not None
    for path in Path(tokenwire.__file__).parent.glob("*.py"):
        if path.stem in SHELLS:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] not in IMPURE, f"{path.name} imports {name}"
                assert name.removeprefix("tokenwire.") not in SHELLS - {"__init__"}, f"{path.name} imports {name}"
