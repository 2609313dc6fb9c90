"""The trades of one token in the order of their numbers, without a hole, or with one that is owned up to. Pure."""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tokenwire.channels import Trade
from tokenwire_schemas.limits import MAX_SEQUENCE

__all__ = ["MAX_HELD", "MAX_WAITING", "TradeLine", "Wanted"]

MAX_HELD: Final = 10_000
"""Trades that wait behind a hole; later ones are let go of, and fetched when it is their turn."""
MAX_WAITING: Final = 10_000
"""Trades that wait for the application; likewise."""


class Wanted(NamedTuple):
    """Trades to be fetched: those numbered above ``after`` and below ``before``."""

    after: int
    before: int


class TradeLine:
    """Takes trades as they come, gives them out in order. ``wanted`` is what has to be fetched before it goes on.

    ``last`` is the number of the last trade given out (None before the first).
    """

    __slots__ = ("_held", "_is_cut", "_is_doubtful", "_let_go", "_ready", "last", "wanted")

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.wanted: Wanted | None = None
        self._held: deque[Trade] = deque()
        self._ready: deque[Trade] = deque()
        self._let_go = 0  # up to this number trades came that were not held
        self._is_cut = False
        self._is_doubtful = last is not None  # it is of an earlier program, perhaps of an earlier life of the server

    def begin_anew(self) -> None:
        """What comes is numbered from somewhere else: nobody knows what was missed."""
        self._held.clear()
        self._let_go = 0
        self.wanted = None
        self._is_cut = self._is_cut or self.last is not None
        self._is_doubtful = False
        self.last = None

    def push(self, trade: Trade) -> None:
        """A trade arrived."""
        number, last = trade.number, self.last
        if number is None:  # a server without numbers: nothing can be said
            self._ready.append(trade)
        elif last is None:
            self._give(msgspec.structs.replace(trade, missed=None) if self._is_cut else trade)
            self._is_cut = False
        elif self.wanted is None and len(self._ready) >= MAX_WAITING:
            self._let_go = max(self._let_go, number)
        elif self.wanted is None and number == last + 1:
            self._give(trade)
        elif (number > last or self._may_be_elsewhere) and not (self._held and number <= (self._held[-1].number or 0)):
            if len(self._held) < MAX_HELD:
                self._held.append(trade)
            else:
                self._let_go = max(self._let_go, number)
            if self.wanted is None:
                self.wanted = Wanted(last, number)

    def fetched(
        self, trades: Sequence[Trade], *, is_all: bool, known: range = range(0), newest: int | None = None
    ) -> None:
        """Some of what is wanted, ascending. ``is_all``: what is missing of it can't be had.

        ``known`` are the numbers that the answer speaks of: what is missing of these was never given to a trade.
        ``newest`` is the last number so far by the same answer.
        """
        wanted = self.wanted
        if wanted is None:
            return
        if self._is_doubtful and self._begins_elsewhere(newest):
            return
        for trade in trades:
            if trade.number is not None and wanted.after < trade.number < wanted.before:
                self._go_on(trade, known)
        if is_all or self.last == wanted.before - 1:
            self.wanted = None
            if is_all and wanted.before == self._let_go + 1 and not self._held:
                self._let_go = 0  # it came, and now it can't be had: the next one tells of it
            # Catching up has no end of its own: a hole further on has not been asked for by it.
            self._release((self.last or 0) + 1 if wanted.before == MAX_SEQUENCE else wanted.before, known)
        elif self.last is not None:
            self.wanted = Wanted(self.last, wanted.before)

    @property
    def waiting(self) -> int:
        """How many can be taken."""
        return len(self._ready)

    def take(self) -> Trade | None:
        """The next trade in order; None while there is none."""
        if not self._ready:
            return None
        trade = self._ready.popleft()
        if self.wanted is None and len(self._ready) <= MAX_WAITING // 2:
            self._fetch_what_was_let_go()
        return trade

    def catch_up(self) -> None:
        """Have everything fetched that came after ``last``, before what will come."""
        if self.last is not None and self.wanted != (everything := Wanted(self.last, MAX_SEQUENCE)):
            self.wanted = everything

    @property
    def _may_be_elsewhere(self) -> bool:
        return self._is_doubtful and self.wanted is not None and self.wanted.before == MAX_SEQUENCE

    def _begins_elsewhere(self, newest: int | None) -> bool:
        """Whether the server has begun to number anew since ``last``, by the first answer; then the line does, too."""
        last = self.last or 0
        low = [trade for trade in self._held if (trade.number or 0) <= last]
        is_elsewhere = newest < last if newest is not None else bool(low)
        if is_elsewhere:
            held = list(self._held)
            self.begin_anew()
            for trade in held:
                self.push(trade)
        else:
            self._is_doubtful = False
            for _ in low:
                self._held.popleft()
        return is_elsewhere

    def _release(self, before: int, known: range) -> None:
        """Give out what waited, up to the next hole; what is missing below ``before`` can't be had."""
        while self._held:
            number = self._held[0].number or 0
            if number > before and self.last is not None and number > self.last + 1:
                self.wanted = Wanted(self.last, number)
                return
            self._go_on(self._held.popleft(), known)
        self._fetch_what_was_let_go()

    def _fetch_what_was_let_go(self) -> None:
        if self.last is not None and self.last < self._let_go:
            self.wanted = Wanted(self.last, self._let_go + 1)

    def _go_on(self, trade: Trade, known: range) -> None:
        number, last = trade.number or 0, self.last or 0
        if number > last:
            never_given = max(0, min(number, known.stop) - max(last + 1, known.start))
            missed = number - last - 1 - never_given
            self._give(msgspec.structs.replace(trade, missed=missed) if missed else trade)

    def _give(self, trade: Trade) -> None:
        self.last = trade.number
        self._ready.append(trade)
