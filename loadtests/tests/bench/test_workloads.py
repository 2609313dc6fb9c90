"""Workloads are the same in every run, written as the server writes, and tell a tick by its texts."""

import dataclasses
import json
from decimal import Decimal
from itertools import pairwise

import pytest

from loadtests.bench.plan import PLANS, WORKLOADS, in_turn
from loadtests.bench.workloads import CYCLE_TICKS, SHAPES, make, parse, subscribe_text
from tokenwire_schemas.codec import encode_data
from tokenwire_schemas.messages import TokenUpdateData, Volume
from tokenwire_server.market.decimals import canonical

SMALL = dataclasses.replace(SHAPES["W3"], tokens=40, held=10, changed=30, sets=7, connections=9)


@pytest.mark.parametrize("name", ["W1", "W2", "W9"])
def test_a_shape_always_gives_the_same_bytes(name: str) -> None:
    assert make(SHAPES[name]).to_json() == make(SHAPES[name]).to_json()


def test_another_seed_gives_others() -> None:
    assert make(SMALL).to_json() != make(dataclasses.replace(SMALL, seed=2)).to_json()


def test_what_is_written_is_read_back() -> None:
    workload = make(SMALL)
    assert parse(workload.to_json()).to_json() == workload.to_json()


def test_texts_are_what_the_server_would_write() -> None:
    for _, text in make(SHAPES["W2"]).ticks[5]:
        data = json.loads(text)
        again = TokenUpdateData(data["address"], data["price"], data["marketCap"], Volume(**data["volume"]))
        assert encode_data(again).decode() == text
        assert len(data["address"]) in (43, 44)
        for number in (data["price"], data["marketCap"], *data["volume"].values()):
            assert canonical(Decimal(number)) == number
            assert Decimal(number) > 0


def test_a_text_belongs_to_one_tick() -> None:
    workload = make(SMALL)
    texts = [text for tick in workload.ticks for _, text in tick]
    assert len(set(texts)) == len(texts)
    assert len(workload.ticks) == CYCLE_TICKS >= 60


def test_prices_move_in_small_steps() -> None:
    prices = [Decimal(json.loads(tick[0][1])["price"]) for tick in make(SHAPES["W1"]).ticks]
    assert all(abs(b - a) <= a / 1000 for a, b in pairwise(prices))


def test_everybody_gets_as_many_messages_at_each_tick() -> None:
    none_of_it = dataclasses.replace(SMALL, held=1, changed=1)
    with pytest.raises(ValueError, match="brings 0 changes"):
        make(none_of_it)
    not_all = dataclasses.replace(SMALL, kind="single")
    with pytest.raises(ValueError, match="changes to some connection"):
        make(not_all)


def test_common_tokens_are_held_by_all() -> None:
    workload = make(dataclasses.replace(SMALL, common=6))
    assert len(set.intersection(*(set(held) for held in workload.sets))) >= 6
    assert {len(held) for held in workload.sets} == {10}


def test_a_connection_subscribes_to_what_it_holds() -> None:
    workload = make(SMALL)
    tokens = json.loads(subscribe_text(workload, 3))["data"]["tokens"]
    assert {workload.tokens.index(token) for token in tokens} == workload.held_by(3) == workload.held_by(10)


def test_plans_name_what_there_is() -> None:
    assert WORKLOADS.keys() == SHAPES.keys()
    for plan in PLANS.values():
        assert set(plan.workloads) <= WORKLOADS.keys()


def test_rounds_go_there_and_back() -> None:
    assert in_turn("abc", 0) == ["a", "b", "c"]
    assert in_turn("abc", 1) == ["c", "b", "a"]
    assert in_turn("abc", 2) == ["a", "b", "c"]
