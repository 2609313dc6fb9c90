"""Inbound frames of one connection, parsed by ``websockets`` and yet costing an idle connection nothing.

A protocol object of ``websockets`` takes about 5 KB, so it exists only while a message is under way: bytes are
gathered until a frame is whole, the frames are fed, and the object is dropped between two messages.
"""

from typing import Final

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from tokenwire_schemas.limits import MAX_MESSAGE_BYTES

__all__ = ["Inbound", "whole_frames"]

_MAX_FRAGMENTS: Final = 1024
_WINDOW_BITS: Final = 15


def whole_frames(data: bytes | bytearray) -> int:
    """How many leading bytes of ``data`` are complete frames; all of them if what follows can only be an error.

    Illegal or oversized headers are not waited for: the parser refuses them at once.
    """
    end = 0
    size = len(data)
    while size - end >= 2:
        if not data[end + 1] & 0x80:  # unmasked: an error whatever follows
            return size
        length = data[end + 1] & 0x7F
        header = 6
        if length >= 126:
            header = 8 if length == 126 else 14
            if size - end < header - 4:
                break
            length = int.from_bytes(data[end + 2 : end + header - 4], "big")
            if length > MAX_MESSAGE_BYTES:
                return size
        if size - end < header + length:
            break
        end += header + length
    return end


class Inbound:
    """The part of a message that has arrived; made when bytes come, dropped when :attr:`is_idle`."""

    __slots__ = ("_fragments", "_parser", "_tail")

    def __init__(self, deflated: bool) -> None:
        # Both sides without context take-over, so that no window outlives a message.
        extensions = [PerMessageDeflate(True, True, _WINDOW_BITS, _WINDOW_BITS)] if deflated else []
        self._parser = ServerProtocol(state=OPEN, max_size=MAX_MESSAGE_BYTES)
        self._parser.extensions = list(extensions)
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

    def feed(self, data: bytes) -> list[Frame]:
        """Frames completed by ``data``."""
        tail = self._tail
        tail += data
        end = whole_frames(tail)
        if not end:
            return []
        self._parser.receive_data(bytes(tail[:end]))
        del tail[:end]
        frames = [event for event in self._parser.events_received() if isinstance(event, Frame)]
        self._fragments = 0 if self._parser.current_size is None else self._fragments + len(frames)
        return frames

    def has_too_many_fragments(self) -> bool:
        """A message in over 1024 pieces: nobody who means well sends that."""
        return self._fragments > _MAX_FRAGMENTS

    def answers(self) -> list[bytes]:
        """Pongs and close frames that the parser wants sent; an empty one means: end the connection."""
        return self._parser.data_to_send()
