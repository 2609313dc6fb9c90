"""What one poll cycle asks and finds, pure: questions out, answers in, facts collected.

An API is described by the generator that :meth:`Api.cycle` returns: it yields a :class:`Question`, is sent the
:class:`Answer` (None: there is none this time) and puts what it reads into :class:`Findings`. So the order of
requests, and what to ask again, is decided without any I/O.
"""

from collections.abc import Generator, Sequence
from decimal import Decimal
from typing import Any, Final, Protocol, TypeVar

import msgspec

from tokenwire_server.market.decimals import DecimalError, parse_decimal
from tokenwire_server.market.values import TokenFacts
from tokenwire_server.sources.frames import FormatError
from tokenwire_server.validation.trades import MAX_ID_CHARS

__all__ = ["Answer", "Api", "Findings", "Question", "Steps", "amount", "batches", "label", "positive"]

MAX_REJECTIONS_PER_CYCLE: Final = 1_000

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True):
    """A GET: the ``path`` below the API's base URL, and query parameters."""

    path: str
    params: tuple[tuple[str, str], ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """The JSON value of an answer (numbers as int and Decimal) and when it came (Unix ms)."""

    document: Any
    heard_ms: int


class Findings:
    """What a cycle brought: ``facts``, ``rejections`` (reason and detail of what could not be used), ``unusable``
    (answers of a wrong shape, each also a rejection) and ``missing`` (tokens that were asked for and not told of)."""

    def __init__(self) -> None:
        self.facts: list[TokenFacts] = []
        self.rejections: list[tuple[str, str]] = []
        self.unusable = 0
        self.missing = 0

    def reject(self, error: FormatError) -> None:
        """An item of an answer can't be used; beyond a bound this is not even noted."""
        if len(self.rejections) < MAX_REJECTIONS_PER_CYCLE:
            self.rejections.append((error.reason, error.detail))

    def reject_answer(self, error: FormatError) -> None:
        """A whole answer can't be used."""
        self.unusable += 1
        self.reject(error)


Steps = Generator[Question, Answer | None, None]


class Api(Protocol):
    """One service that is polled."""

    @property
    def requests_per_minute(self) -> int:
        """What the service allows."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request; may hold secrets."""

    def cycle(self, source: str, findings: Findings) -> Steps:
        """Ask everything once; ``source`` is the name that the facts carry."""


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in order, at most ``size`` at once."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def amount(value: object) -> Decimal | None:
    """A number of 0 or more; None for null, for what is negative and for what is no bounded number."""
    try:
        number = parse_decimal(value)
    except DecimalError:
        return None
    return number if number >= 0 else None


def positive(value: object) -> Decimal | None:
    """As :func:`amount`, and more than 0."""
    return amount(value) or None


def label(value: object) -> str:
    """A symbol or a name as it is, without spaces around it; empty if there is no usable one."""
    text = value.strip() if isinstance(value, str) else ""
    return text if len(text) <= MAX_ID_CHARS and text.isprintable() else ""
