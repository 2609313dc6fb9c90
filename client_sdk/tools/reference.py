"""Writes REFERENCE.md from the docstrings of everything public: ``python client_sdk/tools/reference.py``."""

import enum
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import msgspec

import tokenwire
from tokenwire import streams, sync
from tokenwire.sync_streams import SyncStream

TARGET = Path(__file__).parents[1] / "REFERENCE.md"
HEAD = """# Reference of the tokenwire client

Generated from the docstrings by `python client_sdk/tools/reference.py`; the guide is [README.md](README.md).
"""


_CHANNELS = ("tokenwire.channels", "tokenwire.streams", "tokenwire.rest")
_OF_THE_FEED = {"accepted", "item", "broken", "failed", "page"}
"""What a stream is told, which is nobody else's business."""


def document() -> str:
    """The whole page."""
    groups: dict[str, list[str]] = {"Client": [], "Events": [], "Channels": [], "Settings and state": [], "Errors": []}
    for name in tokenwire.__all__:
        value = getattr(tokenwire, name)
        if name.startswith("__"):
            continue
        if isinstance(value, type) and issubclass(value, Exception):
            group = "Errors"
        elif value.__module__ == "tokenwire.events" or isinstance(value, UnionType):
            group = "Events"
        elif value.__module__ in _CHANNELS:
            group = "Channels"
        elif name in ("TokenClient", "Subscribed"):
            group = "Client"
        else:
            group = "Settings and state"
        groups[group].append(entry(name, value))
    groups["Channels"] += [entry("streams.Stream", streams.Stream), entry("sync_streams.SyncStream", SyncStream)]
    groups["Client"].append(entry("sync.TokenClient", sync.TokenClient))
    pages = [f"## {group}\n\n" + "\n".join(entries) for group, entries in groups.items()]
    return HEAD + "\n" + "\n".join(pages).rstrip() + "\n"


def entry(name: str, value: Any) -> str:
    """One public name."""
    if isinstance(value, UnionType):
        return f"### {name}\n\nOne of {', '.join(f'`{part.__name__}`' for part in value.__args__)}.\n"
    lines = [f"### {name}", "", text(value), ""]
    if issubclass(value, enum.Enum):
        lines += [*(f"- `{member.value}`" for member in value), ""]
    elif issubclass(value, msgspec.Struct):
        lines += ["| field | type | default |", "|---|---|---|"]
        for field in msgspec.structs.fields(value):
            kind = inspect.formatannotation(value.__annotations__[field.name]).replace("|", "\\|")
            default = "" if field.required else f"`{shown(field)}`"
            lines.append(f"| `{field.name}` | `{kind.replace('tokenwire.', '')}` | {default} |")
        lines.append("")
    for member, found in members(value):
        lines += [f"#### {member}", "", text(found), ""]
    return "\n".join(lines)


def shown(field: Any) -> str:
    """A field's default; of a factory what it makes."""
    if field.default is not msgspec.NODEFAULT:
        return str(field.default) if isinstance(field.default, enum.Enum) else repr(field.default)
    return repr(field.default_factory())


def members(value: type) -> Iterator[tuple[str, object]]:
    """Methods and properties that a class defines itself, as a caller writes them."""
    for name, found in vars(value).items():
        if name.startswith("_") or not inspect.getdoc(found) or name in _OF_THE_FEED:
            continue
        if isinstance(found, property):
            yield f"`{name}`", found
        elif inspect.isfunction(found) or isinstance(found, classmethod):
            function = found.__func__ if isinstance(found, classmethod) else found
            parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
            brief = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters)
            prefix = "await " if inspect.iscoroutinefunction(function) else ""
            yield f"`{prefix}{name}({brief})`", found


def text(value: object) -> str:
    """The docstring as Markdown: RST's double backticks and roles become single ones."""
    found = inspect.getdoc(value) or ""
    for role in ("class", "meth", "func", "data"):
        found = found.replace(f":{role}:", "")
    return (
        found.replace("``", "`")
        .replace("Raises:\n", "Raises:\n\n")
        .replace("Args:\n", "Arguments:\n\n")
        .replace("\n    ", "\n- ")
    )


if __name__ == "__main__":
    TARGET.write_text(document(), "utf-8")
    print(f"wrote {TARGET.name}")
