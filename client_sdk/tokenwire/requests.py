"""What an application asked for, and what became of it."""

from typing import Final, Literal

from tokenwire.cuts import cut
from tokenwire.errors import TokenwireError
from tokenwire_schemas.limits import MAX_TOKEN_NAME_CHARS

__all__ = ["CANCELLED", "REJECTED", "Request", "Verb", "is_usable"]

Verb = Literal["subscribe", "unsubscribe"]

CANCELLED: Final = "CANCELLED"
"""The name was unsubscribed before its subscribe was answered."""
REJECTED: Final = "REJECTED"
"""The server refused the name and did not say why."""

_MAX_MESSAGES: Final = 100


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
        text = cut(message)
        if len(self.messages) < _MAX_MESSAGES and text not in self.messages:
            self.messages.append(text)

    def fail(self, error: TokenwireError) -> None:
        """The request cannot be carried out."""
        if not self.done:
            self.error = error


def is_usable(name: str) -> bool:
    """Whether ``name`` can be sent at all; the rest is for the server to judge."""
    return 0 < len(name) <= MAX_TOKEN_NAME_CHARS and name.encode("utf-8", "replace").decode() == name
