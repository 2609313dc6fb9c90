"""Inbound frames of one connection, parsed by ``websockets`` and yet costing an idle connection nothing.

A protocol object of ``websockets`` takes about 5 KB, so it exists only while a message is under way: bytes are
gathered until a frame is whole, the frames are fed, and the object is dropped between two messages.
"""

from typing import Final

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import DATA_OPCODES, Frame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from tokenwire_schemas.limits import MAX_MESSAGE_BYTES, MAX_MESSAGE_FRAGMENTS

__all__ = ["Inbound", "frame_end"]

_WINDOW_BITS: Final = 15


def frame_end(data: bytes | bytearray, max_bytes: int = MAX_MESSAGE_BYTES) -> int:
    """Where the first frame in ``data`` ends; 0 if it is not complete yet.

    Illegal and oversized headers are not waited for: all of ``data`` is the frame then, and the parser refuses it.
    """
    size = len(data)
    if size < 2:
        return 0
    if not data[1] & 0x80:  # unmasked: an error whatever follows
        return size
    length = data[1] & 0x7F
    header = 6
    if length >= 126:
        header = 8 if length == 126 else 14
        if size < header - 4:
            return 0
        length = int.from_bytes(data[2 : header - 4], "big")
        if length > max_bytes:
            return size
    return header + length if size >= header + length else 0


class Inbound:
    """The part of a message that has arrived; made when bytes come, dropped when :attr:`is_idle`."""

    __slots__ = ("_fragments", "_max_bytes", "_parser", "_tail")

    def __init__(self, deflated: bool, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        # Both sides without context take-over, so that no window outlives a message.
        extensions = [PerMessageDeflate(True, True, _WINDOW_BITS, _WINDOW_BITS)] if deflated else []
        self._parser = ServerProtocol(state=OPEN, max_size=max_bytes)
        self._max_bytes = max_bytes
        self._parser.extensions = [*extensions]
        self._tail = bytearray()
        self._fragments = 0

    @property
    def is_idle(self) -> bool:
        """Between two messages: nothing here needs to be remembered."""
        return not self._tail and self._parser.current_size is None

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that the parser sent or answered, or None while the connection is open."""
        sent = self._parser.close_sent
        return None if sent is None else sent.code

    @property
    def failure(self) -> str:
        """What the parser objected to; empty if the peer just closed."""
        error = self._parser.parser_exc
        return "" if error is None else str(error)

    @property
    def held_bytes(self) -> int:
        """What an unfinished message takes, inflated."""
        return len(self._tail) + (self._parser.current_size or 0)

    @property
    def is_in_message(self) -> bool:
        """Fragments of a message have come, its end has not."""
        return self._parser.current_size is not None

    def add(self, data: bytes) -> None:
        """Bytes arrived."""
        self._tail += data

    def next_frame(self) -> bytes | None:
        """The next whole frame, unparsed (see :func:`frame_end`); None if there is none yet."""
        end = frame_end(self._tail, self._max_bytes)
        if not end:
            return None
        frame = bytes(self._tail[:end])
        del self._tail[:end]
        return frame

    def parse(self, frame: bytes) -> list[Frame]:
        """Parse (and inflate) what :meth:`next_frame` gave."""
        self._parser.receive_data(frame)
        frames = [event for event in self._parser.events_received() if isinstance(event, Frame)]
        if not self.is_in_message:
            self._fragments = 0
        elif any(event.opcode in DATA_OPCODES for event in frames):
            self._fragments += 1
        return frames

    def has_too_many_fragments(self) -> bool:
        """A message in over 4096 pieces: nobody who means well sends that."""
        return self._fragments > MAX_MESSAGE_FRAGMENTS

    def answers(self) -> list[bytes]:
        """Pongs and close frames that the parser wants sent; an empty one means: end the connection."""
        return self._parser.data_to_send()
