"""The error catalogue, loaded once from ``errors.json`` (Spec, Error Messages and Error Handling)."""

from collections.abc import Mapping
from enum import StrEnum
from importlib.resources import files
from types import MappingProxyType
from typing import Final

import msgspec

from tokenwire_schemas._error_codes import Category, ErrorCode

__all__ = ["CATALOGUE", "Category", "ErrorCode", "ErrorEntry", "Level"]


class Level(StrEnum):
    """What an error means for the connection (Spec, Error Messages)."""

    FATAL = "fatal"
    """The connection ends; its close frame follows."""
    ERROR = "error"
    """This request failed; the connection lives on."""
    WARNING = "warning"
    """Nothing failed; the service is degraded."""


class ErrorEntry(msgspec.Struct, frozen=True, rename="camel"):
    """One row of the catalogue.

    ``level`` is the usual one; a row that is not fatal yet has a ``close_code`` turns fatal when its
    condition persists, and closes with that code. ``retryable``: the same request may later succeed.
    ``meaning`` is the default text of an error message, ``action`` what a client does about it.
    """

    code: ErrorCode
    level: Level
    category: Category
    retryable: bool
    close_code: int | None
    meaning: str
    action: str


class _File(msgspec.Struct, frozen=True):
    errors: tuple[ErrorEntry, ...]


def _load() -> Mapping[ErrorCode, ErrorEntry]:
    raw = files("tokenwire_schemas").joinpath("errors.json").read_bytes()
    rows = msgspec.json.decode(raw, type=_File).errors
    return MappingProxyType({row.code: row for row in rows})


CATALOGUE: Final[Mapping[ErrorCode, ErrorEntry]] = _load()
"""Every code's entry, in the order of the file; read-only."""
