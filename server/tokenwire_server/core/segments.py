"""One tick's batches for sets that overlap: what they have in common is compressed once, the rest for each.

Only deflate's blocks can be joined. A batch is then::

    stored(head) | {"updates":[ own, own, …   | , shared, shared, …      | , shared, …              | ]}} |
                   \\__ of one set alone ____/  \\_ a segment, cached __/  \\_ another one, cached _/
"""

from typing import Final, NamedTuple

from tokenwire_server.core.compression import BLOCK_END, Deflater, Encoder, Piece
from tokenwire_server.core.ring import BATCH_CLOSE, BATCH_OPEN
from tokenwire_server.core.tokensets import MIN_SEGMENT_TOKENS, Partition, Segment

__all__ = ["Joined", "Segments"]

_END: Final = Deflater().compress(BATCH_CLOSE + b"}")


class Joined(NamedTuple):
    """A batch: its payloads in the order in which ``piece`` has them."""

    payloads: list[bytes]
    piece: Piece


class Segments:
    """The segments of one tick, with the payloads of one table (a payload per row, empty where nothing changed)."""

    __slots__ = ("_compressed", "_payloads", "_table")

    def __init__(self, table: list[bytes]) -> None:
        self._table = table
        self._payloads: dict[Segment, list[bytes]] = {}
        self._compressed: dict[tuple[Segment, Encoder, bool], bytes] = {}

    def join(self, partition: Partition, encoder: Encoder) -> Joined | None:
        """The batch of a set, or None where nothing of it is worth sharing."""
        shared: list[Segment] = []
        payloads = [payload for payload in partition.rest(self._table) if payload]
        for segment in partition.segments:
            changed = self._changed(segment)
            if len(changed) >= MIN_SEGMENT_TOKENS:
                shared.append(segment)
            else:
                payloads += changed
        if not shared:
            return None
        parts = [encoder.compress(BATCH_OPEN + b",".join(payloads))]
        for segment in shared:
            parts.append(self._part(segment, encoder, is_first=not payloads))
            payloads += self._payloads[segment]
        parts.append(_END)
        return Joined(payloads, Piece(BLOCK_END.join(parts), 0, True))

    def _changed(self, segment: Segment) -> list[bytes]:
        payloads = self._payloads.get(segment)
        if payloads is None:
            payloads = self._payloads[segment] = [payload for payload in segment.pick(self._table) if payload]
        return payloads

    def _part(self, segment: Segment, encoder: Encoder, *, is_first: bool) -> bytes:
        key = (segment, encoder, is_first)
        part = self._compressed.get(key)
        if part is None:
            text = b",".join(self._payloads[segment])
            part = self._compressed[key] = encoder.compress(text if is_first else b"," + text)
        return part
