"""One subscription message and what is known of its answer (I-19 to I-21, I-25, I-53)."""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET

from tokenwire.cuts import MAX_CODE_CHARS, cut
from tokenwire.requests import Request, Verb
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_schemas.extension_messages import (
    ExtendedErrorData,
    ExtendedSubscriptionData,
    SubscriptionRequest,
    SubscriptionRequestData,
)
from tokenwire_schemas.limits import MAX_TOKEN_NAME_CHARS

__all__ = ["Exchange", "echo", "wire_bytes"]

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
        self.size = sum(map(wire_bytes, wire))
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

    def encode(
        self,
        sequence: int,
        timestamp: int,
        *,
        with_id: bool,
        known: dict[str, int],
        stream: str | None,
        channel: str = "",
    ) -> str:
        """The message as text; ``known`` and ``stream`` only if there is something known (I-55).

        With a ``channel`` it is for that alone, and ``known`` are the numbers of its last events (I-61).
        """
        is_known = bool(known) and stream is not None
        data = SubscriptionRequestData(
            self.action,
            list(self.wire),
            self.id if with_id else UNSET,
            known if is_known and not channel else UNSET,
            stream if is_known and stream is not None else UNSET,
            [channel] if channel else UNSET,
            known if is_known and channel else UNSET,
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

    def contradicts(self, data: ExtendedSubscriptionData) -> bool:
        """Whether ``data`` cannot be the rest of the answer: one name would be both accepted and refused, or more."""
        if self.action != data.action or len(data.tokens) > len(self.wire) - self.answered:
            return True
        if data.status == "success":
            return False
        echoes = {echo(token) for token in self.wire}
        return not all(token in echoes for token in data.tokens)

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
            self.codes.update((one.token, cut(one.code, MAX_CODE_CHARS)) for one in data.rejected)

    def error(self, data: ExtendedErrorData) -> list[str]:
        """Notes the reason of a refusal; the tokens it concerns."""
        tokens = [] if data.tokens is UNSET else list(data.tokens)
        code = cut(data.code, MAX_CODE_CHARS)
        if self.accepted is None and self.refused is None and data.level == "error" and data.code in _REFUSES_ALL:
            self.accepted = []
            self.refused = {echo(token): None for token in self.wire}
            self.codes = dict.fromkeys(self.refused, code)
            tokens = list(self.refused)
        elif self.refused is None or not _is_reason(data.code):
            return tokens
        elif tokens:
            self.codes.update((token, code) for token in tokens if token in self.refused)
        else:
            open_ones = [token for token in self.refused if token not in self.codes]
            # A reason that names nobody may be followed by others: it stands for all until they come.
            tokens = [token for token in open_ones if token in data.message] or open_ones
            self.codes.update(dict.fromkeys(tokens, code))
        for request in self.requests:
            request.say(data.message)
        return tokens


def _is_reason(code: str) -> bool:
    """Whether an error with this code can be the reason of a refusal; trouble with the connection cannot."""
    try:
        return CATALOGUE[ErrorCode(code)].category == "subscription"
    except ValueError:
        return True


def wire_bytes(token: str) -> int:
    """About how many bytes ``token`` takes in a message."""
    return len(token.encode()) + 3


def echo(token: str) -> str:
    """``token`` as the server repeats it (I-21)."""
    return token[:MAX_TOKEN_NAME_CHARS]
