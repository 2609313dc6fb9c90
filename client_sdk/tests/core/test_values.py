"""Versions, snapshots, names, the newest values (I-11, I-22, I-52, I-56)."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire.events import Error, Gap, Snapshot, Stale, Update

from .peer import ALL, WALL, Peer, live, update


def test_only_newer_versions_are_applied() -> None:
    peer = live("A")
    peer.value("a-A", "1", 10)
    peer.value("a-A", "2", 10)
    peer.value("a-A", "3", 9)
    peer.value("a-A", "4", 14)
    first, second = peer.events()
    assert isinstance(first, Snapshot)
    assert first.missed is None
    assert isinstance(second, Update)
    assert (second.quote.price, second.quote.version, second.missed) == ("4", 14, 3)
    assert peer.session.metrics.stale_versions == 2
    assert peer.session.metrics.conflated_by_server == 3
    assert peer.session.latest["A"].price == "4"


def test_versions_count_only_when_granted() -> None:
    peer = live("A", caps=("batch",))
    peer.value("a-A", "1", 10)
    peer.value("a-A", "2", 10)
    peer.value("a-A", "3", 9)
    assert [price for _, _, price in peer.values()] == ["1", "2", "3"]
    assert peer.session.latest["A"].version is None
    assert peer.session.latest["A"].source_time is None


def test_batches() -> None:
    peer = live("A", "B")
    peer.say(
        "token_batch",
        updates=[update("a-A", "1", 1), update("a-B", "2", 1), update("a-X", "3", 1), update("a-A", "4", 2)],
    )
    assert peer.values() == [("Snapshot", "A", "1"), ("Snapshot", "B", "2"), ("Update", "A", "4")]
    assert peer.session.metrics.unsubscribed == 1
    assert peer.session.metrics.updates == 3
    assert peer.session.metrics.frames == 3


def test_every_field_arrives() -> None:
    peer = live("A")
    peer.value("a-A", "0.00002431", 7)
    (event,) = peer.events()
    quote = event.quote
    assert (quote.name, quote.address, quote.price, quote.market_cap) == ("A", "a-A", "0.00002431", "0")
    assert (quote.volume_h24, quote.volume_h1, quote.volume_m5) == ("3", "2", "1")
    assert (quote.version, quote.source_time, quote.timestamp) == (7, WALL, peer.wall)
    assert event.received_ms == peer.wall
    assert event.sequence == peer.number


@pytest.mark.parametrize("caps", [(), ALL])
@pytest.mark.parametrize(
    "price", ["", "1e-7", "-1", "01", "1.0", ".5", "1.", "NaN", "1 2", " 1", "1\n", "1,5", "\u0663", "0" * 50_000 + "x"]
)
def test_a_price_that_is_no_canonical_decimal_is_told_and_dropped(price: str, caps: tuple[str, ...]) -> None:
    peer = live("A", "B", caps=caps)
    peer.value("a-A", price, 1)
    (event,) = peer.events()
    assert isinstance(event, Error)
    assert event.code == "INVALID_SERVER_MESSAGE"
    assert "a-A" in event.message
    peer.value("a-A", "0.00002431", 1)  # its number is used up, its version is not
    assert peer.values() == [("Snapshot", "A", "0.00002431")]


@pytest.mark.parametrize("field", ["h24", "h1", "m5", "marketCap"])
def test_the_other_figures_count_too_and_other_tokens_do_not_suffer(field: str) -> None:
    peer = live("A", "B")
    for version in range(1, 21):
        bad = update("a-A", "1", version)
        (bad if field == "marketCap" else bad["volume"])[field] = "1."
        peer.say("token_batch", updates=[bad, update("a-B", "2", version)])
    assert peer.closes == []
    assert peer.session.metrics.invalid_messages == 20
    found = peer.events()
    assert sum(isinstance(event, Snapshot | Update) for event in found) == 20
    assert sum(isinstance(event, Error) for event in found) == 1
    peer.advance(1_000)
    assert "(19 such messages)" in peer.take(Error)[0].message


FIGURES = st.one_of(
    st.from_regex(r"(0|[1-9][0-9]{0,120})(\.[0-9]{0,120}[1-9])?", fullmatch=True),
    st.text("0123456789. e-\n", max_size=8),
    st.sampled_from(["", " ", "0", "1 2", "9" * 100, "9" * 101, "0." + "0" * 97 + "1", "0." + "0" * 98 + "1"]),
)


@settings(max_examples=400, deadline=None)
@given(figures=st.lists(FIGURES, min_size=1, max_size=12), where=st.data())
def test_each_value_of_a_batch_is_judged_by_itself(figures: list[str], where: st.DataObject) -> None:
    peer = live(*(f"t{index}" for index in range(len(figures))))
    updates, good = [], []
    for index, figure in enumerate(figures):
        data = update(f"a-t{index}", "1", 1)
        place = where.draw(st.sampled_from(["price", "marketCap", "h24", "h1", "m5"]))
        (data if place in data else data["volume"])[place] = figure
        updates.append(data)
        if len(figure) <= 100 and re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", figure) and "\n" not in figure:
            good.append(f"t{index}")
    peer.say("token_batch", updates=updates)
    assert [name for _, name, _ in peer.values()] == good
    assert peer.session.metrics.updates == len(good)


@pytest.mark.parametrize("number", [-1, 2**53])
@pytest.mark.parametrize("field", ["version", "sourceTime"])
def test_an_integer_out_of_its_range(field: str, number: int) -> None:
    peer = live("A", "B")
    peer.say("token_batch", updates=[update("a-A", "1", 1) | {field: number}, update("a-B", "2", 1)])
    assert peer.values() == [("Snapshot", "B", "2")]
    assert peer.session.metrics.invalid_messages == 1


def test_another_stream_is_another_lineage() -> None:
    peer = live("A")
    peer.value("a-A", "1", 1000)
    peer.events()
    peer.cut()
    peer.back()
    peer.greet(*ALL, stream="other", reason="unknown_session", session="s2")
    assert "known" not in peer.requests[-1]
    peer.accept("a-A")
    peer.value("a-A", "2", 3)
    (event,) = peer.take(Snapshot, Update)
    assert (event.quote.price, event.missed) == ("2", None)


def test_the_same_stream_goes_on_counting() -> None:
    peer = live("A")
    peer.value("a-A", "1", 1000)
    peer.events()
    peer.cut()
    peer.back()
    peer.greet(*ALL, reason="unknown_session", session="s2")
    assert peer.requests[-1]["known"] == {"a-A": 1000}
    assert peer.requests[-1]["stream"] == "m1"
    peer.accept("a-A")
    peer.value("a-A", "1", 1000)
    peer.value("a-A", "2", 1005)
    peer.value("a-A", "3", 1006)
    first, second = peer.take(Snapshot, Update)
    assert (first.quote.price, first.missed) == ("2", 4)
    assert isinstance(second, Update)


def test_latest_by_name_and_by_address() -> None:
    peer = live("DOGE", "BONK")
    latest = peer.session.latest
    assert len(latest) == 0
    peer.value("a-DOGE", "1", 1)
    assert latest["DOGE"] == latest["a-DOGE"]
    assert set(latest) == {"DOGE", "a-DOGE"}
    assert len(latest) == 2
    assert "BONK" not in latest
    with pytest.raises(KeyError):
        latest["nope"]


def test_a_name_that_is_the_address() -> None:
    peer = Peer().start().greet(*ALL)
    peer.session.subscribe(["x"], peer.now)
    peer.act()
    peer.accept("x")
    peer.value("x", "1", 1)
    assert list(peer.session.latest) == ["x"]


def test_values_before_the_answer_are_not_lost() -> None:
    peer = Peer().start().greet()
    peer.session.subscribe(["x"], peer.now)
    peer.act()
    peer.value("x", "1")
    peer.accept("x")
    assert peer.values() == [("Snapshot", "x", "1")]


def test_no_update_after_an_acknowledged_unsubscribe() -> None:
    peer = live("A", "B")
    peer.session.unsubscribe(["A"], peer.now)
    peer.act()
    peer.value("a-A", "1", 1)
    assert len(peer.values()) == 1
    peer.accept("a-A")
    peer.value("a-A", "2", 2)
    assert peer.values() == []
    assert peer.session.metrics.unsubscribed == 1
    assert "A" not in peer.session.latest
    assert "a-A" not in peer.session.latest


def test_resubscribing_gives_the_value_again() -> None:
    for caps in ((), ALL):
        peer = live("A", caps=caps)
        peer.value("a-A", "1", 5)
        peer.session.unsubscribe(["A"], peer.now)
        peer.act()
        peer.accept("a-A")
        peer.session.subscribe(["A"], peer.now)
        peer.act()
        assert "known" not in peer.requests[-1]
        peer.accept("a-A")
        peer.value("a-A", "1", 5)
        assert peer.values() == [("Snapshot", "A", "1"), ("Snapshot", "A", "1")]


def test_stale_is_told_with_its_tokens() -> None:
    peer = live("A")
    peer.say("error", code="UPSTREAM_STALE", message="old", level="warning", tokens=["a-A"])
    peer.say("error", code="UPSTREAM_UNAVAILABLE", message="gone", level="warning")
    assert peer.events() == [
        Stale("UPSTREAM_STALE", "old", ("a-A",), peer.wall),
        Stale("UPSTREAM_UNAVAILABLE", "gone", (), peer.wall),
    ]


def test_errors_carry_names_and_a_remedy() -> None:
    peer = live("DOGE")
    peer.say("error", code="SLOW_CONSUMER", message="slow", level="warning", tokens=["a-DOGE", "zz"])
    peer.say("error", code="FROM_THE_FUTURE", message="?", level="warning", category="never heard of")
    known, unknown = peer.events()
    assert isinstance(known, Error)
    assert known.names == ("DOGE", "zz")
    assert known.action
    assert (unknown.code, unknown.action, unknown.level) == ("FROM_THE_FUTURE", "", "warning")
    assert peer.session.metrics.invalid_messages == 0


def test_fields_of_the_future_are_survived() -> None:
    peer = Peer().start()
    peer.greet(*ALL, "teleport", reason="some_new_reason", idleTimeoutMs="soon", colour={"a": [1]})
    assert peer.session.state == "CONNECTED"
    assert "teleport" not in peer.session._granted


def test_strict_reconnect_tells_a_gap_only_with_subscriptions() -> None:
    peer = live(caps=())
    peer.cut()
    peer.back()
    peer.greet()
    assert peer.take(Gap) == []
    peer.session.subscribe(["A"], peer.now)
    peer.act()
    peer.accept("a-A")
    peer.cut()
    peer.back()
    peer.greet()
    assert peer.take(Gap) == [Gap(None, None, "session_lost", "snapshot", peer.wall)]
    assert peer.requests[-1]["tokens"] == ["a-A"]
