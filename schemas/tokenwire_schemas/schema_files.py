"""The schema files of this package, by name."""

import json
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final

__all__ = ["SCHEMAS", "Schema"]

Schema = Mapping[str, object]
_SUFFIX: Final = ".schema.json"


def _walk(folder: Traversable, prefix: str) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.is_dir():
            found |= _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            found[prefix + entry.name.removesuffix(_SUFFIX)] = json.loads(entry.read_text("utf-8"))
    return found


SCHEMAS: Final[Mapping[str, Schema]] = MappingProxyType(_walk(files("tokenwire_schemas") / "v1", ""))
"""Each message's JSON Schema under its name: ``strict`` or ``extended``, then ``server`` or ``client`` (who
sends), then the type, for example ``strict/server/token_update``. Treat them as read-only."""
