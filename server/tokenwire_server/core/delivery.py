"""One tick to everybody: a template per frame and digit count, filled with each client's own numbers.

Clients with equal subscription sets and formats are a cohort: they share one template, which holds a frame for every
changed token of the set, or one batch; ``template % (n, n+1, …)`` makes all frames of one client, and one write sends
them. Where a batch is compressed, each of the cohort's groups has a template of its own, with references to what its
members got before; and where nobody of it has such a window, what its set has in common with other sets is compressed
once for all of these. Clients with other sets share the templates of the single rows. What replayable sessions got is
one run, held by all of them.
"""

from collections.abc import Iterator

from tokenwire_schemas.limits import MAX_BATCH, MAX_BATCH_BYTES
from tokenwire_server.core.board import Board, Row
from tokenwire_server.core.cohort import Cohort
from tokenwire_server.core.compression import Encoder, Piece, SharedWindow
from tokenwire_server.core.numbering import Templates, Write, numbered
from tokenwire_server.core.ring import Ledger, Run, Shared, batch_data
from tokenwire_server.core.segments import Joined, Segments
from tokenwire_server.core.session import TOKEN_BATCH, TOKEN_UPDATE
from tokenwire_server.core.tokensets import Format, TokenSet, TokenSets
from tokenwire_server.core.wire import frame_template, is_worth_compressing, piece_in

__all__ = ["Delivery"]


class Delivery:
    """The changed rows of one tick, ready to be sent to any session.

    ``frames``, ``updates``, ``octets`` and ``conflated`` count what was yielded: numbered frames, values in them,
    bytes, and versions that no frame carried because a newer one overtook them within the interval.
    """

    __slots__ = ("_alone", "_board_size", "_ledger", "_now", "_payloads", "_rows", "_segments", "_sets", "_shared",
                 "_skipped", "_tables", "_timestamp", "conflated", "frames", "octets", "updates")  # fmt: skip

    def __init__(
        self, board: Board, sets: TokenSets, ledger: Ledger, rows: list[Row], timestamp: int, now: int
    ) -> None:
        self._board_size = len(board.rows)
        self._ledger = ledger
        self._sets = sets
        self._rows = rows
        self._timestamp = timestamp
        self._now = now
        self._payloads: dict[bool, list[bytes]] = {}
        self._segments: dict[bool, Segments] = {}
        self._alone: dict[tuple[Encoder, tuple[bytes, ...]], Piece] = {}
        self._shared: dict[bool, Shared] = {}
        self._tables: dict[tuple[int, Encoder | None, bool], list[bytes]] = {}
        self.frames = 0
        self.updates = 0
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
        for form, cohort in tokens.live.items():
            payloads = [payload for payload in tokens.pick(self._table_of_payloads(form.details)) if payload]
            if payloads:
                bodies = _Bodies(self, tokens, form, payloads)
                size = len(cohort)
                yield from self._cohort(bodies, form, cohort)
                self.updates += len(payloads) * size
                if self._skipped:
                    skipped = sum(self._skipped.get(index, 0) for index in tokens.indices)
                    self.conflated += size * skipped

    def _cohort(self, bodies: "_Bodies", form: Format, cohort: Cohort) -> Iterator[tuple[Write, bytes]]:
        cohort.sent_ms = self._now
        encoder = form.encoder if bodies.are_compressed else None
        if encoder is not None:
            cohort.regroup(encoder, self._sets.windows)
            if not cohort.groups and encoder.joins:
                bodies.join_segments(encoder)
        runs = bodies.runs() if form.replayable else ()
        if encoder is not None:
            for group in (*cohort.groups, cohort.newcomers):
                if group.members:  # nothing is compressed for nobody
                    yield from numbered(group.members, _Templates(bodies, group.window), runs, self._ledger, self)
        else:  # nothing enters a window, so all of them are alike
            templates = _Templates(bodies, None)
            for group in (*cohort.groups, cohort.newcomers):
                yield from numbered(group.members, templates, runs, self._ledger, self)

    def _table_of_payloads(self, details: bool) -> list[bytes]:
        """A payload per row of the board, empty where nothing changed."""
        payloads = self._payloads.get(details)
        if payloads is None:
            payloads = self._payloads[details] = [b""] * self._board_size
            for row in self._rows:
                payloads[row.index] = row.payload(details)
            self._shared[details] = Shared(sum(map(len, payloads)))
        return payloads

    def table(self, digit_count: int, encoder: Encoder | None, details: bool) -> list[bytes]:
        """A template per row of the board, empty where nothing changed."""
        key = (digit_count, encoder, details)
        table = self._tables.get(key)
        if table is None:
            table = [b""] * self._board_size
            for row in self._rows:
                data = row.payload(details)
                table[row.index] = frame_template(TOKEN_UPDATE, self._timestamp, data, digit_count, encoder)
            self._tables[key] = table
        return table

    def joined(self, tokens: TokenSet, details: bool, encoder: Encoder) -> Joined | None:
        """One batch made of parts that other sets have as well, or None."""
        partition = self._sets.partition(tokens)
        if not partition.segments:
            return None
        segments = self._segments.get(details)
        if segments is None:
            segments = self._segments[details] = Segments(self._table_of_payloads(details))
        return segments.join(partition, encoder)

    def batch(self, data: bytes, digit_count: int, encoder: Encoder | None, piece: Piece | None) -> bytes:
        """The template of one batch."""
        return frame_template(TOKEN_BATCH, self._timestamp, data, digit_count, encoder, piece)

    def is_compressed(self, data: bytes) -> bool:
        """Whether a batch is, for those whose format has an encoder."""
        return is_worth_compressing(TOKEN_BATCH, self._timestamp, data)

    def alone(self, encoder: Encoder, batch: tuple[bytes, ...], data: bytes) -> Piece | None:
        """The form of one batch, encoded as ``data``, that stands alone; once for all whose sets changed alike."""
        if not self.is_compressed(data):
            return None
        key = (encoder, batch)  # the hash of each payload is known, that of their text would be computed
        piece = self._alone.get(key)
        if piece is None:
            piece = self._alone[key] = Piece(encoder.compress(data + b"}"), len(data) + 1, True)
        return piece

    def piece(self, window: SharedWindow, data: bytes) -> Piece | None:
        """The form of one batch for those who share ``window``; None if it is too small to be compressed."""
        return piece_in(window, TOKEN_BATCH, self._timestamp, data) if self.is_compressed(data) else None

    def run(self, payloads: tuple[bytes, ...], form: Format) -> Run:
        """What replayable sessions of one set and format keep of this tick."""
        kind = TOKEN_BATCH if form.batch else TOKEN_UPDATE
        shared = self._shared[form.details]
        return Run(kind, self._timestamp, payloads, is_batch=form.batch, shared=shared)


class _Bodies:
    """What one cohort gets in this tick: ``count`` frames. ``are_compressed``: at least one of them can be."""

    __slots__ = ("_batches", "_payloads", "_tokens", "are_compressed", "count", "datas", "delivery", "form",
                 "joined")  # fmt: skip

    def __init__(self, delivery: Delivery, tokens: TokenSet, form: Format, payloads: list[bytes]) -> None:
        self.delivery = delivery
        self.form = form
        self._tokens = tokens
        self._payloads = payloads
        self._batches = _split(payloads) if form.batch else []
        self.datas = [batch_data(batch) for batch in self._batches]
        self.joined: Piece | None = None  # the form of the only batch for those who have no window
        self.are_compressed = any(map(delivery.is_compressed, self.datas))
        self.count = len(self.datas) if form.batch else len(payloads)

    def join_segments(self, encoder: Encoder) -> None:
        """Share parts with other sets, where that is possible. The order within the batch may change."""
        if len(self._batches) == 1:
            joined = self.delivery.joined(self._tokens, self.form.details, encoder)
            if joined is not None:
                self._batches = [tuple(joined.payloads)]
                self.joined = joined.piece

    def pieces(self, window: SharedWindow | None) -> list[Piece | None]:
        """The compressed form of each batch, for those who share ``window``; None where it is not compressed."""
        delivery, encoder = self.delivery, self.form.encoder
        if window is not None:
            return [delivery.piece(window, data) for data in self.datas]
        if encoder is None or self.joined is not None:
            return [self.joined] * len(self.datas)
        return [delivery.alone(encoder, batch, data) for batch, data in zip(self._batches, self.datas, strict=True)]

    def runs(self) -> tuple[Run, ...]:
        """The same, to be kept for a replay."""
        if self.form.batch:
            return tuple(self.delivery.run(batch, self.form) for batch in self._batches)
        return (self.delivery.run(tuple(self._payloads), self.form),)

    def singles(self, digit_count: int) -> list[bytes]:
        """A template per changed token."""
        table = self.delivery.table(digit_count, self.form.encoder, self.form.details)
        return [piece for piece in self._tokens.pick(table) if piece]


class _Templates(Templates):
    """The frames of one cohort for those of it who share ``window``; they enter the window once."""

    __slots__ = ("_bodies", "_pieces")

    def __init__(self, bodies: _Bodies, window: SharedWindow | None) -> None:
        super().__init__(bodies.count)
        self._bodies = bodies
        self._pieces = bodies.pieces(window)

    def frames(self, digit_count: int) -> list[bytes]:
        bodies = self._bodies
        if not bodies.form.batch:
            return bodies.singles(digit_count)
        batch = bodies.delivery.batch
        encoder = bodies.form.encoder
        return [
            batch(data, digit_count, encoder, piece) for data, piece in zip(bodies.datas, self._pieces, strict=True)
        ]


def _split(payloads: list[bytes]) -> list[tuple[bytes, ...]]:
    """Batches of at most 1000 updates and 512 KiB."""
    empty = len(batch_data(()))
    if len(payloads) <= MAX_BATCH and empty + sum(map(len, payloads)) + len(payloads) <= MAX_BATCH_BYTES:
        return [tuple(payloads)]
    batches: list[tuple[bytes, ...]] = []
    current: list[bytes] = []
    size = empty
    for payload in payloads:
        if current and (len(current) == MAX_BATCH or size + len(payload) > MAX_BATCH_BYTES):
            batches.append(tuple(current))
            current, size = [], empty
        current.append(payload)
        size += len(payload) + 1
    batches.append(tuple(current))
    return batches
