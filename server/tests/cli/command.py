"""Running a command as its entry point does, and what it stored."""

from pathlib import Path

import pytest

from tokenwire_server import __main__
from tokenwire_server.history.export import StoredReader

__all__ = ["run", "stored"]


def run(*arguments: str) -> int | str | None:
    """Run ``tokenwire-server`` with these words; its exit code."""
    with pytest.raises(SystemExit) as caught:
        __main__.main(arguments)
    return caught.value.code


def stored(data: Path) -> list[tuple[str, str]]:
    """Address and id of every stored trade, by token in order of their numbers."""
    reader = StoredReader(data)
    try:
        tokens = reader.tokens(None)
        return [
            (token.address, row[1]) for token in tokens for part in reader.trades(token, 0, 1 << 53) for row in part
        ]
    finally:
        reader.close()
