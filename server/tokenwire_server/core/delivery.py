"""One tick to everybody: a template per frame and digit count, filled with each client's own numbers.

Clients with equal subscription sets and formats share one template, which holds a frame for every changed token of
the set, or one batch; ``template % (n, n+1, …)`` makes all frames of one client, and one write sends them. Clients
with other sets share the templates of the single rows. What replayable sessions got is one run, held by all of them.
"""

from collections.abc import Callable, Iterator

from tokenwire_schemas.limits import MAX_BATCH, MAX_BATCH_BYTES
from tokenwire_server.core.board import Board, Row
from tokenwire_server.core.ring import Run, Shared, batch_data
from tokenwire_server.core.session import TOKEN_BATCH, TOKEN_UPDATE, Session
from tokenwire_server.core.tokensets import Cohort, Format, TokenSet
from tokenwire_server.core.wire import Encoder, digits, frame_template, next_power

__all__ = ["Delivery"]

Write = Callable[[bytes], None]


class Delivery:
    """The changed rows of one tick, ready to be sent to any session.

    ``frames``, ``updates``, ``octets`` and ``conflated`` count what was yielded: numbered frames, values in them,
    bytes, and versions that no frame carried because a newer one overtook them within the interval.
    """

    __slots__ = ("_board_size", "_now", "_payloads", "_rows", "_shared", "_skipped", "_tables", "_timestamp",
                 "conflated", "frames", "octets", "updates")  # fmt: skip

    def __init__(self, board: Board, rows: list[Row], timestamp: int, now: int) -> None:
        self._board_size = len(board.rows)
        self._rows = rows
        self._timestamp = timestamp
        self._now = now
        self._payloads: dict[bool, list[bytes]] = {}
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
                yield from self._cohort(_Bodies(self, tokens, form, payloads), form, cohort)
                self.updates += len(payloads) * len(cohort.members)
                if self._skipped:
                    skipped = sum(self._skipped.get(index, 0) for index in tokens.indices)
                    self.conflated += len(cohort.members) * skipped

    def _cohort(self, bodies: "_Bodies", form: Format, cohort: Cohort) -> Iterator[tuple[Write, bytes]]:
        template = b""
        floor = ceiling = frames = octets = 0
        count = bodies.count
        runs = bodies.runs() if form.replayable else ()
        cohort.sent_ms = self._now
        for session, write in cohort.members.items():
            first = session.sequence + 1
            if not floor <= first < ceiling:
                digit_count = digits(first)
                template = bodies.template(digit_count)
                floor = next_power(digit_count - 1)
                ceiling = next_power(digit_count) - count + 1
            if first < ceiling:
                data = template % tuple(range(first, first + count))
            else:  # this client's numbers grow by a digit within the tick
                data = bodies.across(first)
                floor = ceiling = 0
            session.sequence += count
            if runs:
                _keep(session, first, runs)
            frames += count
            octets += len(data)
            yield write, data
        self.frames += frames
        self.octets += octets

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

    def batch(self, payloads: tuple[bytes, ...], digit_count: int, encoder: Encoder | None) -> bytes:
        """The template of one batch."""
        return frame_template(TOKEN_BATCH, self._timestamp, batch_data(payloads), digit_count, encoder)

    def run(self, payloads: tuple[bytes, ...], form: Format) -> Run:
        """What replayable sessions of one set and format keep of this tick."""
        kind = TOKEN_BATCH if form.batch else TOKEN_UPDATE
        shared = self._shared[form.details]
        return Run(kind, self._timestamp, payloads, is_batch=form.batch, shared=shared)


class _Bodies:
    """What one cohort gets in this tick: ``count`` frames, as templates by digit count."""

    __slots__ = ("_batches", "_delivery", "_form", "_payloads", "_templates", "_tokens", "count")

    def __init__(self, delivery: Delivery, tokens: TokenSet, form: Format, payloads: list[bytes]) -> None:
        self._delivery = delivery
        self._tokens = tokens
        self._form = form
        self._payloads = payloads
        self._batches = _split(payloads) if form.batch else []
        self._templates: dict[int, bytes] = {}
        self.count = len(self._batches) if form.batch else len(payloads)

    def template(self, digit_count: int) -> bytes:
        """All frames, each with a ``%d`` for a number of ``digit_count`` digits."""
        template = self._templates.get(digit_count)
        if template is None:
            template = self._templates[digit_count] = b"".join(self._pieces(digit_count))
        return template

    def across(self, first: int) -> bytes:
        """The finished frames from number ``first`` on, when the numbers are not all of one length."""
        chunks: list[bytes] = []
        pieces: list[bytes] = []
        limit = 0
        for index, number in enumerate(range(first, first + self.count)):
            if number >= limit:
                pieces = self._pieces(digits(number))
                limit = next_power(digits(number))
            chunks.append(pieces[index] % number)
        return b"".join(chunks)

    def runs(self) -> tuple[Run, ...]:
        """The same, to be kept for a replay."""
        if self._form.batch:
            return tuple(self._delivery.run(batch, self._form) for batch in self._batches)
        return (self._delivery.run(tuple(self._payloads), self._form),)

    def _pieces(self, digit_count: int) -> list[bytes]:
        form = self._form
        if form.batch:
            return [self._delivery.batch(batch, digit_count, form.encoder) for batch in self._batches]
        table = self._delivery.table(digit_count, form.encoder, form.details)
        return [piece for piece in self._tokens.pick(table) if piece]


def _keep(session: Session, first: int, runs: tuple[Run, ...]) -> None:
    ring = session.ring
    if ring is not None:
        for run in runs:
            ring.push(first, run)
            first += run.count


def _split(payloads: list[bytes]) -> list[tuple[bytes, ...]]:
    """Batches of at most 1000 updates and 512 KiB."""
    batches: list[tuple[bytes, ...]] = []
    current: list[bytes] = []
    empty = len(batch_data(()))
    size = empty
    for payload in payloads:
        if current and (len(current) == MAX_BATCH or size + len(payload) > MAX_BATCH_BYTES):
            batches.append(tuple(current))
            current, size = [], empty
        current.append(payload)
        size += len(payload) + 1
    batches.append(tuple(current))
    return batches
