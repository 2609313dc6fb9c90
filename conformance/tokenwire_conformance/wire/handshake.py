"""The opening handshake (RFC 6455, section 4) with h11, so that each header can be left out or bent."""

import base64
import os
import re
from dataclasses import dataclass
from typing import Final

import h11
from wsproto.utilities import generate_accept_token

from tokenwire_conformance.wire.messages import Deflate

__all__ = [
    "DEFLATE_OFFER", "HandshakeError", "Response", "ResponseReader", "check_upgrade", "deflate_of", "new_key",
    "request_bytes",
]  # fmt: skip

DEFLATE_OFFER: Final = "permessage-deflate; client_max_window_bits"
_MAX_RESPONSE_BYTES: Final = 65_536
_TLS_ALERT: Final = b"\x15\x03"


class HandshakeError(Exception):
    """The answer to the upgrade request is no usable answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered to an upgrade request."""

    status: int
    headers: tuple[tuple[str, str], ...]
    rest: bytes
    """Bytes that came behind the answer: frames already, after 101."""

    def header(self, name: str) -> str | None:
        """All values of ``name``, joined by commas; ``None`` if it is absent."""
        values = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(values) if values else None


def new_key() -> str:
    """A fresh Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


def request_bytes(
    target: str, host: str, key: str, headers: tuple[tuple[str, str], ...], without: frozenset[str] = frozenset()
) -> bytes:
    """An upgrade request. ``headers`` replace those of the same name, ``without`` names ones to leave out."""
    usual = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key),
    ]
    given = {name.lower() for name, _ in headers}
    skip = {name.lower() for name in without}
    lines = [(name, value) for name, value in usual if name.lower() not in given | skip]
    text = "".join(f"{name}: {value}\r\n" for name, value in (*lines, *headers))
    return f"GET {target} HTTP/1.1\r\n{text}\r\n".encode("latin-1")


class ResponseReader:
    """Bytes to one response, by h11."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_RESPONSE_BYTES)
        # What was really sent may be bent; h11 only needs to know that an upgrade was asked for.
        self._http.send(
            h11.Request(method="GET", target="/", headers=[("Host", "x"), ("Connection", "Upgrade"), ("Upgrade", "x")])
        )
        self._http.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> Response | None:
        """The response once its head is complete. ``b""`` says that the peer closed.

        Raises:
            HandshakeError: It is not HTTP, too long, or ended early.
        """
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                    continue
                if isinstance(event, (h11.InformationalResponse, h11.Response)):
                    headers = tuple((k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in event.headers)
                    return Response(event.status_code, headers, self._http.trailing_data[0])
                if event is h11.NEED_DATA:
                    return None
                raise HandshakeError("the connection was closed before the upgrade request was answered")
        except h11.RemoteProtocolError as error:
            if not data:
                raise HandshakeError("the connection was closed before the upgrade request was answered") from error
            if data.startswith(_TLS_ALERT):
                raise HandshakeError("the answer is not HTTP but TLS: try wss://") from error
            raise HandshakeError(f"the answer is not HTTP: {error}") from error


def check_upgrade(response: Response, key: str) -> str | None:
    """What is wrong with an answer of 101, or ``None``."""
    if (response.header("upgrade") or "").lower() != "websocket":
        return "101 without the header Upgrade: websocket"
    if "upgrade" not in {part.strip().lower() for part in (response.header("connection") or "").split(",")}:
        return "101 without the header Connection: Upgrade"
    if response.header("sec-websocket-accept") != generate_accept_token(key.encode()).decode():
        return "101 whose Sec-WebSocket-Accept does not belong to the key"
    return None


_BITS: Final = re.compile(r"(server|client)_max_window_bits=\"?(\d+)\"?$")


def deflate_of(header: str | None, *, from_server: bool = True) -> Deflate | None:
    """What an accepted ``Sec-WebSocket-Extensions`` means to the suite; ``None`` without permessage-deflate.

    Raises:
        HandshakeError: It names something else than one permessage-deflate, or a window nobody has.
    """
    if not header:
        return None
    if "," in header:
        raise HandshakeError(f"several extensions accepted: {header}")
    name, *parameters = [part.strip() for part in header.split(";")]
    if name != "permessage-deflate":
        raise HandshakeError(f"an extension accepted that was not offered: {name}")
    bits = {"server": 15, "client": 15}
    takeover = {"server": True, "client": True}
    for parameter in parameters:
        if match := _BITS.match(parameter):
            bits[match[1]] = int(match[2])
        elif parameter in {"server_no_context_takeover", "client_no_context_takeover"}:
            takeover[parameter.split("_", maxsplit=1)[0]] = False
        elif not (parameter == "client_max_window_bits" and not from_server):
            raise HandshakeError(f"permessage-deflate with the parameter {parameter}")
    if not all(8 <= size <= 15 for size in bits.values()):
        raise HandshakeError(f"permessage-deflate with a window of {bits}")
    theirs, ours = ("server", "client") if from_server else ("client", "server")
    # zlib has no raw window of 8 bits; one of 9 reads what was written with 8.
    return Deflate(max(9, bits[theirs]), takeover[theirs], max(9, bits[ours]), takeover[ours])
