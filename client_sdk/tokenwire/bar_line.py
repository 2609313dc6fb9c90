"""The bars of one token in order: every closed one, the open one as it changes. Pure."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from tokenwire.channels import Bar

__all__ = ["MAX_WAITING", "BarLine"]

MAX_WAITING: Final = 5_000
"""Bars that wait for the application; when there are more they are let go of, and fetched when it is their turn."""


class BarLine:
    """Takes bars as they come, gives them out in order, of an open one only the newest form.

    ``wants_from_ms`` is where bars have to be fetched from before it goes on (their ``open_ms``), None if nothing is
    missing. A bar that was given out comes again only if trades were added to it. ``missed`` of a bar says that others
    before it may never come.

    What is fetched may come from another server than what arrives, and that one may be behind. So it must reach up to
    the first bar that arrived since something was missed (:meth:`reaches`): all before that one had closed by then.
    """

    __slots__ = (
        "_base_ms", "_begun_ms", "_closed_ms", "_counts", "_first_ms", "_has_missed", "_held", "_is_again",
        "_is_joined", "_lost_ms", "_ready", "_revised_ms", "_until_ms", "wants_from_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.wants_from_ms: int | None = None
        self._ready: OrderedDict[int, Bar] = OrderedDict()  # by beginning, in the order in which they are given out
        self._held: OrderedDict[int, Bar] = OrderedDict()  # that came while others were being fetched
        self._lost_ms: int | None = None  # of these, the first that found no room
        self._begun_ms: int | None = None  # where bars were wanted from first: nothing may have been there yet
        self._closed_ms: int | None = None  # beginning of the newest closed bar that was taken in
        self._counts: OrderedDict[int, tuple[bool, int]] = OrderedDict()  # what was taken in of the newest bars
        self._has_missed = False  # the next bar tells of it
        self._is_again = False  # something was missed while others were being fetched, perhaps after their answer
        self._is_joined = True  # what arrives follows what was fetched
        self._first_ms: int | None = None  # until then: the beginning of the first bar that arrived
        self._revised_ms = 0  # and the end of the newest that was revised and had not come
        self._until_ms: int | None = None  # and how far what was fetched reaches
        self._base_ms: int | None = None  # and the newest closed bar before which nothing is missing

    def push(self, bar: Bar) -> None:
        """A bar arrived."""
        if not self._is_joined:
            self._join(bar)
        if self.wants_from_ms is not None:  # what is fetched may be older than this, and does not have it
            self._held.pop(bar.open_ms, None)
            self._held[bar.open_ms] = bar
            while len(self._held) > MAX_WAITING:
                self._lost_ms = min(self._lost_ms or bar.open_ms, self._held.popitem(last=False)[0])
            return
        if len(self._ready) >= MAX_WAITING:
            self.begin_anew()
            return
        self._take_in(bar)

    def begin_anew(self, *, is_new: bool = False) -> None:
        """Bars may have been missed: those from the last closed one on are wanted.

        ``is_new``: what follows is of another lineage, which may know less of the open bar, and of those before it.
        """
        self._look_for_first(self._newest_closed_ms() if self._is_joined else self._base_ms)
        if self.wants_from_ms is None:
            self.wants_from_ms = self._base_ms
        else:
            self._is_again = True
        if is_new and self._counts:
            self._has_missed = True
            for open_ms in [open_ms for open_ms, (closed, _) in self._counts.items() if not closed]:
                del self._counts[open_ms]

    def want(self, from_ms: int) -> None:
        """Bars from this beginning on are wanted."""
        self.wants_from_ms = self._begun_ms = from_ms
        self._look_for_first(from_ms)

    def reaches(self, until_ms: int) -> bool:
        """Whether bars from a server that knows all that closed by ``until_ms`` (Unix ms of event time) leave no hole
        in front of what arrived."""
        return self._is_joined or max(self._first_ms or 0, self._revised_ms) <= until_ms

    def fetched(
        self, bars: Sequence[Bar], *, is_all: bool, has_missed: bool = False, until_ms: int | None = None
    ) -> None:
        """Some of what is wanted, ascending. ``has_missed``: the rest can't be had. ``until_ms``: as of
        :meth:`reaches`, which it does; None from a server that does not say."""
        self._has_missed = self._has_missed or has_missed
        for bar in bars:
            self._take_in(bar)
            if bar.closed:
                self._base_ms = max(self._base_ms or 0, bar.open_ms)
        if is_all:
            begins = [self._lost_ms, self._base_ms if self._is_again else None]
            self.wants_from_ms = min((ms for ms in begins if ms is not None), default=None)
            if not self._is_again:
                self._is_joined = until_ms is None or self._first_ms is not None
                self._until_ms = until_ms
                self._revised_ms = 0
            self._lost_ms, self._is_again = None, False
            if self.wants_from_ms is None:
                for bar in self._held.values():
                    self._take_in(bar)
                self._held.clear()
        elif bars:
            self.wants_from_ms = bars[-1].open_ms

    @property
    def waiting(self) -> int:
        """How many can be taken."""
        return len(self._ready)

    def take(self) -> Bar | None:
        """The next bar; None while there is none."""
        return self._ready.popitem(last=False)[1] if self._ready else None

    def _look_for_first(self, base_ms: int | None) -> None:
        self._is_joined, self._first_ms, self._until_ms, self._base_ms = False, None, None, base_ms
        self._revised_ms = 0

    def _join(self, bar: Bar) -> None:
        """A bar since something was missed: does it follow what was fetched before it came?"""
        if bar.revision:  # it may be as old as it likes, and says nothing unless it is one that should have come
            if self._base_ms is not None and bar.open_ms > self._base_ms and bar.open_ms not in self._counts:
                self._revised_ms = max(self._revised_ms, bar.close_ms)
                if self.wants_from_ms is None:
                    self.wants_from_ms = self._base_ms
            return
        if self._first_ms is not None:
            return
        self._first_ms = bar.open_ms
        if self.wants_from_ms is not None:
            return  # to be seen by what is being fetched
        if self._until_ms is None or bar.open_ms <= self._until_ms:
            self._is_joined = True
        else:
            self.wants_from_ms = self._base_ms
            self._is_joined = self.wants_from_ms is None

    def _newest_closed_ms(self) -> int | None:
        """The beginning of the newest closed bar, else of the first one that is known, else what was wanted first."""
        return self._closed_ms if self._closed_ms is not None else next(iter(self._counts), self._begun_ms)

    def _take_in(self, bar: Bar) -> None:
        form = (bar.closed, bar.trades or 0)
        before = self._counts.get(bar.open_ms)
        if before is not None and (form <= before if bar.trades is not None else before[0] and not bar.closed):
            return
        self._counts[bar.open_ms] = form
        while len(self._counts) > MAX_WAITING:
            self._counts.popitem(last=False)
        if bar.closed and (self._closed_ms is None or bar.open_ms > self._closed_ms):
            self._closed_ms = bar.open_ms
        waiting = self._ready.pop(bar.open_ms, None)
        if self._has_missed or (waiting is not None and waiting.missed):
            self._has_missed = False
            bar = msgspec.structs.replace(bar, missed=True)
        self._ready[bar.open_ms] = bar
