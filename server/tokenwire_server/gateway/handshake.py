"""The opening handshake: path, query, compression and origin (RFC 6455 4.2, RFC 7692 7.1)."""

from typing import Final

from websockets.datastructures import Headers
from websockets.headers import parse_extension
from websockets.typing import Subprotocol

__all__ = ["ENDPOINT", "SUBPROTOCOL", "negotiate_deflate", "request_path"]

ENDPOINT: Final = "/api/v1/ws/token-data"
SUBPROTOCOL: Final = Subprotocol("token-data.v1")

_PARAMETERS: Final = frozenset(
    {"server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits", "client_max_window_bits"}
)


def request_path(target: str) -> str:
    """The path of a request target, without its query."""
    return target.partition("?")[0]


def negotiate_deflate(headers: Headers) -> str | None:
    """The ``Sec-WebSocket-Extensions`` to answer with, or None when no offer of permessage-deflate fits.

    The client never keeps a window for us to hold (``client_no_context_takeover`` is always answered), and every
    frame of ours decodes on its own, so a client may refuse take-over too. An offer that limits our window is
    passed over: bodies are compressed once for everybody, with the full window.
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
            if named.get("server_max_window_bits", "15") != "15":
                continue
            answer = ["permessage-deflate", "client_no_context_takeover"]
            if "server_no_context_takeover" in named:
                answer.append("server_no_context_takeover")
            if "server_max_window_bits" in named:
                answer.append("server_max_window_bits=15")
            return "; ".join(answer)
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
