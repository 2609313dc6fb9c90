"""What a session asked for, where that includes sets of tokens whose members the server keeps (I-80)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tokenwire_schemas.extension_messages import SetData
from tokenwire_schemas.limits import MAX_BATCH

if TYPE_CHECKING:
    from tokenwire_server.core.board import Row
    from tokenwire_server.core.topics import Topic

__all__ = ["SET_PREFIX", "Holdings", "differences"]

SET_PREFIX: Final = "set:"


class Holdings:
    """``rows`` and ``topics`` were asked for by the names of their tokens, ``sets`` maps the names of sets to channels.

    ``told`` are the members of each set that the client knows of.
    """

    __slots__ = ("rows", "sets", "told", "topics")

    def __init__(self, rows: "Sequence[Row]", topics: "Sequence[Topic]") -> None:
        self.rows: dict[Row, None] = dict.fromkeys(rows)
        self.topics: dict[Topic, None] = dict.fromkeys(topics)
        self.sets: dict[str, tuple[str, ...]] = {}
        self.told: dict[str, Sequence[str]] = {}

    @property
    def count(self) -> int:
        """Pairs of a token, or a set, and a channel."""
        return len(self.rows) + len(self.topics) + sum(map(len, self.sets.values()))

    def anew(self) -> "Holdings":
        """The same for a session whose client knows of no members."""
        copy = Holdings(tuple(self.rows), tuple(self.topics))
        copy.sets = dict(self.sets)
        return copy


def differences(name: str, before: Sequence[str], members: Sequence[str]) -> list[SetData]:
    """What a client that knows the members ``before`` is told, at most 1000 addresses at once."""
    former, present = set(before), set(members)
    removed = [address for address in before if address not in present]
    added = [address for address in members if address not in former]
    messages = []
    for first in range(0, max(len(removed) + len(added), 1), MAX_BATCH):
        gone = removed[first : first + MAX_BATCH]
        start = max(0, first - len(removed))
        new = added[start : max(0, first + MAX_BATCH - len(removed))]
        messages.append(SetData(name, new, gone, len(members)))
    return messages
