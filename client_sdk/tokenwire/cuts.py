"""How much of a server's words is kept, so that what waits for the application is bounded in bytes, too."""

from collections.abc import Iterable
from typing import Final

import msgspec

from tokenwire_schemas.limits import MAX_TOKEN_NAME_CHARS

__all__ = [
    "HIDDEN",
    "MAX_CODE_CHARS",
    "MAX_ID_CHARS",
    "MAX_TEXT_CHARS",
    "as_repr",
    "cut",
    "cut_names",
    "hidden_values",
    "shown",
    "without_secrets",
]

MAX_CODE_CHARS: Final = 100
MAX_ID_CHARS: Final = 128
MAX_TEXT_CHARS: Final = 1_000
_MAX_NAMES: Final = 100

HIDDEN: Final = "****"


def cut(text: str, most: int = MAX_TEXT_CHARS) -> str:
    """The first ``most`` characters of ``text``."""
    return text if len(text) <= most else text[: most - 1] + "…"


def cut_names(names: Iterable[str]) -> tuple[str, ...]:
    """The first hundred ``names``, each no longer than a token's name may be."""
    found: list[str] = []
    for name in names:
        if len(found) == _MAX_NAMES:
            break
        found.append(cut(name, MAX_TOKEN_NAME_CHARS))
    return tuple(found)


def shown(struct: msgspec.Struct, **instead: object) -> list[tuple[str, object]]:
    """The fields of ``struct`` for a ``repr``, some with something else ``instead`` of their values."""
    return [(name, instead.get(name, getattr(struct, name))) for name in struct.__struct_fields__]


def without_secrets(url: str) -> str:
    """``url`` without what may be a password or a key: the user's part and the query."""
    place, question, _ = url.partition("?")
    scheme, slashes, rest = place.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    return f"{scheme}{slashes}{HIDDEN if user else ''}{at}{host}{slash}{path}{question}{HIDDEN if question else ''}"


def hidden_values(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """``headers`` without their values."""
    return tuple((name, HIDDEN) for name, _ in headers)


def as_repr(name: str, fields: Iterable[tuple[str, object]]) -> str:
    """What ``repr`` shows of an object with these ``fields``."""
    return f"{name}({', '.join(f'{field}={value!r}' for field, value in fields)})"
