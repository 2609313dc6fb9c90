"""HTML in which every text is escaped unless it is HTML already."""

import html

from tokenwire_conformance.reports.text import printable

__all__ = ["Html", "element", "join"]


class Html(str):
    """What `element` made. Any other string is text."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | bool) -> Html:
    """An element with a closing tag.

    ``class_`` stands for ``class`` and ``data_status`` for ``data-status``; an attribute that is ``True`` has no value,
    one that is ``False`` or empty is left out.
    """
    start = "".join(_attribute(key, value) for key, value in attributes.items() if value)
    return Html(f"<{name}{start}>{join(children)}</{name}>")


def join(parts: tuple[str, ...] | list[str]) -> Html:
    """The parts in a row."""
    return Html("".join(part if isinstance(part, Html) else _escape(part) for part in parts))


def _attribute(key: str, value: str | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{_escape(str(value))}"'


def _escape(text: str) -> Html:
    return Html(html.escape(printable(text, keep="\n\t"), quote=True))
