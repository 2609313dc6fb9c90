"""What may be kept of an answer, and how a client asks whether what it keeps is still right (RFC 9110, 9111).

Every data answer has a strong ``ETag`` made of its bytes, so that a client that polls gets ``304`` and no body while
nothing has changed. What is still moving says ``no-cache``: keep it, but ask each time. What is over (closed bars
between two times that have passed) may be used for a minute without asking. Not longer, since a trade that comes late
corrects a closed bar however old it is; most come within the grace period of 10 s, so a minute is the longest that
anybody sees a bar without them.
"""

import hashlib
import re
from typing import Any, Final

from tokenwire_server.gateway.http import Answer
from tokenwire_server.gateway.prepared import Asked

__all__ = ["SETTLED_MAX_AGE_S", "UNTIL_DESCRIPTION", "UNTIL_HEADER", "tagged"]

UNTIL_HEADER: Final = "x-tokenwire-until-ms"
"""How far this server knows what it answers with. Of several servers one may be behind the other, so whoever puts
together what was fetched from one and what another one sends needs to know. The tag does not stand for it."""
UNTIL_DESCRIPTION: Final[dict[str, Any]] = {
    "description": "event time (Unix ms) up to which this server knows the token's trades: every bar that closed by "
    "then is there. If a bar that came over a WebSocket begins later, ask again: another server answered, which is "
    "behind, or it has come since. 0: none was traded",
    "schema": {"type": "integer"},
    "example": 1774089004210,
}

SETTLED_MAX_AGE_S: Final = 60
_SETTLED: Final = f"public, max-age={SETTLED_MAX_AGE_S}, must-revalidate"
_MOVING: Final = "no-cache"
_TAG_BYTES: Final = 16
_LISTED: Final = re.compile(r'(?:W/)?("[^"]*")')


def tagged(
    asked: Asked,
    body: bytes,
    *,
    is_settled: bool = False,
    content_type: str = "application/json",
    until_ms: int | None = None,
) -> Answer:
    """The answer with its tag; 304 without the body to whoever has it already. ``until_ms``: see UNTIL_HEADER."""
    tag = f'"{hashlib.blake2b(body, digest_size=_TAG_BYTES).hexdigest()}"'
    headers = {"etag": tag, "cache-control": _SETTLED if is_settled else _MOVING}
    if until_ms is not None:
        headers[UNTIL_HEADER] = str(until_ms)
    if _has(asked.header(b"if-none-match"), tag):
        return 304, b"", headers
    return 200, body, {"content-type": content_type, **headers}


def _has(condition: str | None, tag: str) -> bool:
    """Whether ``If-None-Match`` lists the tag; weak ones count, as they do for GET."""
    if condition is None:
        return False
    return condition.strip() == "*" or tag in _LISTED.findall(condition)
