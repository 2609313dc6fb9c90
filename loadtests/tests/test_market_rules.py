"""Every invariant of trades and bars can fail: one good history, and small changes that each break one rule."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest

from loadtests.faults.history import BarDelivered, Entry, Folded, Followed, Traded, TradeDelivered
from loadtests.faults.invariants import judge
from loadtests.faults.rules_market import MARKET_RULES

Change = Callable[[list[Entry]], None]
E = TypeVar("E", bound=Entry)  # type: ignore[misc]
BROKEN: dict[str, list[Change]] = {}


def good() -> list[Entry]:
    """Five trades in three bars; one reader was there from the beginning, the other one comes later."""
    entries: list[Entry] = [Traded(0, "A", number, f"t{number}") for number in range(1, 6)]
    entries += [Folded(0, "A", 1_000, open_ms, bar(open_ms)) for open_ms in (1_000, 2_000, 5_000)]
    for client, first_trade, first_bar in (("whole", 1, 1_000), ("late", 3, 2_000)):
        whole = client == "whole"
        entries += [Followed(1, client, 0, "A", 0, whole), Followed(1, client, 0, "A", 1_000, whole)]
        entries += [TradeDelivered(2, client, 0, "A", number, f"t{number}") for number in range(first_trade, 6)]
        entries += [
            BarDelivered(3, client, 0, "A", 1_000, open_ms, bar(open_ms))
            for open_ms in (1_000, 2_000, 5_000)
            if open_ms >= first_bar
        ]
    return entries


def bar(open_ms: int) -> tuple[str, ...]:
    return (str(open_ms), "9", "1", "3", "7")


def breaks(rule: str) -> Callable[[Change], Change]:
    def named(change: Change) -> Change:
        BROKEN.setdefault(rule, []).append(change)
        return change

    return named


def find(entries: list[Entry], kind: type[E], **fields: Any) -> int:
    return next(
        place
        for place, entry in enumerate(entries)
        if isinstance(entry, kind) and all(getattr(entry, name) == value for name, value in fields.items())
    )


def alter(entries: list[Entry], place: int, **fields: Any) -> None:
    entries[place] = msgspec.structs.replace(entries[place], **fields)


@breaks("trades_true")
def another_trade_has_the_number(entries: list[Entry]) -> None:
    alter(entries, find(entries, TradeDelivered, client="late", number=4), trade_id="t5")


@breaks("trades_true")
def a_number_that_was_never_given(entries: list[Entry]) -> None:
    entries.append(TradeDelivered(9, "whole", 0, "A", 6, "t6"))


@breaks("trades_once")
def a_trade_comes_twice(entries: list[Entry]) -> None:
    place = find(entries, TradeDelivered, client="whole", number=4)
    entries.insert(place, entries[place])


@breaks("trades_once")
def a_trade_comes_twice_under_two_numbers(entries: list[Entry]) -> None:
    entries.append(TradeDelivered(9, "whole", 0, "A", 6, "t4"))


@breaks("trades_rising")
def two_trades_change_places(entries: list[Entry]) -> None:
    place = find(entries, TradeDelivered, client="whole", number=2)
    entries[place], entries[place + 1] = entries[place + 1], entries[place]


@breaks("trades_complete")
def a_trade_in_the_middle_is_lost(entries: list[Entry]) -> None:
    del entries[find(entries, TradeDelivered, client="late", number=4)]


@breaks("trades_complete")
def a_hole_that_is_told_is_a_loss_too(entries: list[Entry]) -> None:
    del entries[find(entries, TradeDelivered, client="late", number=4)]
    alter(entries, find(entries, TradeDelivered, client="late", number=5), missed=1)


@breaks("trades_complete")
def the_last_trade_is_lost(entries: list[Entry]) -> None:
    del entries[find(entries, TradeDelivered, client="late", number=5)]


@breaks("trades_complete")
def the_first_trade_is_lost(entries: list[Entry]) -> None:
    del entries[find(entries, TradeDelivered, client="whole", number=1)]


@breaks("trades_complete")
def nothing_comes_at_all(entries: list[Entry]) -> None:
    entries[:] = [entry for entry in entries if not (isinstance(entry, TradeDelivered) and entry.client == "late")]


@breaks("holes_true")
def a_hole_is_silent(entries: list[Entry]) -> None:
    del entries[find(entries, TradeDelivered, client="whole", number=3)]


@breaks("holes_true")
def a_hole_is_told_that_is_not_there(entries: list[Entry]) -> None:
    alter(entries, find(entries, TradeDelivered, client="whole", number=3), missed=2)


@breaks("bars_true")
def a_bar_lacks_a_trade(entries: list[Entry]) -> None:
    alter(entries, find(entries, BarDelivered, client="late", open_ms=2_000), figures=("2000", "9", "1", "3", "6"))


@breaks("bars_true")
def a_bar_of_nothing(entries: list[Entry]) -> None:
    entries.append(BarDelivered(9, "late", 0, "A", 1_000, 4_000, bar(4_000)))


@breaks("bars_true")
def the_newest_form_is_wrong(entries: list[Entry]) -> None:
    entries.append(BarDelivered(9, "late", 0, "A", 1_000, 2_000, ("2000", "9", "1", "3", "8")))


@breaks("bars_complete")
def a_bar_in_the_middle_is_lost(entries: list[Entry]) -> None:
    del entries[find(entries, BarDelivered, client="whole", open_ms=2_000)]


@breaks("bars_complete")
def the_last_bar_is_lost(entries: list[Entry]) -> None:
    del entries[find(entries, BarDelivered, client="late", open_ms=5_000)]


@breaks("bars_complete")
def the_first_bar_is_lost(entries: list[Entry]) -> None:
    del entries[find(entries, BarDelivered, client="whole", open_ms=1_000)]


def test_a_good_history_breaks_no_rule() -> None:
    assert judge(good()) == []


@pytest.mark.parametrize(("rule", "change"), [(rule, change) for rule, made in BROKEN.items() for change in made],
                         ids=lambda value: getattr(value, "__name__", value))  # fmt: skip
def test_a_broken_history_fires_the_rule(rule: str, change: Change) -> None:
    entries = good()
    change(entries)
    found = {violation.invariant: violation for violation in judge(entries)}
    assert rule in found
    assert found[rule].numbers, "what it concerns can be counted"


def test_every_rule_has_a_history_that_breaks_it() -> None:
    assert set(BROKEN) == set(MARKET_RULES)


def test_a_bar_may_be_corrected() -> None:
    entries = good()
    place = find(entries, BarDelivered, client="late", open_ms=2_000)
    entries.insert(place, BarDelivered(2, "late", 0, "A", 1_000, 2_000, ("2000", "9", "1", "3", "6")))
    assert judge(entries) == []


def test_before_everything_has_settled_the_last_ones_may_be_on_their_way() -> None:
    entries = good()
    del entries[find(entries, TradeDelivered, client="late", number=5)]
    del entries[find(entries, BarDelivered, client="late", open_ms=5_000)]
    assert judge(entries, quiet=False) == []
    assert {violation.invariant for violation in judge(entries)} == {"trades_complete", "bars_complete"}


def test_a_told_hole_is_no_silent_one() -> None:
    entries = good()
    del entries[find(entries, TradeDelivered, client="late", number=4)]
    alter(entries, find(entries, TradeDelivered, client="late", number=5), missed=1)
    assert {violation.invariant for violation in judge(entries)} == {"trades_complete"}
