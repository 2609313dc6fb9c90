"""Which ticks are expected of a server, and what becomes of each."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.load.grid import Grid
from loadtests.load.ledger import Ledger

STEP = 1_000
LIMIT = 100
A, B, BOTH = frozenset({b"a"}), frozenset({b"b"}), frozenset({b"a", b"b"})


@dataclass
class Notes:
    """A book that remembers, and a ledger of two tokens that writes into it."""

    came: list[int] = field(default_factory=list)
    lost_after: list[int] = field(default_factory=list)
    left_open: int = 0
    again: int = 0

    def __post_init__(self) -> None:
        self.grid = Grid(STEP)
        self.ledger = Ledger(self.grid, self, LIMIT)

    def delivered(self, latency_us: int) -> None:
        self.came.append(latency_us)

    def lost(self, waited_us: int) -> None:
        self.lost_after.append(waited_us)

    def unjudged(self) -> None:
        self.left_open += 1

    def repeated(self, values: int) -> None:
        self.again += values


def test_every_tick_after_the_confirmation_is_expected_whole() -> None:
    notes = Notes()
    ledger = notes.ledger
    ledger.begin(5_500, 2)
    ledger.values(5_000, BOTH, 2, 5_510)  # the answer to the subscribe: an older tick's value
    ledger.values(6_000, A, 1, 6_007)
    ledger.values(6_000, B, 1, 6_030)  # complete with the second message
    ledger.values(7_000, BOTH, 2, 7_005)
    assert (notes.came, notes.lost_after, notes.again) == ([30, 5], [], 0)


def test_a_tick_that_comes_again_is_noticed_however_it_is_numbered() -> None:
    notes = Notes()
    notes.ledger.begin(5_500, 2)
    notes.ledger.values(6_000, BOTH, 2, 6_007)
    notes.ledger.values(6_000, BOTH, 2, 6_040)
    notes.ledger.values(7_000, A, 1, 7_005)
    notes.ledger.values(6_000, B, 1, 7_006)
    assert (notes.came, notes.lost_after, notes.again) == ([7], [], 3)


def test_what_comes_after_its_tick_was_given_up_is_noticed() -> None:
    notes = Notes()
    notes.ledger.begin(500, 2)
    notes.ledger.values(2_000, BOTH, 2, 2_001)
    notes.ledger.values(1_000, BOTH, 2, 2_002)
    assert (notes.lost_after, notes.came, notes.again) == ([1_001], [1], 2)


def test_a_token_that_comes_twice_stands_for_no_other() -> None:
    notes = Notes()
    notes.ledger.begin(500, 2)
    notes.ledger.values(1_000, A, 1, 1_001)
    notes.ledger.values(1_000, A, 1, 1_002)
    notes.ledger.values(2_000, A, 2, 2_001)  # twice in one message
    notes.ledger.values(3_000, BOTH, 3, 3_001)
    notes.ledger.values(4_000, A, 1, 4_001)
    notes.ledger.values(4_000, BOTH, 2, 4_002)
    assert (notes.came, notes.lost_after, notes.again) == ([1, 2], [1_001, 1_001], 4)


def test_a_new_subscription_knows_nothing_of_the_last_one() -> None:
    notes = Notes()
    notes.ledger.begin(500, 2)
    notes.ledger.values(1_000, A, 1, 1_001)
    notes.ledger.end(1_002)
    notes.ledger.begin(1_500, 2)
    notes.ledger.values(1_000, BOTH, 2, 1_510)  # the answer to the subscribe
    notes.ledger.values(2_000, A, 1, 2_001)
    notes.ledger.values(2_000, B, 1, 2_002)
    assert (notes.came, notes.again, notes.left_open) == ([2], 0, 1)


def test_rounding_makes_no_tick_both_old_and_new() -> None:
    notes = Notes()
    notes.grid.index(1_000)
    notes.ledger.begin(2_000, 2)
    notes.ledger.values(2_001, BOTH, 2, 2_005)  # planned at 2_000, when the subscription was confirmed
    notes.ledger.values(3_000, BOTH, 2, 3_005)
    assert (notes.came, notes.lost_after, notes.again) == ([5], [], 0)


def test_a_tick_that_never_comes_is_lost_and_its_wait_is_known() -> None:
    notes = Notes()
    notes.ledger.begin(500, 2)
    notes.ledger.values(1_000, BOTH, 2, 1_001)
    notes.ledger.values(4_000, BOTH, 2, 4_010)
    assert notes.lost_after == [2_010, 1_010]
    assert notes.came == [1, 10]


def test_a_tick_with_a_token_missing_is_lost() -> None:
    notes = Notes()
    notes.ledger.begin(500, 2)
    notes.ledger.values(1_000, A, 1, 1_001)
    notes.ledger.values(2_000, BOTH, 2, 2_001)
    assert (notes.lost_after, notes.came) == ([1_001], [1])


def test_the_first_tick_is_expected_although_the_grid_is_unknown_before_the_second() -> None:
    notes = Notes()
    notes.ledger.begin(500, 2)
    notes.ledger.values(3_000, BOTH, 2, 3_001)
    assert notes.lost_after == [2_001, 1_001]


def test_at_the_end_a_late_tick_is_lost_and_one_that_may_still_be_in_time_is_not_judged() -> None:
    notes = Notes()
    notes.ledger.begin(500, 2)
    notes.ledger.values(1_000, BOTH, 2, 1_001)
    notes.ledger.end(3_000 + LIMIT)
    assert (notes.lost_after, notes.left_open) == ([1_000 + LIMIT], 1)
    notes.ledger.end(9_000)
    notes.ledger.values(9_000, BOTH, 2, 9_001)
    assert (len(notes.lost_after), len(notes.came)) == (1, 1)


def test_a_user_that_never_received_anything_loses_what_others_received() -> None:
    notes = Notes()
    other = Ledger(notes.grid, notes, LIMIT)
    notes.ledger.begin(500, 2)
    other.begin(500, 2)
    for planned in (1_000, 2_000):
        other.values(planned, BOTH, 2, planned + 1)
    notes.ledger.end(2_500)
    assert notes.lost_after == [1_500, 500]


def test_a_grid_that_does_not_fit_is_noticed() -> None:
    grid = Grid(2_000_000)
    grid.index(10_000_000)
    grid.index(12_000_001)  # rounding
    assert grid.misfits == 0
    grid.index(13_000_000)
    assert grid.misfits == 1
    with pytest.raises(ValueError, match="positive"):
        Grid(0)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, STEP - 1), st.integers(0, 3 * STEP))
def test_every_tick_has_exactly_one_verdict(comes: list[bool], start: int, after: int) -> None:
    notes = Notes()
    notes.grid.index(0)
    notes.ledger.begin(start, 2)
    for number, came in enumerate(comes, 1):
        if came:
            notes.ledger.values(number * STEP, BOTH, 2, number * STEP + 3)
    end = len(comes) * STEP + 3 + after
    notes.ledger.end(end)
    assert len(notes.came) + len(notes.lost_after) + notes.left_open == end // STEP
    assert len(notes.came) == sum(comes)
    assert all(waited > 0 for waited in notes.lost_after)
