"""Why a client gave up, and what to do about it."""

import contextlib
from http import HTTPStatus
from typing import Final

from tokenwire.errors import ConnectionFailedError
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.errors import CATALOGUE, ErrorCode

__all__ = [
    "close_code_of",
    "close_failure",
    "handshake_failure",
    "is_final_status",
    "overflow_failure",
    "retries_failure",
]

_TRANSIENT_4XX: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_STATUS: Final = {
    401: ("UNAUTHORIZED", "Connect again with valid credentials."),
    403: ("FORBIDDEN", "Ask for access, or connect from an allowed origin."),
    404: ("NOT_FOUND", "Check the URL's path; the endpoint is /api/v1/ws/token-data."),
}
_CLOSE: Final[dict[int, str]] = {
    CloseCode.NORMAL: "The server ended the connection in good order; start the client again if it should go on.",
    CloseCode.SUPERSEDED: "Another client uses this session; give each client a checkpoint of its own.",
    CloseCode.UNAUTHORIZED: "Connect again with valid credentials.",
    CloseCode.PROTOCOL_ERRORS: "The server refused ten messages; this is a defect, report it.",
    CloseCode.UNSUPPORTED_VERSION: "Use a version of this package that speaks the server's protocol.",
}


def is_final_status(status: int) -> bool:
    """Whether a handshake refused with this HTTP status will be refused again (I-45)."""
    return 400 <= status < 500 and status not in _TRANSIENT_4XX


def handshake_failure(status: int, error: str) -> ConnectionFailedError:
    """The server refused the handshake for good."""
    code, remedy = _STATUS.get(status, ("HANDSHAKE_REFUSED", "Check the URL and what stands between."))
    return ConnectionFailedError(code, f"the server refused the handshake with HTTP {status}: {error}", remedy)


def close_failure(code: int, reason: str, fatal: str | None) -> ConnectionFailedError:
    """The server closed with a code that says not to come back (I-44). ``fatal``: the error it sent before."""
    try:
        name = CloseCode(code).name
    except ValueError:
        name = f"CLOSED_{code}"
    remedy = _CLOSE.get(code, "Look up the close code; the server does not want this client back.")
    if fatal is not None:
        name = fatal
        with contextlib.suppress(ValueError):
            remedy = CATALOGUE[ErrorCode(fatal)].action
    return ConnectionFailedError(name, f"the server closed the connection with {code} {reason}".rstrip(), remedy)


def retries_failure(tries: int, cause: str) -> ConnectionFailedError:
    """No try is left."""
    return ConnectionFailedError(
        "RETRIES_EXHAUSTED",
        f"gave up after {tries} further {'try' if tries == 1 else 'tries'}; the last one: {cause}",
        "Check that the server can be reached, or set max_retries to None to try for ever.",
    )


def overflow_failure(limit: int) -> ConnectionFailedError:
    """The application did not keep up, and nothing may be left out."""
    return ConnectionFailedError(
        "QUEUE_OVERFLOW",
        f"more than {limit} events wait for the application",
        "Read faster, raise queue_events, or use overflow='latest'.",
    )


def close_code_of(code: str) -> int:
    """The close code that belongs to a fatal error; 1006 for one that is not known."""
    try:
        return CATALOGUE[ErrorCode(code)].close_code or CloseCode.ABNORMAL
    except ValueError:
        return CloseCode.ABNORMAL
