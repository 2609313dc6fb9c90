"""Counts by source and reason: the first of a kind is told of, and kinds without end are counted together."""

from tokenwire_server.pipeline import Pipeline
from tokenwire_server.validation.reason_counts import MAX_REASONS, OTHERS, ReasonCounts


def test_the_first_of_a_kind_is_told() -> None:
    counts = ReasonCounts()
    assert [counts.add(*pair) for pair in (("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"))] == [True, False, True, True]
    assert counts == {("a", "x"): 2, ("b", "x"): 1, ("a", "y"): 1}


def test_kinds_without_end_are_counted_together() -> None:
    counts = ReasonCounts()
    told = sum(counts.add("s", f"r{number}") for number in range(MAX_REASONS + 50))
    assert told == len(counts) == MAX_REASONS + 1
    assert counts[OTHERS] == 50
    assert not counts.add("s", "r0")
    assert counts["s", "r0"] == 2


def test_a_pipeline_holds_to_it() -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: 0)
    for number in range(MAX_REASONS + 50):
        pipeline.rejected("s", f"r{number}", "")
    assert len(pipeline.rejections) == MAX_REASONS + 1
