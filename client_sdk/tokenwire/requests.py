"""What an application asked for, and the messages that carry it."""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from tokenwire.errors import TokenwireError
from tokenwire_schemas.extension_messages import SubscriptionRequest, SubscriptionRequestData

__all__ = ["CANCELLED", "REJECTED", "Exchange", "Request", "Verb"]

Verb = Literal["subscribe", "unsubscribe"]

CANCELLED: Final = "CANCELLED"
"""The name was unsubscribed before its subscribe was answered."""
REJECTED: Final = "REJECTED"
"""The server refused the name and did not say why."""

_MAX_MESSAGES: Final = 100
_encoder: Final = msgspec.json.Encoder()


class Request:
    """A subscribe or unsubscribe of the application. Read ``done``; it becomes true once and stays so.

    ``accepted`` maps names to addresses, ``rejected`` names to the code of their refusal, ``messages`` are the
    server's words about it. ``error`` is set when the request could not be carried out as a whole.
    """

    __slots__ = ("accepted", "action", "error", "id", "messages", "names", "rejected", "waiting")

    def __init__(self, number: int, action: Verb, names: tuple[str, ...]) -> None:
        self.id = number
        self.action: Verb = action
        self.names = names
        self.accepted: dict[str, str] = {}
        self.rejected: dict[str, str] = {}
        self.messages: list[str] = []
        self.error: TokenwireError | None = None
        self.waiting: set[str] = set(names)
        """Names without an answer yet."""

    @property
    def done(self) -> bool:
        """Whether every name has its answer, or the request failed as a whole."""
        return not self.waiting or self.error is not None

    def accept(self, name: str, address: str) -> None:
        """The server took ``name`` as the token ``address``."""
        if name in self.waiting:
            self.waiting.discard(name)
            self.accepted[name] = address

    def reject(self, name: str, code: str) -> None:
        """The server refused ``name``."""
        if name in self.waiting:
            self.waiting.discard(name)
            self.rejected[name] = code

    def say(self, message: str) -> None:
        """Words of the server about this request."""
        if len(self.messages) < _MAX_MESSAGES and message not in self.messages:
            self.messages.append(message)

    def fail(self, error: TokenwireError) -> None:
        """The request cannot be carried out."""
        if not self.done:
            self.error = error


class Exchange:
    """One subscription message and its replies.

    ``wire`` maps each entry of ``tokens`` to the application's names behind it.
    """

    __slots__ = (
        "accepted",
        "action",
        "codes",
        "id",
        "partial_ms",
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
        self.size = 0
        """Bytes of the tokens, about."""
        self.requests = dict.fromkeys(requests)
        self.accepted: list[str] | None = None
        self.refused: dict[str, None] | None = None
        self.codes: dict[str, str] = {}
        self.sent_ms: int | None = None
        self.tries = 0
        self.partial_ms: int | None = None
        """Since when (ms) the answer is incomplete."""

    def restart(self) -> None:
        """It will be sent again: what was answered so far does not count."""
        self.accepted = self.refused = self.partial_ms = self.sent_ms = None
        self.codes = {}

    def encode(self, sequence: int, timestamp: int, *, with_id: bool, known: dict[str, int], stream: str | None) -> str:
        """The message as text; ``known`` and ``stream`` only if there is something known (I-55)."""
        data = SubscriptionRequestData(
            self.action,
            list(self.wire),
            self.id if with_id else msgspec.UNSET,
            known if known and stream is not None else msgspec.UNSET,
            stream if known and stream is not None else msgspec.UNSET,
        )
        return _encoder.encode(SubscriptionRequest(sequence=sequence, timestamp=timestamp, data=data)).decode()
