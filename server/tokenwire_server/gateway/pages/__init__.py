"""The two self-contained HTML pages, and the Content-Security-Policy that allows exactly their own code."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Final, Literal

__all__ = ["page"]

_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@cache
def page(name: Literal["index", "docs"]) -> tuple[bytes, str]:
    """A page's body and its policy. Older browsers do not count ws: as part of 'self', so it is named."""
    text = files(__name__).joinpath(f"{name}.html").read_text("utf-8")
    sources: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        sources[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; script-src {' '.join(sources['script'])}; style-src {' '.join(sources['style'])}; "
        "connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return text.encode(), policy
