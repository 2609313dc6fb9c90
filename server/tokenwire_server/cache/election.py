"""Who of several instances leads, by a lock with a lease: one instance's part, without a clock or a network.

The shell says whether this instance may lead, asks what is due, asks the cache, and tells the answer. A leader goes on
leading while the cache can't be reached, as nobody else can be told anything then either; it ends when it hears that
another one has the lock, or when it may not lead any more: then it lets go of the lock, so that another one need not
wait for the end of the lease. What keeps the work of two apart in between is the fence: the cache takes nothing of an
earlier leader once there is a later one.
"""

from enum import StrEnum
from typing import Final

from tokenwire_server.cache.port import Grant

__all__ = ["CHECK_MS", "LEASE_MS", "RENEW_MS", "RETRY_MS", "Due", "Election"]

LEASE_MS: Final = 10_000  # so long after its last word a leader's place is free
RENEW_MS: Final = 3_000
CHECK_MS: Final = 250  # at most, between two looks at whether this instance may lead
RETRY_MS: Final = 1_000  # at most, between the end of a lease and the next attempt to take its place


class Due(StrEnum):
    """What to ask the cache now."""

    NOTHING = "nothing"
    ACQUIRE = "acquire"
    RENEW = "renew"
    RELEASE = "release"


class Election:
    """``now_ms`` is a clock that never goes back, the same in all calls."""

    def __init__(self) -> None:
        self.fence = 0
        """What the lock was granted with; 0: another one leads, or nobody."""
        self.may_hold = False
        """Whether the lock may be this instance's, as far as it knows."""
        self._may_lead = False
        self._may_renew = False
        self._next_ms = 0

    @property
    def leads(self) -> bool:
        """Whether this instance leads, as far as it knows."""
        return self.fence > 0

    def allow(self, *, may_lead: bool) -> None:
        """Whether this instance may lead from now on; at first it may not. One that may not any more stops at once."""
        if self._may_lead and not may_lead:
            self.fence = 0
            self._may_renew = False
            self._next_ms = 0
        self._may_lead = may_lead

    def due(self, now_ms: int) -> Due:
        """What to ask now."""
        if now_ms < self._next_ms:
            return Due.NOTHING
        if not self._may_lead:
            return Due.RELEASE if self.may_hold else Due.NOTHING
        return Due.RENEW if self._may_renew else Due.ACQUIRE

    def wait_ms(self, now_ms: int) -> int:
        """How long to wait before the next look: nothing is due until then, unless it may not lead any more."""
        left_ms = self._next_ms - now_ms
        return min(left_ms, CHECK_MS) if left_ms > 0 else CHECK_MS

    def granted(self, grant: Grant, now_ms: int) -> None:
        """The answer to ``ACQUIRE``, which was asked at ``now_ms``."""
        self.fence = grant.fence
        self.may_hold = self._may_renew = grant.fence > 0
        self._next_ms = now_ms + (RENEW_MS if grant.fence else min(grant.free_in_ms + 1, RETRY_MS))

    def renewed(self, is_held: bool, now_ms: int) -> None:
        """The answer to ``RENEW``. If the lease ran out, whoever asks first gets the lock: ask at once."""
        self.may_hold = self._may_renew = is_held
        self._next_ms = now_ms + RENEW_MS if is_held else now_ms

    def released(self, now_ms: int) -> None:
        """The answer to ``RELEASE``: the lock is another one's, or free for whoever may lead."""
        self.may_hold = False
        self._next_ms = now_ms + RETRY_MS

    def unanswered(self, now_ms: int) -> None:
        """The cache gave no answer, and may have done what was asked."""
        self.may_hold = True
        self._next_ms = now_ms + RETRY_MS

    def fenced(self, fence: int) -> None:
        """The cache refused what this one published with ``fence``: another one leads, or all data were lost. Ask at
        once, unless a later fence was granted meanwhile."""
        if fence != self.fence:
            return
        self.fence = 0
        self._may_renew = False
        self._next_ms = 0
