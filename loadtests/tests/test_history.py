"""The history on disk: what is written is read again, and a broken or endless one is refused."""

from pathlib import Path

import pytest

from loadtests.faults.history import (
    Asked,
    BarDelivered,
    Began,
    Checkpointed,
    Closed,
    Converged,
    Delivered,
    Entry,
    Faulted,
    Folded,
    Followed,
    Gapped,
    HistoryError,
    JsonlWriter,
    Opened,
    Overflowed,
    Produced,
    Retrying,
    Sample,
    Sent,
    Started,
    Stepped,
    Stopped,
    Traded,
    TradeDelivered,
    Wanted,
    alias,
    dump_entry,
    read_history,
)

ONE_OF_EACH: list[Entry] = [
    Produced(1, "st", "A", 7, "7"),
    Opened(1, "c1", 0, "s1", 4, 2),
    Closed(2, "c1", 0, 4001),
    Sent(3, "c1", 0, "s1", "token_batch", 5, 99, 1000, updates=(("A", 7, "7"), ("B", None, "1"))),
    Sent(3, "c1", 0, "s1", "gap", 5, 99, 1000, numbered=False, first=2, last=4),
    Asked(4, "c1", 0, "replay", 2, 4),
    Started(5, "c1", 0, "s1", 4),
    Stopped(6, "c1", 0),
    Checkpointed(6, "c1", 0, "s1", 4),
    Delivered(7, "c1", 1, 5, "A", "7", 7, 0, True),
    Began(8, "c1", 1, "id", True, "unknown_session"),
    Gapped(9, "c1", 1, None, None, "session_lost"),
    Retrying(9, "c1", 1, 1000, 4001, None, None),
    Stepped(9, "c1", 1, "CONNECTED", "RECONNECTING"),
    Wanted(9, "c1", 1, "A", True),
    Overflowed(9, "c1", 1, 3),
    Converged(10, "c1", 1, ("A",), ("A",), {"A": "7"}),
    Traded(10, "A", 1, "x1"),
    Folded(10, "A", 1000, 0, ("1", "1", "1", "1")),
    Followed(10, "c1", 0, "A", 1000, True),
    TradeDelivered(10, "c1", 0, "A", 1, "x1", None),
    BarDelivered(10, "c1", 0, "A", 1000, 0, ("1", "1", "1", "1"), True),
    Faulted(10, "kill", "processor-1", 1200),
    Sample(10, "server", {"fds": 3}),
]


def test_every_kind_of_entry_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with JsonlWriter(path) as writer:
        writer.extend(ONE_OF_EACH)
    assert writer.entries == len(ONE_OF_EACH)
    assert list(read_history(path)) == ONE_OF_EACH


def test_a_line_names_its_kind_and_leaves_out_what_is_absent() -> None:
    assert dump_entry(Asked(4, "c1", 0, "ack", 0, 4)) == (
        '{"kind":"asked","t":4,"client":"c1","socket":0,"type":"ack","first":0,"last":4}'
    )
    assert "session" not in dump_entry(Opened(1, "c1", 0))


def test_a_history_is_bounded_when_written_and_when_read(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with JsonlWriter(path, max_entries=2) as writer:
        writer.extend(ONE_OF_EACH[:2])
        with pytest.raises(HistoryError, match="already holds 2 entries"):
            writer.add(ONE_OF_EACH[2])
    assert len(list(read_history(path))) == 2
    with pytest.raises(HistoryError, match="more than 1 entries"):
        list(read_history(path, max_entries=1))


@pytest.mark.parametrize("line", ["nonsense", '{"kind":"unheard of","t":1}', '{"kind":"sent","t":1}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f"{dump_entry(ONE_OF_EACH[0])}\n{line}\n")
    with pytest.raises(HistoryError, match="line 2"):
        list(read_history(path))


def test_an_alias_gives_no_secret_away() -> None:
    secret = "q0T3h1vJ7cXwYb2mZk9LrA"
    assert alias(secret) == alias(secret) != alias(secret + "x")
    assert secret[:4] not in alias(secret)
