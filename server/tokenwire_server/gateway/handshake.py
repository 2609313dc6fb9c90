"""The opening handshake: path, query, wishes and compression (RFC 6455 4.2, RFC 7692 7.1)."""

from typing import Final
from urllib.parse import parse_qs

from websockets.datastructures import Headers
from websockets.headers import parse_extension
from websockets.typing import Subprotocol

from tokenwire_schemas.limits import MAX_SEQUENCE
from tokenwire_server.core.grants import NOTHING, Capability, Deflate, Offer

__all__ = ["ENDPOINT", "SUBPROTOCOL", "negotiate_deflate", "parse_offer", "request_path"]

ENDPOINT: Final = "/api/v1/ws/token-data"
SUBPROTOCOL: Final = Subprotocol("token-data.v1")

_SESSION_HEADER: Final = "X-Tokenwire-Session"
_MAX_QUERY_FIELDS: Final = 50
_MAX_SECRET_CHARS: Final = 256
_MIN_WINDOW_BITS: Final = 9  # RFC 7692 allows 8, zlib does not
_MAX_WINDOW_BITS: Final = 15

_PARAMETERS: Final = frozenset(
    {"server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits", "client_max_window_bits"}
)


def request_path(target: str) -> str:
    """The path of a request target, without its query."""
    return target.partition("?")[0]


def parse_offer(target: str, headers: Headers) -> Offer:
    """What the client asks for (I-50, I-54), from the query of the request target and from headers.

    What can't be read counts as missing: a handshake does not fail for an extension.

    Raises:
        MultipleValuesError: several session headers.
    """
    secret = headers.get(_SESSION_HEADER)
    try:
        query = parse_qs(target.partition("?")[2], max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        query = {}
    if secret is None:
        secret = query.get("session", [None])[-1]
    if not query and secret is None:
        return NOTHING
    names = {name.strip() for names in query.get("caps", []) for name in names.split(",")}
    if secret is not None and len(secret) > _MAX_SECRET_CHARS:
        secret = ""  # nobody's
    return Offer(
        frozenset(capability for capability in Capability if capability in names),
        "every" if query.get("delivery", [""])[-1] == "every" else "latest",
        secret,
        _number(query.get("seq", [""])[-1]),
        _number(query.get("attempt", [""])[-1]) or 0,
    )


def _number(text: str) -> int | None:
    """A whole number from 0 to 2^53-1, or None."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SEQUENCE))):
        return None
    number = int(text)
    return number if number <= MAX_SEQUENCE else None


def negotiate_deflate(headers: Headers) -> tuple[str, Deflate] | None:
    """The ``Sec-WebSocket-Extensions`` to answer with and what it says, or None when no offer of permessage-deflate
    fits.

    The client never keeps a window for us to hold (``client_no_context_takeover`` is always answered). It may refuse
    to keep one for our messages, and limit its size; the compressor knows no window of 2^8 bytes, so that such an
    offer is passed over.

    Raises:
        InvalidHeader: the header is malformed.
    """
    offers = headers.get_all("Sec-WebSocket-Extensions")
    for offer in offers:
        for name, parameters in parse_extension(offer):
            if name != "permessage-deflate":
                continue
            named = dict(parameters)
            if len(named) != len(parameters) or not named.keys() <= _PARAMETERS:
                continue
            if not _is_valid(named):
                continue
            window_bits = int(named.get("server_max_window_bits") or _MAX_WINDOW_BITS)
            if window_bits < _MIN_WINDOW_BITS:
                continue
            deflate = Deflate(window_bits, "server_no_context_takeover" not in named)
            answer = ["permessage-deflate", "client_no_context_takeover"]
            if not deflate.takeover:
                answer.append("server_no_context_takeover")
            if "server_max_window_bits" in named:
                answer.append(f"server_max_window_bits={window_bits}")
            return "; ".join(answer), deflate
    return None


def _is_valid(named: dict[str, str | None]) -> bool:
    for flag in ("server_no_context_takeover", "client_no_context_takeover"):
        if named.get(flag) is not None:
            return False
    bits = {str(number) for number in range(8, 16)}
    if "server_max_window_bits" in named and named["server_max_window_bits"] not in bits:
        return False
    client_bits = named.get("client_max_window_bits")
    return client_bits is None or client_bits in bits
