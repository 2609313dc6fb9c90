"""How long a venue asks to be left alone: the header Retry-After, bounded."""

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["MAX_RETRY_AFTER_S", "retry_after_s"]

MAX_RETRY_AFTER_S: Final = 600.0
MAX_HEADER_CHARS: Final = 64


def retry_after_s(header: str | None, now_ms: int) -> float:
    """Seconds from the header's text, a number or an HTTP date (RFC 9110, 10.2.3); 0 for none and for nonsense.

    ``now_ms`` is Unix time. The result is at most :data:`MAX_RETRY_AFTER_S`.
    """
    value = (header or "").strip()
    if not value or len(value) > MAX_HEADER_CHARS:
        return 0.0
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
        wait_s = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now_ms / 1_000
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, wait_s), MAX_RETRY_AFTER_S)
