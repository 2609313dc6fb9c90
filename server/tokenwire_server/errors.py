"""Errors that a person caused and can mend: shown as one line, never as a traceback."""

from typing import ClassVar

__all__ = ["AwayError", "ReplacedError", "UserError"]


class UserError(Exception):
    """What is wrong and what to do about it, in one line. ``main`` prints it and exits with ``exit_code``."""

    exit_code: ClassVar[int] = 2


class AwayError(UserError):
    """An engine can't be reached, or refuses: once that is mended, there or in the settings, the same works."""


class ReplacedError(UserError):
    """Another process has the name of this one, and goes on in its place: starting this one again would take the name
    back, and so for ever."""

    exit_code: ClassVar[int] = 3
