"""Sets of tokens whose members the server keeps (I-80)."""

import random
from typing import Any

import pytest

from tokenwire_schemas import limits
from tokenwire_schemas.extension_messages import SetData
from tokenwire_server.core.holdings import differences

from .conftest import Bench, Client, codes, kinds

CAPS = "batch,channels,details,resume"


def follow(bench: Bench, *names: str, caps: str = CAPS, channels: tuple[str, ...] = ("token",)) -> Client:
    client, _ = bench.ask(caps)
    client.subscribe(*names, channels=list(channels))
    return client


def changes(messages: list[dict[str, Any]]) -> list[tuple[list[str], list[str]]]:
    return [(each["data"]["added"], each["data"]["removed"]) for each in messages if each["type"] == "set"]


def values(messages: list[dict[str, Any]]) -> list[str]:
    return [
        item["address"]
        for message in messages
        if message["type"] == "token_batch"
        for item in message["data"]["updates"]
    ]


def test_members_are_told_with_their_values_and_followed(bench: Bench) -> None:
    bench.directory.sets["set:top:2"] = ("token1", "token0")
    client = follow(bench, "set:top:2")
    messages = client.read()
    assert kinds(messages) == ["subscription", "set", "token_batch"]
    assert messages[0]["data"]["tokens"] == ["set:top:2"]
    assert messages[1]["data"] == {"set": "set:top:2", "added": ["token1", "token0"], "removed": [], "size": 2}
    assert set(values(messages)) == {"token0", "token1"}
    bench.directory.sets["set:top:2"] = ("token1", "token3")
    for token in ("token0", "token1", "token3"):
        bench.change(token)
    bench.tick()
    messages = client.read()
    assert changes(messages) == [(["token3"], ["token0"])]
    assert kinds(messages)[0] == "set", "before the first value of who came"
    assert sorted(set(values(messages))) == ["token1", "token3"]
    bench.change("token0")
    bench.tick()
    assert client.read() == []


def test_another_order_is_no_change(bench: Bench) -> None:
    bench.directory.sets["set:top:2"] = ("token1", "token0")
    client = follow(bench, "set:top:2")
    client.read()
    bench.directory.sets["set:top:2"] = ("token0", "token1")
    bench.tick()
    assert client.read() == []


def test_a_set_counts_once_and_tokens_asked_for_besides_stay(bench: Bench) -> None:
    bench.directory.sets["set:all"] = ("token0", "token1", "token2")
    client = follow(bench, "set:all")
    assert client.read()[0]["data"]["active"] == 1
    client.subscribe("token1")
    assert client.read()[0]["data"]["active"] == 2
    client.subscribe("set:all", action="unsubscribe")
    assert client.read()[0]["data"]["active"] == 1
    for token in ("token0", "token1"):
        bench.change(token)
    bench.tick()
    assert values(client.read()) == ["token1"]
    assert bench.hub.followers == {} or client.link.session.holdings is None


def test_who_leaves_a_token_that_its_set_holds_goes_on_getting_it(bench: Bench) -> None:
    bench.directory.sets["set:all"] = ("token0",)
    client, _ = bench.ask(CAPS)
    client.subscribe("token0")
    client.subscribe("set:all")
    client.subscribe("token0", action="unsubscribe")
    client.read()
    bench.change("token0")
    bench.tick()
    assert values(client.read()) == ["token0"]


def test_sets_have_channels_too(bench: Bench) -> None:
    bench.directory.sets["set:new"] = ("token0",)
    client = follow(bench, "set:new", channels=("trades",))
    assert kinds(client.read()) == ["subscription", "set"]
    bench.directory.sets["set:new"] = ("token1",)
    bench.tick()
    bench.happen("token0")
    bench.happen("token1")
    bench.flush_topics()
    messages = client.read()
    assert changes(messages) == [(["token1"], ["token0"])]
    assert [each["address"] for each in messages[-1]["data"]["transactions"]] == ["token1"]
    assert bench.directory.idle == [("token0", "trades", True)]
    client.subscribe("set:new", action="unsubscribe", channels=["token"])
    assert client.read()[0]["data"]["active"] == 1
    client.subscribe("set:new", action="unsubscribe", channels=["trades"])
    assert client.read()[0]["data"]["active"] == 0
    assert bench.directory.topics == {}


def test_what_there_is_not(bench: Bench) -> None:
    bench.directory.sets["set:all"] = tuple(f"token{number}" for number in range(limits.MAX_SET_TOPICS + 1))
    client = follow(bench, "set:nope", "set:all", channels=("trades",))
    refused, *errors = client.read()
    assert {each["token"]: each["code"] for each in refused["data"]["rejected"]} == {
        "set:nope": "TOKEN_NOT_FOUND",
        "set:all": "UNKNOWN_CHANNEL",
    }
    assert [error["data"]["message"].partition("; ")[2] for error in errors] == [
        "sets are set:all",
        "there are token, trades, state and both",
    ]
    plain, _ = bench.ask("details")
    plain.subscribe("set:all")
    assert codes(plain.read()) == ["TOKEN_NOT_FOUND"], "without the capability it is a name as any other"


def test_a_set_beyond_the_limit_is_refused(bench: Bench) -> None:
    for number in range(5, 100):
        bench.add(f"token{number}")
    bench.directory.sets["set:all"] = ("token0",)
    client, _ = bench.ask(CAPS)
    client.subscribe(*(f"token{number}" for number in range(100)))
    client.read()
    client.subscribe("set:all")
    assert codes(client.read()) == ["SUBSCRIPTION_LIMIT"]


def test_a_reader_who_lags_is_told_once_it_has_read(bench: Bench) -> None:
    bench.directory.sets["set:all"] = ("token0",)
    client = follow(bench, "set:all")
    client.read()
    bench.hub.pause(client.link, bench.now)
    for members in (("token1",), ("token2",), ("token2", "token3")):
        bench.directory.sets["set:all"] = members
        bench.tick()
    client.read()
    bench.tick()
    assert changes(client.read()) == [(["token2", "token3"], ["token0"])]


def test_a_session_that_comes_back_goes_on_and_a_new_one_is_told_everything(bench: Bench) -> None:
    bench.directory.sets["set:all"] = ("token0", "token1")
    client, data = bench.ask(CAPS)
    client.subscribe("set:all", "token4")
    client.read()
    position = client.last
    bench.lose(client)
    bench.directory.sets["set:all"] = ("token0", "token2")
    bench.tick()
    again, data = bench.ask(CAPS, session=data["session"], position=position)
    assert {"token": "set:all", "channels": ["token"]} in data["subscriptions"]
    assert {"token": "token4", "channels": ["token"]} in data["subscriptions"]
    assert len(data["subscriptions"]) == 2
    again.read()
    bench.tick()
    assert changes(again.read()) == [(["token2"], ["token1"])]
    bench.lose(again)
    fresh, data = bench.ask(CAPS, session=data["session"], position=9_999)
    assert data["reason"] == "position_ahead"
    messages = fresh.read()
    assert changes(messages) == [(["token0", "token2"], [])]
    assert kinds(messages).index("set") < kinds(messages).index("token_batch"), "members before their values"
    bench.tick()
    assert changes(fresh.read()) == []
    bench.lose(fresh)
    bench.pass_time(limits.RESUME_WINDOW_MS + 1_000)
    assert bench.hub.followers == {}


@pytest.mark.parametrize("seed", range(20))
def test_long_differences_are_told_in_parts(seed: int) -> None:
    source = random.Random(seed)
    everything = [f"t{number}" for number in range(3_000)]
    before = source.sample(everything, source.choice([0, 5, 999, 1_000, 2_400]))
    after = source.sample(everything, source.choice([0, 5, 999, 1_000, 2_400]))
    known = set(before)
    messages = differences("set:all", before, after)
    for message in messages:
        assert isinstance(message, SetData)
        assert len(message.added) + len(message.removed) <= 1_000
        assert message.size == len(after)
        assert known >= set(message.removed)
        known = (known - set(message.removed)) | set(message.added)
    assert known == set(after)
    assert len(messages) == max(1, -(-(len(set(before) ^ set(after))) // 1_000))


def test_a_set_that_grows_does_not_bring_more_topics_than_there_may_be(bench: Bench) -> None:
    bench.directory.sets["set:all"] = ("token0",)
    client = follow(bench, "set:all", channels=("trades", "token"))
    for number in range(5, 300):
        bench.add(f"token{number}")
    bench.directory.sets["set:all"] = tuple(f"token{number}" for number in range(300))
    bench.tick()
    client.read()
    session = client.link.session
    assert (len(session.topics), len(session.tokens)) == (limits.MAX_SET_TOPICS, 300)


def test_sets_know_one_spelling_of_a_channel(bench: Bench) -> None:
    bench.directory.sets["set:all"] = ("token0",)
    client = follow(bench, "set:all", channels=("TRADES", "trades"))
    assert client.read()[0]["data"]["active"] == 1
    client.subscribe("set:all", action="unsubscribe", channels=["trades"])
    client.read()
    bench.happen("token0")
    bench.flush_topics()
    assert client.read() == []


def test_sets_that_stay_as_they_are_cost_no_look_at_their_members(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.directory.sets["set:all"] = ("token0", "token1")
    follow(bench, "set:all").read()
    monkeypatch.setattr(bench.directory, "value", None)
    bench.tick()


def test_a_defect_in_one_set_costs_the_others_nothing(bench: Bench) -> None:
    bench.directory.sets.update({"set:bad": ("token0",), "set:good": ("token1",)})
    bad, good = follow(bench, "set:bad"), follow(bench, "set:good")
    bad.read()
    good.read()
    bench.directory.sets["set:bad"] = 7  # type: ignore[assignment]
    bench.directory.sets["set:good"] = ("token2",)
    bench.tick()
    assert changes(good.read()) == [(["token2"], ["token1"])]
    assert bench.hub.stats.bad_rows == 1
