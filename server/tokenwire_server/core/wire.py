"""Bytes on the wire: WebSocket frames around numbered envelopes, plain or compressed once for everybody.

A server frame is ``first byte | length (1, 3 or 9 bytes) | payload`` (RFC 6455 5.2, never masked), and its
payload an envelope, of which only the number differs between clients::

    81 7E 01 04  {"type":"token_update","sequence":  17  ,"timestamp":1700000000000,"data":  {…}  }
    \\__header__/ \\________ head, per tick _________/ \\n/ \\______ head, per tick _______/ \\__body, shared__/

A compressed message (RFC 7692, RSV1 set) is any series of DEFLATE blocks, so the head with its personal number
travels as a *stored* block in front of the body's blocks, which were compressed once and are shared::

    C1 7E ll ll  | 00 nn nn ~n ~n  head in clear | deflate(body + "}"), sync-flushed, without 00 00 FF FF |
                   \\_ stored block, no BFINAL __/ \\______________ the same bytes for every client _______/

The zstd form (I-64) is a binary message built the same way::

    82 7E ll ll  | flag, nn nn, bb bb bb bb  head in clear | a flushed piece of a Zstandard frame of (body + "}") |
                   \\_ lengths of head and body            \\______________ the same bytes for every client ______/

In compressed messages the number is padded with spaces to 16 columns: all heads are then equally long, which is
what lets clients share a window (``compression``).

All forms are a template with one place for the number. A plain one serves all clients whose numbers have as many
digits, a compressed one everybody; a row of templates is filled by one ``bytes % tuple``.
"""

import struct
from typing import Final

from tokenwire_schemas.limits import COMPRESSION_THRESHOLD_BYTES, MAX_SEQUENCE
from tokenwire_server.core.compression import Encoder, Piece, SharedWindow, Zstd

__all__ = [
    "close_frame",
    "digits",
    "frame",
    "frame_template",
    "is_compressed",
    "is_worth_compressing",
    "next_power",
    "piece_in",
    "ping_frame",
    "text_frame",
]

_TEXT: Final = 0x81
_TEXT_DEFLATED: Final = 0xC1
_BINARY: Final = 0x82
_CLOSE: Final = 0x88
_PING: Final = 0x89

_MAX_REASON_BYTES: Final = 123
_NUMBER_COLUMNS: Final = len(str(MAX_SEQUENCE))
_NUMBER: Final = b"%d"
_PADDED_NUMBER: Final = b"%%%dd" % _NUMBER_COLUMNS
_BEFORE: Final = b'{"type":"%b","sequence":'
_AFTER: Final = b',"timestamp":%d,"data":'
_HEAD_LENGTH: Final = len(_BEFORE % b"") + _NUMBER_COLUMNS + len(_AFTER % 0) - 1  # besides type and timestamp

_LENGTH_16 = struct.Struct("!BBH")
_LENGTH_64 = struct.Struct("!BBQ")


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return _LENGTH_16.pack(first, 126, length)
    return _LENGTH_64.pack(first, 127, length)


def ping_frame() -> bytes:
    """A ping without payload (RFC 6455 5.5.2)."""
    return bytes((_PING, 0))


def text_frame(payload: bytes) -> bytes:
    """A text message of its own, without an envelope and never compressed."""
    return _header(_TEXT, len(payload)) + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame (RFC 6455 5.5.1); a reason over 123 bytes is cut at a character."""
    text = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore").encode()
    return bytes((_CLOSE, 2 + len(text))) + code.to_bytes(2, "big") + text


def is_compressed(message: bytes) -> bool:
    """Whether a data frame of ours is in either compressed form."""
    return message[0] != _TEXT


def digits(number: int) -> int:
    """How many decimal digits ``number`` (>= 0) has."""
    return len(str(number))


def next_power(digit_count: int) -> int:
    """The first number with more than ``digit_count`` digits."""
    return int(10**digit_count)


def _padded_length(kind: bytes, timestamp: int) -> int:
    """Of a head with a padded number."""
    return _HEAD_LENGTH + len(kind) + digits(timestamp)


def is_worth_compressing(kind: bytes, timestamp: int, data: bytes) -> bool:
    """Whether a message with this payload object is larger than 1 KB (Spec, Performance), whatever its number."""
    return _padded_length(kind, timestamp) + len(data) + 1 > COMPRESSION_THRESHOLD_BYTES


def piece_in(window: SharedWindow, kind: bytes, timestamp: int, data: bytes) -> Piece:
    """The compressed form of ``data`` for those who share ``window``; all of them must be sent it."""
    return window.compress(data + b"}", _padded_length(kind, timestamp))


def frame_template(
    kind: bytes, timestamp: int, data: bytes, digit_count: int, encoder: Encoder | None, piece: Piece | None = None
) -> bytes:
    """A data frame of type ``kind`` with ``%d`` where a number of ``digit_count`` digits belongs.

    ``data`` is the encoded payload object, ``timestamp`` Unix ms. With an ``encoder``, messages over 1 KB are
    compressed and smaller ones are not; without, none is. ``piece`` is the compressed form to use, by default the one
    that stands alone. Fill it with ``template % n``.
    """
    before = _BEFORE % kind
    after = _AFTER % timestamp
    if encoder is None or not is_worth_compressing(kind, timestamp, data):
        length = len(before) + digit_count + len(after) + len(data) + 1
        return _escape(_header(_TEXT, length) + before) + _NUMBER + _escape(after + data + b"}")
    if piece is None:
        piece = encoder.alone(data + b"}")
    head_length = _padded_length(kind, timestamp)
    prefix = encoder.prefix(head_length, piece)
    first = _BINARY if isinstance(encoder, Zstd) else _TEXT_DEFLATED
    header = _header(first, len(prefix) + head_length + len(piece.data))
    return _escape(header + prefix + before) + _PADDED_NUMBER + _escape(after + piece.data)


def frame(kind: bytes, number: int, timestamp: int, data: bytes, encoder: Encoder | None) -> bytes:
    """One finished data frame; arguments as in :func:`frame_template`."""
    return frame_template(kind, timestamp, data, digits(number), encoder) % number


def _escape(literal: bytes) -> bytes:
    return literal.replace(b"%", b"%%")
