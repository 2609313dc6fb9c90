"""Subscription messages on their way: which may be sent, which answer belongs to which (I-18 to I-21, I-53).

Without ``details`` replies do not name their request, so requests go one at a time and answers are matched in order.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import UNSET

from tokenwire.exchange import Exchange, wire_bytes
from tokenwire.requests import Request, Verb
from tokenwire_schemas.extension_messages import ExtendedErrorData, ExtendedSubscriptionData
from tokenwire_schemas.limits import MAX_BATCH, MAX_MESSAGE_BYTES

__all__ = ["Entries", "Exchanges"]

_MAX_FLYING: Final = 8
_MAX_MISSES: Final = 3
_MAX_COUNT_CHARS: Final = 16
_MAX_REQUEST_BYTES: Final = 131_072
_MIN_REQUEST_BYTES: Final = 1_024
_GRACE_MS: Final = 1_000  # for the second half of an answer …
_BLIND_GRACE_MS: Final = 3_000  # … and without ids, when taking an answer for over too early would mix up two; there
# it runs from the next message on: a stream that stands still says nothing about what is under way
Entries = Iterable[tuple[str, tuple[str, ...]]]
"""Tokens for the wire, each with the application's names behind it."""


class Exchanges:
    """Messages that wait for their turn, and those whose answers are awaited.

    ``details``: the server answers with ids. ``max_batch`` and ``max_bytes`` bound one message.
    """

    __slots__ = (
        "_count",
        "_flying",
        "_late",
        "_strays",
        "details",
        "max_batch",
        "max_bytes",
        "partial",
        "prefix",
        "queue",
    )

    def __init__(self) -> None:
        self.prefix = "r"
        """Of request ids: a resumed session still answers what an earlier process asked, so ids must differ."""
        self.details = False
        self.max_batch = MAX_BATCH
        self.max_bytes = _MAX_REQUEST_BYTES
        self.queue: deque[Exchange] = deque()
        self.partial = 0
        """How many answers are incomplete."""
        self._flying: dict[str, Exchange] = {}
        self._strays: list[tuple[Verb, tuple[str, ...]]] = []
        self._late = 0  # answers that may still come to what was sent again, or given up
        self._count = 0

    def set_limits(self, max_batch: int, max_message_bytes: int) -> None:
        """The server's limits, within reason. A message holds each address twice if its version is known."""
        self.max_batch = min(max(max_batch, 1), MAX_BATCH)
        share = min(max_message_bytes, MAX_MESSAGE_BYTES) // 4
        self.max_bytes = min(max(share, _MIN_REQUEST_BYTES), _MAX_REQUEST_BYTES)

    def clear(self) -> None:
        """Nothing waits and nothing is awaited any more."""
        self.queue.clear()
        self._flying.clear()
        self._strays.clear()
        self.partial = self._late = 0

    # --- sending ----------------------------------------------------------------------------------------------

    def put(self, action: Verb, entries: Entries, requests: list[Request]) -> None:
        """Queues entries, in the message that waits last if there is room, in further ones as needed."""
        exchange = self.queue[-1] if self.queue else None
        room = 0
        if exchange is not None and exchange.action == action and exchange.tries == 0:
            room = self.max_batch - len(exchange.wire)
        for token, names in entries:
            if exchange is not None and room > 0 and token in exchange.wire:
                exchange.wire[token] = tuple(dict.fromkeys((*exchange.wire[token], *names)))
                exchange.requests.update(dict.fromkeys(requests))
                continue
            size = wire_bytes(token)
            if exchange is None or room <= 0 or exchange.size + size > self.max_bytes:
                exchange = self._new(action, {}, requests)
                self.queue.append(exchange)
                room = self.max_batch
            exchange.wire[token] = names
            exchange.size += size
            exchange.requests.update(dict.fromkeys(requests))
            room -= 1

    def ask_apart(self, exchange: Exchange, tokens: list[str]) -> None:
        """Queues ``tokens`` of ``exchange`` in two messages, to learn more of each."""
        half = (len(tokens) + 1) // 2
        for part in (tokens[:half], tokens[half:]):
            if part:
                apart = self._new(exchange.action, {token: exchange.wire[token] for token in part}, exchange.requests)
                apart.tries = 1  # so that nothing is merged into it
                self.queue.append(apart)

    def _new(self, action: Verb, wire: dict[str, tuple[str, ...]], requests: Iterable[Request]) -> Exchange:
        self._count += 1
        return Exchange(f"{self.prefix}{self._count}", action, wire, requests)

    @property
    def next_to_send(self) -> Exchange | None:
        """The exchange whose turn it is, if any may be sent now."""
        if not self.queue or len(self._flying) >= (_MAX_FLYING if self.details else 1):
            return None
        return self.queue[0]

    def sent(self, exchange: Exchange, now: int) -> None:
        """``exchange`` is on its way."""
        self.queue.popleft()
        exchange.sent_ms = now
        exchange.tries += 1
        self._flying[exchange.id] = exchange

    def send_again(self) -> None:
        """Everything on its way, or its answer, may be lost: send it once more, in order. The outcome is the same."""
        again = list(self._flying.values())
        self._late += 2 * len(again)  # each in two halves
        self._flying.clear()
        for exchange in reversed(again):
            exchange.restart()
            self.queue.appendleft(exchange)
        self.partial = 0

    @property
    def is_idle(self) -> bool:
        """Nothing is queued or on its way."""
        return not self.queue and not self._flying

    # --- answers ----------------------------------------------------------------------------------------------

    def match(self, data: ExtendedSubscriptionData) -> Exchange | None:
        """The message that ``data`` answers. Without ids it is the one on its way, if the answer can be its own.

        A message that was sent twice may be answered twice; the second answer is not that of the message after it.
        """
        if self.details and data.request_id is not UNSET:
            return self._flying.get(data.request_id)
        stray = (data.action, tuple(data.tokens))
        if stray in self._strays:
            self._strays.remove(stray)
            self._late += 1
            return None
        return next((exchange for exchange in self._flying.values() if exchange.takes(data)), None)

    def is_asked(self, data: ExtendedSubscriptionData) -> bool:
        """Whether ``data``, which no message on its way matches, may be a late answer to an earlier one."""
        if self.details and data.request_id is not UNSET:
            number = data.request_id.removeprefix(self.prefix)
            is_ours = number != data.request_id and number.isdecimal() and len(number) <= _MAX_COUNT_CHARS
            return is_ours and 1 <= int(number) <= self._count
        if self._late == 0:
            return False
        self._late -= 1
        return True

    def match_error(self, data: ExtendedErrorData) -> Exchange | None:
        """The message that an error may be about."""
        if not self.details:
            return next(iter(self._flying.values()), None)
        return None if data.request_id is UNSET else self._flying.get(data.request_id)

    def await_rest(self, exchange: Exchange, now: int) -> None:
        """Half of the answer came, the rest is awaited."""
        exchange.partial_ms = now
        self._count_partial()

    def _count_partial(self) -> None:
        self.partial = sum(1 for exchange in self._flying.values() if exchange.partial_ms is not None)

    def finish(self, exchange: Exchange) -> None:
        """Nothing more of an answer is awaited.

        Answers come in order, so what was expected from before ``exchange`` is not coming any more either.
        """
        self._flying.pop(exchange.id, None)
        self._count_partial()
        self._strays.clear()
        if not self.details:
            lists = [tuple(tokens) for tokens in (exchange.accepted, exchange.refused) if tokens]
            self._strays = [(exchange.action, tokens) for tokens in lists for _ in range(exchange.tries - 1)]

    def passed(self, now: int) -> list[Exchange]:
        """Another numbered message came than the rest of an answer; those whose rest can come no more.

        A server that knows ids sends both halves together. Of another one that is likely, but not sure.
        """
        halves = [exchange for exchange in self._flying.values() if exchange.partial_ms is not None]
        if self.details:
            return halves
        for exchange in halves:
            exchange.passed_ms = now if exchange.passed_ms is None else exchange.passed_ms
        return []

    # --- time -------------------------------------------------------------------------------------------------

    def _due(self, exchange: Exchange, timeout_ms: int) -> int | None:
        if exchange.passed_ms is not None:
            return exchange.passed_ms + min(_BLIND_GRACE_MS, timeout_ms)
        if exchange.partial_ms is not None:
            awaits_refusals = exchange.refused is None  # what was accepted comes first
            grace_ms = _GRACE_MS if self.details else timeout_ms if awaits_refusals else _BLIND_GRACE_MS
            return exchange.partial_ms + min(grace_ms, timeout_ms)
        return None if exchange.sent_ms is None else exchange.sent_ms + timeout_ms

    def deadline(self, timeout_ms: int) -> int | None:
        """When an answer should have come."""
        times = (self._due(exchange, timeout_ms) for exchange in self._flying.values())
        return min((due for due in times if due is not None), default=None)

    def due(self, now: int, timeout_ms: int) -> list[Exchange]:
        """Those whose answer should have come by ``now``."""
        times = [(exchange, self._due(exchange, timeout_ms)) for exchange in self._flying.values()]
        return [exchange for exchange, due in times if due is not None and now >= due]

    def give_up(self, late: Iterable[Exchange]) -> list[Exchange]:
        """Queues the unanswered once more; those that were given time enough, and so are over, are returned.

        Repetitions for other reasons do not count: without ids the answer to what was given up too early would be
        taken for that to the next message.
        """
        over: list[Exchange] = []
        for exchange in reversed(list(late)):
            del self._flying[exchange.id]
            exchange.misses += 1
            self._late += 2
            if exchange.misses < _MAX_MISSES:
                exchange.restart()
                self.queue.appendleft(exchange)
            else:
                over.append(exchange)
        return over
