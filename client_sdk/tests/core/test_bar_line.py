"""Bars in order: every closed one once, revisions, and what was missed in between."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.bar_line import BarLine
from tokenwire.channels import Bar


def bar(minute: int, trades: int | None = 1, *, closed: bool = True, fetched: bool = False) -> Bar:
    begin = minute * 60_000
    return Bar(
        "P", "a", "P", "1m", begin, begin + 60_000, "1", "1", "1", "1", "1", closed, 0, trades=trades, fetched=fetched
    )


def taken(line: BarLine) -> list[tuple[int, bool, int | None]]:
    found = []
    while (each := line.take()) is not None:
        found.append((each.open_ms // 60_000, each.closed, each.trades))
    return found


def test_of_an_open_bar_the_newest_form_waits_and_closed_ones_all() -> None:
    line = BarLine()
    line.push(bar(1, 1, closed=False))
    line.push(bar(1, 3, closed=False))
    line.push(bar(1, 3))
    line.push(bar(2, 1, closed=False))
    line.push(bar(2, 2, closed=False))
    assert taken(line) == [(1, True, 3), (2, False, 2)]
    line.push(bar(2, 2, closed=False))
    line.push(bar(1, 3))
    assert taken(line) == [], "known already"
    line.push(bar(1, 4))
    assert taken(line) == [(1, True, 4)], "revised"


def test_what_was_missed_is_fetched_before_it_goes_on() -> None:
    line = BarLine()
    line.push(bar(1, 5))
    line.push(bar(2, 1, closed=False))
    taken(line)
    line.begin_anew()
    assert line.wants_from_ms == 60_000
    line.push(bar(7, 1, closed=False))
    line.fetched([bar(1, 6), bar(2, 4), bar(3, 2)], is_all=False)
    assert line.wants_from_ms == 180_000
    line.fetched([bar(3, 2), bar(5, 1), bar(7, 3, closed=False)], is_all=True)
    line.push(bar(7, 4, closed=False))
    assert taken(line) == [(1, True, 6), (2, True, 4), (3, True, 2), (5, True, 1), (7, False, 4)]


def test_before_the_first_bar_nothing_was_missed() -> None:
    line = BarLine()
    line.begin_anew()
    assert line.wants_from_ms is None
    line.push(bar(2, 1, closed=False))
    line.begin_anew()
    assert line.wants_from_ms == 120_000


def test_history_that_was_empty_when_it_was_asked_for_is_asked_for_again() -> None:
    line = BarLine()
    line.want(0)
    line.fetched([], is_all=True)
    assert line.wants_from_ms is None
    line.begin_anew()
    assert line.wants_from_ms == 0, "the first bars of all may have closed meanwhile"
    line.push(bar(4, 1, closed=False))
    line.fetched([bar(1), bar(2), bar(3)], is_all=True)
    assert taken(line) == [(1, True, 1), (2, True, 1), (3, True, 1), (4, False, 1)]


def test_an_application_that_lags_gets_everything_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.bar_line.MAX_WAITING", 2)
    line = BarLine()
    for minute in range(1, 5):
        line.push(bar(minute))
    assert line.wants_from_ms == 120_000
    assert taken(line) == [(1, True, 1), (2, True, 1)]
    line.fetched([bar(2), bar(3), bar(4)], is_all=True)
    assert taken(line) == [(3, True, 1), (4, True, 1)]


def test_a_server_that_does_not_count_trades() -> None:
    line = BarLine()
    line.push(bar(1, None, closed=False))
    line.push(bar(1, None, closed=False))
    line.push(bar(1, None))
    line.push(bar(1, None, closed=False))
    assert taken(line) == [(1, True, None)]


def test_what_closes_while_others_are_fetched_is_not_lost() -> None:
    line = BarLine()
    line.want(0)
    line.push(bar(5, 2, closed=False))
    line.push(bar(5, 3))
    line.push(bar(6, 1, closed=False))
    line.fetched([bar(4, 1), bar(5, 2, closed=False)], is_all=True)
    assert taken(line) == [(4, True, 1), (5, True, 3), (6, False, 1)]


def test_more_than_can_be_held_meanwhile_is_fetched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.bar_line.MAX_WAITING", 2)
    line = BarLine()
    line.want(0)
    for minute in range(3, 8):
        line.push(bar(minute))
    line.fetched([bar(1), bar(2)], is_all=True)
    assert line.wants_from_ms == 180_000
    line.fetched([bar(3), bar(4), bar(5)], is_all=True)
    assert [minute for minute, _, _ in taken(line)] == [1, 2, 3, 4, 5, 6, 7]


def missed(line: BarLine) -> list[tuple[int, bool]]:
    found = []
    while (each := line.take()) is not None:
        found.append((each.open_ms // 60_000, each.missed))
    return found


def test_the_open_bar_of_another_lineage_may_know_less() -> None:
    line = BarLine()
    line.push(bar(1, 9))
    line.push(bar(2, 50, closed=False))
    taken(line)
    line.begin_anew(is_new=True)
    line.fetched([bar(1, 5), bar(2, 1, closed=False)], is_all=True)
    line.push(bar(2, 2, closed=False))
    assert missed(line) == [(2, True)]
    line.push(bar(2, 3, closed=False))
    assert missed(line) == [(2, False)]


def test_what_cannot_be_had_is_told_of_by_the_next_bar() -> None:
    line = BarLine()
    line.push(bar(1))
    assert missed(line) == [(1, False)]
    line.begin_anew()
    line.push(bar(5, 1, closed=False))
    line.fetched([], is_all=True, has_missed=True)
    line.push(bar(5, 2))
    line.push(bar(6))
    assert missed(line) == [(5, True), (6, False)], "also when a newer form takes the place of the one that told"


def test_what_is_missed_while_a_page_is_on_its_way_is_fetched_too() -> None:
    line = BarLine()
    line.push(bar(1))
    taken(line)
    line.begin_anew()
    line.begin_anew()  # bar 3 closes unseen, after the page was made
    line.push(bar(4))
    line.fetched([bar(1), bar(2)], is_all=True)
    assert line.wants_from_ms == 120_000
    line.fetched([bar(2), bar(3)], is_all=True)
    assert line.wants_from_ms is None
    assert [minute for minute, _, _ in taken(line)] == [2, 3, 4]


def test_what_is_fetched_from_a_server_that_is_behind_is_fetched_again() -> None:
    line = BarLine()
    line.want(0)
    assert line.reaches(0), "nothing has arrived yet"
    line.push(bar(5, 1, closed=False))
    assert not line.reaches(4 * 60_000 + 59_999)
    assert line.reaches(5 * 60_000)
    line.push(bar(6, 1, closed=False))
    assert line.reaches(5 * 60_000), "the first one counts: what closed since then arrived"
    line.fetched([bar(3), bar(4)], is_all=True, until_ms=5 * 60_000)
    assert line.wants_from_ms is None
    assert [minute for minute, _, _ in taken(line)] == [3, 4, 5, 6]


def test_the_first_bar_after_what_was_fetched_tells_whether_there_is_a_hole() -> None:
    line = BarLine()
    line.want(0)
    line.fetched([bar(3)], is_all=True, until_ms=4 * 60_000 + 1)
    line.push(msgspec.structs.replace(bar(3, 2), revision=1))
    line.push(bar(8, 1, closed=False))
    assert line.wants_from_ms == 3 * 60_000, "4 to 7 may have closed before it was subscribed"
    line.fetched([bar(3, 2), bar(6), bar(8, 1, closed=False)], is_all=True, until_ms=8 * 60_000)
    line.push(bar(20, 1, closed=False))
    assert line.wants_from_ms is None, "only the first one is looked at"
    assert [minute for minute, _, _ in taken(line)] == [3, 6, 8, 20]


def test_a_revised_bar_is_no_first_one() -> None:
    line = BarLine()
    line.push(bar(1))
    line.begin_anew()
    line.push(msgspec.structs.replace(bar(1, 2), revision=1))
    line.push(bar(6))
    assert not line.reaches(3 * 60_000)
    line.fetched([bar(1, 2), bar(2)], is_all=True, until_ms=6 * 60_000)
    assert [minute for minute, _, _ in taken(line)] == [1, 2, 6]


def test_a_server_that_does_not_say_how_far_it_is() -> None:
    line = BarLine()
    line.want(0)
    line.fetched([bar(3)], is_all=True)
    line.push(bar(8, 1, closed=False))
    assert line.wants_from_ms is None


@dataclass
class Servers:
    """Two servers of one market that are not equally far, and a line that listens to one and fetches from the other."""

    closing: list[int]
    """Minutes whose bars there are."""
    line: BarLine = field(default_factory=BarLine)
    told: int = 0
    """Minutes that the server which is listened to has come to."""
    got: list[int] = field(default_factory=list)

    def hear(self, minutes: int) -> None:
        for _ in range(minutes):
            if self.told in self.closing:
                self.line.push(bar(self.told, closed=False))
            self.told += 1
            if self.told - 1 in self.closing:
                self.line.push(bar(self.told - 1, 2))
            self.take()

    def miss(self, minutes: int) -> None:
        self.line.begin_anew()
        self.told += minutes
        if self.told in self.closing:
            self.line.push(bar(self.told, closed=False))

    def fetch(self, until: int) -> None:
        from_ms = self.line.wants_from_ms
        if from_ms is not None and self.line.reaches(until * 60_000):
            known = [bar(minute, 2) for minute in self.closing if from_ms <= minute * 60_000 and minute < until]
            known += [bar(until, closed=False)] * (until in self.closing)
            self.line.fetched(known, is_all=True, until_ms=until * 60_000)
        self.take()

    def take(self) -> None:
        self.got += [minute for minute, closed, _ in taken(self.line) if closed]


LAST = 300  # a minute that no steps come to
STEPS = st.lists(st.tuples(st.sampled_from(["hear", "miss", "fetch"]), st.integers(0, 6)), max_size=40)


@given(closing=st.sets(st.integers(0, 60), min_size=10, max_size=40), begun=st.integers(0, 20), steps=STEPS)
def test_whichever_server_answers_no_bar_is_left_out(
    closing: set[int], begun: int, steps: list[tuple[str, int]]
) -> None:
    servers = Servers(sorted({*closing, LAST}), told=begun)
    servers.line.want(0)
    for what, count in steps:
        match what:
            case "hear":
                servers.hear(count)
            case "miss":
                servers.miss(count)
            case _:
                servers.fetch(max(0, servers.told - count))
        assert servers.got == servers.closing[: len(servers.got)], "in order and without a hole"
    servers.hear(LAST + 1 - servers.told)
    while servers.line.wants_from_ms is not None:
        servers.fetch(servers.told)
    assert servers.got == servers.closing


def test_a_revised_bar_that_comes_first_is_not_where_it_goes_on() -> None:
    line = BarLine()
    line.want(0)
    line.fetched([bar(minute) for minute in range(10)], is_all=True, until_ms=10 * 60_000 + 1)
    line.push(msgspec.structs.replace(bar(14, 3), revision=1))
    line.push(bar(17, closed=False))
    assert line.wants_from_ms == 9 * 60_000
    line.fetched([bar(minute, 3) for minute in range(9, 17)], is_all=True, until_ms=17 * 60_000)
    got = [minute for minute, closed, _ in taken(line) if closed]
    assert {*range(17)} == {*got}


def test_a_revised_bar_that_comes_while_others_are_fetched_is_not_where_it_goes_on() -> None:
    line = BarLine()
    line.want(0)
    line.push(msgspec.structs.replace(bar(14, 3), revision=1))
    line.fetched([bar(minute) for minute in range(10)], is_all=True, until_ms=10 * 60_000 + 1)
    line.begin_anew()
    assert line.wants_from_ms == 9 * 60_000
