"""What `watch` makes of events."""

import io
import json

import pytest
from rich.console import Console

from tokenwire import Connected, Error, Event, Gap, Quote, Reconnecting, Resumed, Snapshot, Stale, Update
from tokenwire.watch import Board, json_line, render, text_line


def quote(price: str, name: str = "DOGE", version: int | None = 7) -> Quote:
    return Quote(name, f"{name}-address", price, "0", "9120000", "1", "0", version, 1_000, 1_100)


ALL: list[tuple[Event, str]] = [
    (Connected("id", ("batch", "resume"), None, 1), "connected: batch, resume"),
    (Connected("id", (), "unknown_session", 1), "connected as a new session (unknown_session): strict v1.0"),
    (Snapshot(quote("1.5"), 2, 1), "DOGE  1.5  volume 24h 9120000 snapshot"),
    (Update(quote("1.5"), 2, 1, missed=3), "DOGE  1.5  volume 24h 9120000  (3 conflated)"),
    (Update(quote("1.5"), 2, 1, replayed=True), "replayed"),
    (Reconnecting(2, 1_500, 1006, None, "cut", 1), "reconnecting in 1.5 s (try 2): cut"),
    (Resumed("id", 5, 7, 2_000, 1), "resumed after 2.0 s, 3 messages"),
    (Gap(4, 6, "evicted", "snapshot", 1), "gap: messages 4 to 6 lost (evicted), current values follow"),
    (Gap(None, None, "session_lost", "none", 1), "gap: an unknown number of messages lost (session_lost), not"),
    (Gap(9, None, "session_lost", "snapshot", 1), "gap: an unknown number of messages lost (session_lost), current"),
    (Stale("UPSTREAM_STALE", "old", (), 1), "stale: old"),
    (Error("RATE_LIMITED", "slow down", "error", "wait", (), 1), "error RATE_LIMITED: slow down"),
]


@pytest.mark.parametrize(("event", "expected"), ALL)
def test_a_line_for_people(event: Event, expected: str) -> None:
    assert expected in text_line(event)


@pytest.mark.parametrize("event", [event for event, _ in ALL])
def test_a_line_for_programs(event: Event) -> None:
    line = json.loads(json_line(event))
    assert line["event"] == type(event).__name__.lower()
    assert line["received_ms"] == 1
    assert "\n" not in json_line(event)
    if isinstance(event, Update | Snapshot):
        assert line["price"] == "1.5"
        assert line["sequence"] == 2


def test_a_server_cannot_steer_the_terminal() -> None:
    hostile = Error("X", "\x1b]0;title\x07\x9b2J\nnew line", "error", "", (), 1)
    assert text_line(hostile).isprintable()
    assert json_line(hostile).replace("\x9b", "").isprintable()


def test_json_in_a_terminal_cannot_steer_it_either() -> None:
    event = Error("X", "\x9b31m\u202e\U000e0001 é", "error", "", (), 1)
    line = json_line(event, terminal=True)
    assert line.isprintable()
    assert json.loads(line) == json.loads(json_line(event))
    assert "é" in line


def test_the_board_follows_the_events() -> None:
    board = Board(["DOGE", "PEPE", "nope"])
    for event in (
        Connected("id", ("details",), None, 1),
        Snapshot(quote("2"), 2, 1_500),
        Update(quote("3"), 3, 1_600, missed=2),
        Update(quote("1"), 4, 1_700, missed=1),
        Error("TOKEN_NOT_FOUND", "no", "error", "check", ("nope",), 1),
        Reconnecting(1, 1, 1006, None, "cut", 1),
        Gap(None, None, "session_lost", "snapshot", 1),
        Stale("UPSTREAM_STALE", "old", ("DOGE-address",), 1),
    ):
        board.apply(event)
    row = board.rows["DOGE-address"]
    assert (row.direction, row.missed, row.updates, row.latency_ms) == (-1, 3, 3, 700)
    assert row.change_percent == -50
    assert row.stale
    assert board.waiting == {"PEPE": "waiting for a value", "nope": "TOKEN_NOT_FOUND"}
    assert (board.reconnects, board.gaps, board.capabilities) == (1, 1, ("details",))
    board.apply(Update(quote("1"), 5, 1_800))
    assert not row.stale


def test_the_table_is_drawn() -> None:
    board = Board(["DOGE", "PEPE"])
    board.apply(Snapshot(quote("0"), 2, 1_500))
    board.apply(Update(quote("0.5", version=None), 3, 1_500))
    board.apply(Stale("UPSTREAM_STALE", "old [bold]news", (), 10**18))
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    console.print(render(board, {"state": "CONNECTED"}, 61_500))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "CONNECTED",
        "DOGE",
        "▲ 0.5",
        "+0.000 %",
        "9.12M",
        "500 ms",
        "60 s",
        "waiting",
        "[bold]",
        "reconnects 0",
    ):
        assert part in text, part
