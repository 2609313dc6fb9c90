"""The oracle accepts what the workload says, and nothing else."""

import dataclasses
import json
from collections.abc import Callable

import pytest

from loadtests.bench.oracle import Arrival, Verdict, Window, merge, verify
from loadtests.bench.workloads import SHAPES, Workload, make

MS = 1_000_000
WINDOW = Window(first=62, first_ns=1000 * MS, interval_ns=100 * MS, ticks=5)
BATCH = make(dataclasses.replace(SHAPES["W2"], tokens=8, held=6, changed=6, connections=4))
SINGLE = make(dataclasses.replace(SHAPES["W9"], tokens=3, held=3, changed=3, connections=4))


def arrivals(workload: Workload, delay_ms: int = 20, extra: int = 2) -> list[Arrival]:
    """What a good server sends to connection 0 from ``extra`` ticks before the window to as many after."""
    held = workload.held_by(0)
    found: list[Arrival] = []
    for place in range(-extra, WINDOW.ticks + extra):
        at_ns = WINDOW.first_ns + place * WINDOW.interval_ns + delay_ms * MS
        updates = [json.loads(text) for text in workload.expected(WINDOW.first + place, held).values()]
        bodies = [{"updates": updates}] if workload.kind == "batch" else updates
        for body in bodies:
            kind = "token_batch" if workload.kind == "batch" else "token_update"
            message = {"type": kind, "sequence": len(found) + 3, "timestamp": 1, "data": body}
            found.append((at_ns, json.dumps(message)))
    return found


def changed(at: int, change: Callable[[dict[str, object]], None], workload: Workload = BATCH) -> list[Arrival]:
    """The same with one message changed."""
    found = arrivals(workload)
    message = json.loads(found[at][1])
    change(message)
    found[at] = (found[at][0], json.dumps(message))
    return found


@pytest.mark.parametrize("workload", [BATCH, SINGLE])
@pytest.mark.parametrize("delay_ms", [-1, 0, 20, 94])
def test_a_good_server_passes(workload: Workload, delay_ms: int) -> None:
    verdict = verify(workload, 0, arrivals(workload, delay_ms), WINDOW)
    assert (verdict.mismatch, verdict.missing, verdict.behind) == ("", 0, 0)
    assert verdict.messages == 5 * (1 if workload.kind == "batch" else 3)
    assert verdict.digest.startswith("62:")


def test_both_kinds_and_any_order_have_the_same_digest_for_the_same_values() -> None:
    def reverse(message: dict[str, object]) -> None:
        message["data"]["updates"].reverse()  # type: ignore[index]

    assert verify(BATCH, 0, changed(2, reverse), WINDOW) == verify(BATCH, 0, arrivals(BATCH), WINDOW)


def test_a_hole_in_the_numbers_is_found_even_outside_the_window() -> None:
    found = changed(0, lambda message: message.update(sequence=1))
    assert "follows 1" in verify(BATCH, 0, found, WINDOW).mismatch


def test_a_wrong_value_is_found() -> None:
    def other(message: dict[str, object]) -> None:
        message["data"]["updates"][0]["price"] = "1"  # type: ignore[index]

    assert "no tick" in verify(BATCH, 0, changed(4, other), WINDOW).mismatch


def test_a_token_left_out_is_found() -> None:
    def less(message: dict[str, object]) -> None:
        message["data"]["updates"].pop()  # type: ignore[index]

    assert "not whole" in verify(BATCH, 0, changed(4, less), WINDOW).mismatch


def test_a_token_sent_twice_is_found() -> None:
    def more(message: dict[str, object]) -> None:
        updates = message["data"]["updates"]  # type: ignore[index]
        updates.append(updates[0])

    assert "repeats" in verify(BATCH, 0, changed(4, more), WINDOW).mismatch


def test_another_type_is_found() -> None:
    found = changed(4, lambda message: message.update(type="error"))
    assert "type error" in verify(BATCH, 0, found, WINDOW).mismatch


def test_ticks_that_go_back_are_found() -> None:
    found = arrivals(BATCH)
    again = json.loads(found[3][1])
    again["sequence"] = json.loads(found[5][1])["sequence"]
    found[5] = (found[5][0], json.dumps(again))
    assert "older tick" in verify(BATCH, 0, found, WINDOW).mismatch


def test_a_missing_tick_is_counted() -> None:
    found = arrivals(BATCH)
    del found[4]
    found = [(at, json.dumps({**json.loads(text), "sequence": n})) for n, (at, text) in enumerate(found)]
    assert verify(BATCH, 0, found, WINDOW).missing == 1


def test_a_tick_that_is_late_by_an_interval_is_counted() -> None:
    assert verify(BATCH, 0, arrivals(BATCH, delay_ms=120), WINDOW).behind > 0


def test_verdicts_add_up() -> None:
    merged = merge([Verdict(1, 5, 1, 0, "", "3:a"), Verdict(1, 6, 0, 2, "wrong", "")])
    assert merged == Verdict(2, 11, 1, 2, "wrong", "3:a")
