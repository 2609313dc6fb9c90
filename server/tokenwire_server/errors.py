"""Errors that a person caused and can mend: shown as one line, never as a traceback."""

from typing import Final

__all__ = ["UserError"]


class UserError(Exception):
    """What is wrong and what to do about it, in one line. ``main`` prints it and exits with ``exit_code``."""

    exit_code: Final = 2
