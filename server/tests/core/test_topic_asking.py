"""Who may ask for which channels, and how (I-60)."""

import pytest

from .conftest import Bench, codes, kinds
from .topic_clients import CAPS, ask, numbers


def test_channels_need_the_capability(bench: Bench) -> None:
    client, _ = bench.ask("details")
    client.subscribe("token0", channels=["trades"])
    messages = client.read()
    assert kinds(messages) == ["subscription", "token_update"], "channels are an unknown field, and ignored"
    bench.happen("token0")
    bench.flush_topics()
    assert client.read() == []


def test_each_channel_counts_and_a_token_is_taken_with_all_or_not_at_all(bench: Bench) -> None:
    client = ask(bench, "token", "trades", "state", tokens=tuple(f"token{number}" for number in range(5)))
    client.read()
    for number in range(5, 34):
        bench.add(f"token{number}")
    client.subscribe(*(f"token{number}" for number in range(5, 34)), channels=["token", "trades", "state"])
    accepted, refused, error, *_ = client.read()
    assert len(accepted["data"]["tokens"]) == 28, "33 tokens with three channels are 99"
    assert refused["data"]["rejected"] == [{"token": "token33", "code": "SUBSCRIPTION_LIMIT"}]
    assert error["data"]["code"] == "SUBSCRIPTION_LIMIT"
    assert accepted["data"]["active"] == 99
    assert ("token33", "trades") not in bench.directory.topics, "nothing is kept of a token that was refused"
    client.subscribe("token33", channels=["trades"])
    assert client.read()[0]["data"]["active"] == 100


@pytest.mark.parametrize("channel", ["nope", "klines:7x", "trades:1"])
def test_unknown_channels_refuse_the_token(bench: Bench, channel: str) -> None:
    client = ask(bench, "trades", channel)
    refused, error = client.read()
    assert refused["data"]["rejected"] == [{"token": "token0", "code": "UNKNOWN_CHANNEL"}]
    assert "channels" not in refused["data"], "a reader may know no such name"
    assert channel in error["data"]["message"]
    assert bench.directory.topics == {}
    assert bench.hub.topics.subscriptions == 0


def test_a_token_without_channels_is_refused_and_others_are_not(bench: Bench) -> None:
    bench.directory.bare.add("token1")
    client = ask(bench, "trades", tokens=("token0", "token1"))
    assert [message["data"].get("tokens") for message in client.read()] == [["token0"], ["token1"], ["token1"]]


@pytest.mark.parametrize(
    "channels", [[], "trades", [1], [""], ["x" * 65], ["trades"] * 33, {"trades": 1}, ["a\n"], None]
)
def test_malformed_channels_refuse_the_message(bench: Bench, channels: object) -> None:
    client, _ = bench.ask(CAPS)
    client.subscribe("token0", channels=channels)
    assert codes(client.read()) == ["INVALID_MESSAGE"]


def test_spellings_of_one_channel_are_one(bench: Bench) -> None:
    client = ask(bench, "trades", "TRADES")
    assert client.read()[0]["data"]["active"] == 1
    client.subscribe("token0", action="unsubscribe", channels=["TRADES"])
    assert client.read()[0]["data"]["active"] == 0
    assert bench.directory.idle == [("token0", "trades", True)]


def test_unsubscribing_takes_the_named_channels_or_all(bench: Bench) -> None:
    client = ask(bench, "token", "trades", "state")
    client.read()
    client.subscribe("token0", action="unsubscribe", channels=["trades"])
    assert client.read()[0]["data"]["active"] == 2
    bench.happen("token0")
    bench.turn("token0")
    bench.flush_topics()
    assert kinds(client.read()) == ["kline"]
    client.subscribe("token0", action="unsubscribe")
    bench.turn("token0")
    bench.change("token0")
    bench.flush_topics(300)
    bench.tick()
    assert kinds(client.read()) == ["subscription"]
    assert bench.directory.topics == {}


def test_nothing_of_a_channel_comes_after_its_unsubscribe(bench: Bench) -> None:
    client = ask(bench, "trades", "state", tokens=("token0", "token1"))
    client.read()
    bench.hub.pause(client.link, bench.now)
    for token in ("token0", "token1"):
        bench.happen(token, 2)
        bench.turn(token)
    bench.flush_topics()
    client.subscribe("token0", action="unsubscribe", channels=["trades", "state"])
    messages = client.read()
    assert numbers(messages) == [("token1", 1), ("token1", 2)]
    assert numbers(messages, "kline") == [("token1", 1)]
