"""Subscription messages on their way: which may be sent, which answer belongs to which (I-18 to I-21, I-53).

Without ``details`` replies do not name their request, so requests go one at a time and answers are matched in order.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET

from tokenwire.requests import Request, Verb
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_schemas.extension_messages import (
    ExtendedErrorData,
    ExtendedSubscriptionData,
    SubscriptionRequest,
    SubscriptionRequestData,
)
from tokenwire_schemas.limits import MAX_BATCH, MAX_MESSAGE_BYTES, MAX_TOKEN_NAME_CHARS

__all__ = ["Entries", "Exchange", "Exchanges", "echo"]

_MAX_FLYING: Final = 8
_MAX_MISSES: Final = 3
_MAX_REQUEST_BYTES: Final = 131_072
_MIN_REQUEST_BYTES: Final = 1_024
_GRACE_MS: Final = 1_000  # for the second half of an answer …
_BLIND_GRACE_MS: Final = 3_000  # … and without ids, when taking an answer for over too early would mix up two; there
# it runs from the next message on: a stream that stands still says nothing about what is under way
_REFUSES_ALL: Final = frozenset(
    {
        ErrorCode.INVALID_JSON,
        ErrorCode.INVALID_MESSAGE,
        ErrorCode.UNKNOWN_TYPE,
        ErrorCode.INVALID_ACTION,
        ErrorCode.BATCH_LIMIT,
    }
)
"""A message refused with these is answered by nothing else (I-25)."""

_encoder: Final = msgspec.json.Encoder()

Entries = Iterable[tuple[str, tuple[str, ...]]]
"""Tokens for the wire, each with the application's names behind it."""


class Exchange:
    """One subscription message and its replies.

    ``wire`` maps each entry of ``tokens`` to the application's names behind it.
    """

    __slots__ = (
        "accepted",
        "action",
        "codes",
        "id",
        "misses",
        "partial_ms",
        "passed_ms",
        "refused",
        "requests",
        "sent_ms",
        "size",
        "tries",
        "wire",
    )

    def __init__(
        self, identity: str, action: Verb, wire: dict[str, tuple[str, ...]], requests: Iterable[Request]
    ) -> None:
        self.id = identity
        self.action: Verb = action
        self.wire = wire
        self.size = sum(map(_wire_bytes, wire))
        """Bytes of the tokens, about."""
        self.requests = dict.fromkeys(requests)
        self.accepted: list[str] | None = None
        self.refused: dict[str, None] | None = None
        self.codes: dict[str, str] = {}
        self.sent_ms: int | None = None
        self.tries = 0
        self.misses = 0
        """How often no answer came in time."""
        self.partial_ms: int | None = None
        """Since when (ms) the answer is incomplete."""
        self.passed_ms: int | None = None
        """When something else came instead of the rest."""

    def restart(self) -> None:
        """It will be sent again: what was answered so far does not count."""
        self.accepted = self.refused = self.partial_ms = self.passed_ms = self.sent_ms = None
        self.codes = {}

    def encode(self, sequence: int, timestamp: int, *, with_id: bool, known: dict[str, int], stream: str | None) -> str:
        """The message as text; ``known`` and ``stream`` only if there is something known (I-55)."""
        data = SubscriptionRequestData(
            self.action,
            list(self.wire),
            self.id if with_id else UNSET,
            known if known and stream is not None else UNSET,
            stream if known and stream is not None else UNSET,
        )
        return _encoder.encode(SubscriptionRequest(sequence=sequence, timestamp=timestamp, data=data)).decode()

    @property
    def answered(self) -> int:
        """How many of its tokens were accepted or refused."""
        return len(self.accepted or ()) + len(self.refused or ())

    @property
    def is_complete(self) -> bool:
        """Every token was accepted, or refused with a reason."""
        return self.answered >= len(self.wire) and all(token in self.codes for token in self.refused or ())

    def takes(self, data: ExtendedSubscriptionData) -> bool:
        """Whether ``data`` can be an answer to this message, as far as its content tells."""
        if self.action != data.action or self.has_half(data):
            return False
        if data.status == "success":
            return len(data.tokens) <= len(self.wire) - self.answered
        echoes = {echo(token) for token in self.wire}
        return all(token in echoes for token in data.tokens)

    def has_half(self, data: ExtendedSubscriptionData) -> bool:
        """Whether the half of the answer that ``data`` is was here before: a message sent twice is answered twice."""
        return (self.accepted if data.status == "success" else self.refused) is not None

    def reply(self, data: ExtendedSubscriptionData) -> None:
        """Notes half of the answer: what was accepted, or what was refused."""
        if data.status == "success":
            self.accepted = list(data.tokens)
            return
        self.refused = dict.fromkeys(data.tokens)
        if data.rejected is not UNSET:
            self.codes.update((one.token, one.code) for one in data.rejected)

    def error(self, data: ExtendedErrorData) -> list[str]:
        """Notes the reason of a refusal; the tokens it concerns."""
        tokens = [] if data.tokens is UNSET else list(data.tokens)
        if self.accepted is None and self.refused is None and data.level == "error" and data.code in _REFUSES_ALL:
            self.accepted = []
            self.refused = {echo(token): None for token in self.wire}
            self.codes = dict.fromkeys(self.refused, data.code)
            tokens = list(self.refused)
        elif self.refused is None or not _is_reason(data.code):
            return tokens
        elif tokens:
            self.codes.update((token, data.code) for token in tokens if token in self.refused)
        else:
            open_ones = [token for token in self.refused if token not in self.codes]
            # A reason that names nobody may be followed by others: it stands for all until they come.
            tokens = [token for token in open_ones if token in data.message] or open_ones
            self.codes.update(dict.fromkeys(tokens, data.code))
        for request in self.requests:
            request.say(data.message)
        return tokens


class Exchanges:
    """Messages that wait for their turn, and those whose answers are awaited.

    ``details``: the server answers with ids. ``max_batch`` and ``max_bytes`` bound one message.
    """

    __slots__ = ("_count", "_flying", "_strays", "details", "max_batch", "max_bytes", "partial", "prefix", "queue")

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
        self.partial = 0

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
            size = _wire_bytes(token)
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
            return None
        return next((exchange for exchange in self._flying.values() if exchange.takes(data)), None)

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
            if exchange.misses < _MAX_MISSES:
                exchange.restart()
                self.queue.appendleft(exchange)
            else:
                over.append(exchange)
        return over


def _is_reason(code: str) -> bool:
    """Whether an error with this code can be the reason of a refusal; trouble with the connection cannot."""
    try:
        return CATALOGUE[ErrorCode(code)].category == "subscription"
    except ValueError:
        return True


def _wire_bytes(token: str) -> int:
    return len(token.encode()) + 3


def echo(token: str) -> str:
    """``token`` as the server repeats it (I-21)."""
    return token[:MAX_TOKEN_NAME_CHARS]
