"""Messages out of frames: fragments joined, permessage-deflate undone, JSON read."""

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tokenwire_conformance.figures import MAX_FRAGMENTS, MAX_INFLATED_BYTES
from tokenwire_conformance.wire.frames import Frame, FrameError, Opcode

__all__ = ["Assembler", "Deflate", "Received", "clipped", "compress", "shown"]

_TAIL: Final = b"\x00\x00\xff\xff"
_MAX_NESTING: Final = 200  # levels; no message of the specification has more than four
_SHOWN: Final = 300  # characters


@dataclass(frozen=True, slots=True)
class Deflate:
    """What permessage-deflate (RFC 7692) was agreed on, seen from the suite."""

    inbound_bits: int = 15
    """Window of what the peer sends."""
    inbound_takeover: bool = True
    outbound_bits: int = 15
    outbound_takeover: bool = True


@dataclass(frozen=True)
class Received:
    """One message of the peer's. Anything about its JSON is ``None`` where it has none."""

    at_s: float
    """On the suite's clock (of the event loop)."""
    wall_ms: float
    """Unix time at which it was complete."""
    opcode: Opcode
    payload: bytes
    """Inflated."""
    compressed: bool
    """RSV1 of the first frame."""
    wire_bytes: int
    """Payload as it was on the wire."""
    fragments: int

    @cached_property
    def json(self) -> Any:
        """The value, or ``None`` when the text is not JSON (NaN and Infinity are not), or nested beyond all measure."""
        try:
            value = json.loads(self.payload, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        brackets = self.payload.count(b"[") + self.payload.count(b"{")
        return None if brackets > _MAX_NESTING and _is_deep(value) else value

    @cached_property
    def envelope(self) -> dict[str, Any]:
        """The object, empty when the text is none."""
        return self.json if isinstance(self.json, dict) else {}

    @property
    def type(self) -> str | None:
        """``type`` of the envelope."""
        kind = self.envelope.get("type")
        return kind if isinstance(kind, str) else None

    @property
    def data(self) -> dict[str, Any]:
        """``data`` of the envelope, empty when it is no object."""
        data = self.envelope.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def sequence(self) -> int | None:
        """``sequence`` of the envelope, if it is a whole number; 2.0 is 2."""
        return _whole(self.envelope.get("sequence"))

    @property
    def timestamp(self) -> int | None:
        """``timestamp`` of the envelope, if it is a whole number; 2.0 is 2."""
        return _whole(self.envelope.get("timestamp"))

    def brief(self, limit: int = _SHOWN) -> str:
        """The text for a report, cut in the middle."""
        return clipped(self.payload.decode("utf-8", "backslashreplace"), limit)


def shown(value: object, limit: int = _SHOWN) -> str:
    """``value`` for a report: as JSON, cut in the middle."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = str(value)
    return clipped(text.encode("utf-8", "backslashreplace").decode(), limit)


def clipped(text: str, limit: int = _SHOWN) -> str:
    """``text`` cut in the middle: what matters may well stand at the end."""
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end]} … {text[-end:]} ({len(text)} characters)"


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_NESTING):
        level = [
            inner for outer in level if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer) if isinstance(inner, (dict, list))
        ]  # fmt: skip
        if not level:
            return False
    return True


def _whole(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class Assembler:
    """Frames of one direction to messages; control frames pass between fragments."""

    def __init__(self, deflate: Deflate | None) -> None:
        self._deflate = deflate
        self._inflater = None if deflate is None else zlib.decompressobj(-deflate.inbound_bits)
        self._first: Frame | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def push(self, frame: Frame, at_s: float, wall_ms: float) -> Received | None:
        """Take a data frame; the message if it is complete.

        Raises:
            FrameError: Reserved bits nobody agreed on, fragments out of order, broken deflate data, text that is not
                UTF-8, or more than the suite's bounds.
        """
        if frame.rsv2 or frame.rsv3 or (frame.rsv1 and (self._deflate is None or frame.opcode is Opcode.CONTINUATION)):
            raise FrameError("a reserved bit is set that nothing was negotiated for")
        if (frame.opcode is Opcode.CONTINUATION) != (self._first is not None):
            raise FrameError("a continuation without a beginning, or a beginning inside a message")
        self._first = self._first or frame
        self._parts.append(frame.payload)
        self._size += len(frame.payload)
        if self._size > MAX_INFLATED_BYTES or len(self._parts) > MAX_FRAGMENTS:
            raise FrameError(f"a message of more than {MAX_INFLATED_BYTES} bytes or {MAX_FRAGMENTS} fragments")
        if not frame.fin:
            return None
        first, parts, wire_bytes = self._first, self._parts, self._size
        self._first, self._parts, self._size = None, [], 0
        payload = b"".join(parts)
        if first.rsv1:
            payload = self._inflate(payload)
        if first.opcode is Opcode.TEXT:
            try:
                payload.decode()
            except UnicodeDecodeError as error:
                raise FrameError(f"a text message that is not UTF-8: {error}") from error
        return Received(at_s, wall_ms, first.opcode, payload, first.rsv1, wire_bytes, len(parts))

    def _inflate(self, payload: bytes) -> bytes:
        assert self._deflate is not None
        assert self._inflater is not None
        try:
            out = self._inflater.decompress(payload + _TAIL, MAX_INFLATED_BYTES)
        except zlib.error as error:
            raise FrameError(f"deflate data that cannot be inflated: {error}") from error
        if self._inflater.unconsumed_tail:
            raise FrameError(f"a message of more than {MAX_INFLATED_BYTES} bytes once inflated")
        if self._inflater.eof or not self._deflate.inbound_takeover:
            self._inflater = zlib.decompressobj(-self._deflate.inbound_bits)
        return out


def compress(payload: bytes, bits: int = 15) -> bytes:
    """``payload`` as one permessage-deflate message that needs no window before it."""
    deflater = zlib.compressobj(wbits=-bits)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)
