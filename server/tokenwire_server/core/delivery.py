"""One tick to everybody: a template per row and digit count, filled with each client's own numbers.

Clients with equal subscription sets share one template, which holds a frame for every changed token of the set;
``template % (n, n+1, …)`` makes all frames of one client, and one write sends them. Clients with other sets share
the templates of the single rows.
"""

from collections.abc import Callable, Iterator

from tokenwire_server.core.board import Board, Row
from tokenwire_server.core.session import TOKEN_UPDATE, Session
from tokenwire_server.core.tokensets import TokenSet
from tokenwire_server.core.wire import Deflater, digits, frame_template, next_power

__all__ = ["Delivery"]

Write = Callable[[bytes], None]


class Delivery:
    """The changed rows of one tick, ready to be sent to any session.

    ``frames``, ``octets`` and ``conflated`` count what was yielded: numbered frames, bytes, and versions that no
    frame carried because a newer one overtook them within the interval.
    """

    __slots__ = ("_board_size", "_deflater", "_rows", "_skipped", "_tables", "_timestamp", "conflated", "frames",
                 "octets")  # fmt: skip

    def __init__(self, board: Board, rows: list[Row], timestamp: int, deflater: Deflater) -> None:
        self._board_size = len(board.rows)
        self._rows = rows
        self._timestamp = timestamp
        self._deflater = deflater
        self._tables: dict[tuple[int, bool], list[bytes]] = {}
        self.frames = 0
        self.octets = 0
        self.conflated = 0
        self._skipped: dict[int, int] = {}
        for row in rows:
            skipped = row.value.version - row.sent_version - 1
            if skipped > 0:
                self._skipped[row.index] = skipped
            row.sent_version = row.value.version

    def to(self, tokens: TokenSet) -> Iterator[tuple[Write, bytes]]:
        """Each live member's write and its frames; the numbers are taken as it yields."""
        for deflated, members in tokens.live.items():
            if members:
                yield from self._cohort(tokens, members, deflated)

    def _cohort(self, tokens: TokenSet, members: dict[Session, Write], deflated: bool) -> Iterator[tuple[Write, bytes]]:
        templates: dict[int, bytes] = {}
        template = b""
        count = floor = ceiling = frames = octets = 0
        for session, write in members.items():
            first = session.sequence + 1
            if not floor <= first < ceiling:
                digit_count = digits(first)
                cached = templates.get(digit_count)
                if cached is None:
                    pieces = tokens.pick(self._table(digit_count, deflated))
                    count = len(pieces) - pieces.count(b"")
                    if not count:
                        return
                    cached = templates[digit_count] = b"".join(pieces)
                template = cached
                floor = next_power(digit_count - 1)
                ceiling = next_power(digit_count) - count + 1
                if first >= ceiling:  # this client's numbers grow by a digit within the tick
                    data = self._across(tokens, first, deflated)
                    session.sequence += count
                    frames += count
                    octets += len(data)
                    yield write, data
                    continue
            last = first + count
            data = template % tuple(range(first, last))
            session.sequence = last - 1
            frames += count
            octets += len(data)
            yield write, data
        self.frames += frames
        self.octets += octets
        if self._skipped:
            self.conflated += len(members) * sum(self._skipped.get(index, 0) for index in tokens.indices)

    def _across(self, tokens: TokenSet, first: int, deflated: bool) -> bytes:
        chunks: list[bytes] = []
        number = first
        for row in tokens.rows:
            piece = self._table(digits(number), deflated)[row.index]
            if piece:
                chunks.append(piece % number)
                number += 1
        return b"".join(chunks)

    def _table(self, digit_count: int, deflated: bool) -> list[bytes]:
        """A template per row of the board, empty where nothing changed."""
        key = (digit_count, deflated)
        table = self._tables.get(key)
        if table is None:
            deflater = self._deflater if deflated else None
            table = [b""] * self._board_size
            for row in self._rows:
                table[row.index] = frame_template(TOKEN_UPDATE, self._timestamp, row.payload(), digit_count, deflater)
            self._tables[key] = table
        return table
