"""Where numbers are given to what many sessions get alike: one template for all of them, filled for each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from tokenwire_server.core.ring import Ledger, Run
from tokenwire_server.core.wire import digits, next_power

if TYPE_CHECKING:
    from tokenwire_server.core.session import Session

__all__ = ["Tally", "Templates", "Write", "numbered"]

Write = Callable[[bytes], None]


class Templates(ABC):
    """The ``count`` frames that all members get, but for their numbers."""

    __slots__ = ("_templates", "count")

    def __init__(self, count: int) -> None:
        self.count = count
        self._templates: dict[int, bytes] = {}

    @abstractmethod
    def frames(self, digit_count: int) -> list[bytes]:
        """Each frame with a ``%d`` for a number of ``digit_count`` digits."""

    def of(self, digit_count: int) -> bytes:
        """All of them as one."""
        template = self._templates.get(digit_count)
        if template is None:
            template = self._templates[digit_count] = b"".join(self.frames(digit_count))
        return template

    def across(self, first: int) -> bytes:
        """The finished frames from number ``first`` on, when the numbers are not all of one length."""
        chunks: list[bytes] = []
        frames: list[bytes] = []
        limit = 0
        for index, number in enumerate(range(first, first + self.count)):
            if number >= limit:
                frames = self.frames(digits(number))
                limit = next_power(digits(number))
            chunks.append(frames[index] % number)
        return b"".join(chunks)


class Tally(Protocol):
    """Counts what was yielded: numbered frames and bytes."""

    frames: int
    octets: int


def numbered(
    members: "Mapping[Session, Write]", templates: Templates, runs: tuple[Run, ...], ledger: Ledger, tally: Tally
) -> Iterator[tuple[Write, bytes]]:
    """Each member's write and its frames; the numbers are taken, and ``runs`` kept for a replay, as it yields."""
    template = b""
    floor = ceiling = served = octets = 0
    count = templates.count
    try:
        for session, write in members.items():
            first = session.sequence + 1
            if not floor <= first < ceiling:
                digit_count = digits(first)
                template = templates.of(digit_count)
                floor = next_power(digit_count - 1)
                ceiling = next_power(digit_count) - count + 1
            if count == 1:
                data = template % first
            elif first < ceiling:
                data = template % tuple(range(first, first + count))
            else:  # this client's numbers grow by a digit within what it gets
                data = templates.across(first)
                floor = ceiling = 0
            session.sequence += count
            served += 1
            octets += len(data)
            ring = session.ring
            if ring is not None:
                for run in runs:
                    ring.push(first, run)
                    first += run.count
            yield write, data
    finally:
        tally.frames += served * count
        tally.octets += octets
        if served:
            for run in runs:
                ledger.hold(run, served)
