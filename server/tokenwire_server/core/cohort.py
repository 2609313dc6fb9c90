"""Cohorts: who gets the same bytes, but for the numbers; and within them, who can decode the same references.

A client that begins to share a window must be sent one message that stands alone, and from then on every message of
its group. Who could not keep up, or was sent something compressed of its own, is a newcomer again. Newcomers found a
group together; when there are groups enough, they wait until they are as many as the smallest one, which then joins
them: so a client is moved seldom (its group doubles every time), and a cohort never compresses more than five times.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tokenwire_schemas.limits import MAX_COHORT_WINDOWS, MAX_WINDOWS
from tokenwire_server.core.compression import Encoder, SharedWindow

if TYPE_CHECKING:
    from tokenwire_server.core.session import Session

__all__ = ["Cohort", "Group", "Windows"]

Write = Callable[[bytes], None]


class Group:
    """Members of a cohort, each with its socket's write, whose decompressors know the same: ``window``, or nothing."""

    __slots__ = ("cohort", "members", "window")

    def __init__(self, cohort: "Cohort") -> None:
        self.cohort = cohort
        self.members: dict[Session, Write] = {}
        self.window: SharedWindow | None = None

    def __len__(self) -> int:
        return len(self.members)


class Windows:
    """The groups of an instance that share a window: at most so many, the largest ones."""

    __slots__ = ("_groups", "_least", "_most")

    def __init__(self, most: int = MAX_WINDOWS) -> None:
        self._most = most
        self._groups: dict[Group, None] = {}
        self._least = 0  # no group was smaller when last looked at

    def __len__(self) -> int:
        return len(self._groups)

    def give(self, group: Group, encoder: Encoder) -> bool:
        """Give ``group`` a window; False if there are none left, and no group is less than half as large."""
        size = len(group)
        if len(self._groups) >= self._most:
            if 2 * self._least >= size:
                return False
            smallest = min(self._groups, key=len)
            self._least = len(smallest)
            if 2 * self._least >= size:
                return False
            smallest.cohort.dissolve(smallest, self)
        group.window = encoder.window(size)
        self._groups[group] = None
        return True

    def take(self, group: Group) -> None:
        """``group`` has no window any more."""
        self._groups.pop(group, None)
        self._least = 0

    def clear(self) -> None:
        """Take all windows."""
        for group in list(self._groups):
            group.cohort.dissolve(group, self)

    def sweep(self) -> None:
        """Take the windows of groups that everybody left. Asked once a tick: groups may have shrunk."""
        self._least = 0
        for group in [group for group in self._groups if not group.members]:
            group.cohort.dissolve(group, self)


class Cohort:
    """Live sessions with one set and one format. ``sent_ms``: when they last got data."""

    __slots__ = ("groups", "newcomers", "sent_ms")

    def __init__(self) -> None:
        self.newcomers = Group(self)
        self.groups: list[Group] = []  # those with a window
        self.sent_ms = 0

    def __len__(self) -> int:
        return len(self.newcomers) + sum(map(len, self.groups))

    def sessions(self) -> "list[Session]":
        """All members."""
        return [session for group in (*self.groups, self.newcomers) for session in group.members]

    def add(self, session: "Session") -> None:
        """A newcomer."""
        session.group = self.newcomers
        self.newcomers.members[session] = session.write

    def discard(self, session: "Session") -> None:
        """``session`` leaves."""
        if session.group is not None:
            session.group.members.pop(session, None)
            session.group = None

    def dissolve(self, group: Group, windows: Windows) -> None:
        """The members of a group of this cohort are newcomers again."""
        windows.take(group)
        self.groups.remove(group)
        newcomers = self.newcomers
        for session in group.members:
            session.group = newcomers
        newcomers.members.update(group.members)
        group.members = {}

    def regroup(self, encoder: Encoder, windows: Windows) -> None:
        """Newcomers found a group, if it is time. Asked before all of the cohort are sent something compressed."""
        if not self.newcomers.members or not encoder.shares:
            return
        if len(self.groups) >= MAX_COHORT_WINDOWS:
            smallest = min(self.groups, key=len)
            if len(self.newcomers) < len(smallest):
                return
            self.dissolve(smallest, windows)
        if windows.give(self.newcomers, encoder):
            self.groups.append(self.newcomers)
            self.newcomers = Group(self)
