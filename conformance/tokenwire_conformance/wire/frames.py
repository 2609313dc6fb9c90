"""Frames of RFC 6455, read with wsproto's decoder and written by hand, since they may have to be wrong."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, ParseFailed, RsvBits, XorMaskerSimple
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from tokenwire_conformance.figures import MAX_FRAME_BYTES

__all__ = ["Frame", "FrameError", "FrameReader", "Opcode", "close_payload", "encode_frame", "parse_close"]


class Opcode(IntEnum):
    """RFC 6455, section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class FrameError(Exception):
    """What arrived is not a WebSocket frame, or not one that this peer may send."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One complete frame, unmasked, still compressed."""

    opcode: Opcode
    payload: bytes
    fin: bool = True
    rsv1: bool = False
    rsv2: bool = False
    rsv3: bool = False

    @property
    def is_control(self) -> bool:
        """Whether it is a close, ping or pong."""
        return bool(self.opcode & 0x8)


class _Tap(Extension):
    """Lets every reserved bit pass and remembers it."""

    name = "tap"
    rsv = RsvBits(False, False, False)

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: WsprotoOpcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if payload_length > MAX_FRAME_BYTES:
            return CloseReason.MESSAGE_TOO_BIG
        self.rsv = rsv
        return RsvBits(True, True, True)


class FrameReader:
    """Bytes of one direction to frames. ``from_server`` says who sent them."""

    def __init__(self, *, from_server: bool) -> None:
        self._tap = _Tap()
        self._decoder = FrameDecoder(from_server, [self._tap])
        self._opcode: Opcode | None = None
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that ``data`` completes.

        Raises:
            FrameError: The bytes break the framing, or announce a frame of more than ``MAX_FRAME_BYTES``.
        """
        self._decoder.receive_bytes(data)
        while True:
            try:
                part = self._decoder.process_buffer()
            except ParseFailed as error:
                raise FrameError(str(error)) from error
            if part is None:
                return
            if self._opcode is None:
                self._opcode = Opcode(int(part.opcode))
            assert isinstance(part.payload, bytes)
            self._parts.append(part.payload)
            if part.frame_finished:
                opcode, payload = self._opcode, b"".join(self._parts)
                self._opcode, self._parts = None, []
                rsv = self._tap.rsv
                yield Frame(opcode, payload, part.message_finished, rsv.rsv1, rsv.rsv2, rsv.rsv3)


_SMALL: Final = 125
_SHORT: Final = 0xFFFF


def encode_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    mask: bool,
    fin: bool = True,
    rsv: int = 0,
    declared_length: int | None = None,
) -> bytes:
    """One frame; nothing is checked. ``rsv`` is the three reserved bits, RSV1 the highest (4).

    ``declared_length`` is written in place of the payload's own.
    """
    length = len(payload) if declared_length is None else declared_length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    flag = 0x80 if mask else 0
    if length <= _SMALL:
        head += bytes([flag | length])
    elif length <= _SHORT:
        head += bytes([flag | 126]) + struct.pack("!H", length)
    else:
        head += bytes([flag | 127]) + struct.pack("!Q", length)
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(XorMaskerSimple(key).process(bytearray(payload)))


def close_payload(code: int | None, reason: str = "") -> bytes:
    """The payload of a close frame; ``None`` for one without a code."""
    return b"" if code is None else struct.pack("!H", code) + reason.encode()


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame; 1005 where it has none.

    Raises:
        FrameError: One byte only, a code that may not be sent, or a reason that is not UTF-8.
    """
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise FrameError("close frame with a payload of one byte")
    (code,) = struct.unpack("!H", payload[:2])
    if not 1000 <= code <= 4999 or code in {1004, 1005, 1006, 1015}:
        raise FrameError(f"close frame with the code {code}, which may not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError as error:
        raise FrameError("close frame whose reason is not UTF-8") from error
