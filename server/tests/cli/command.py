"""Running a command as its entry point does."""

import pytest

from tokenwire_server import __main__

__all__ = ["run"]


def run(*arguments: str) -> int | str | None:
    """Run ``tokenwire-server`` with these words; its exit code."""
    with pytest.raises(SystemExit) as caught:
        __main__.main(arguments)
    return caught.value.code
