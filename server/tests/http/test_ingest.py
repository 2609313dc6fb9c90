"""Trades that are posted: what becomes of each, exactly once, and durably."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server import intake as intake_module
from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.gateway.ingest import MAX_POST_BYTES, MAX_POSTS
from tokenwire_server.intake import POSTED, Intake
from tokenwire_server.market.posted import MAX_POST_TRADES
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState
from tokenwire_server.settings import Settings

from .asgi import Reply, ask
from .ledger import Moody, kept

NOW_MS = 1_774_089_000_000  # 2026-03-21T10:30:00Z
LOCAL = {"host": "localhost:8080", "content-type": "application/json"}


class Site:
    """A server without sources whose wall clock stands."""

    def __init__(self, max_tokens: int = 20, **settings: Any) -> None:
        self.pipeline = Pipeline(max_tokens, lambda: 0, lambda: NOW_MS)
        self.intake = Intake(self.pipeline, None, "posted")
        self.app: HttpApp = build_http_app(
            self.pipeline, lambda: (b"", "text/plain"), Settings(**settings), self.pipeline, self.intake
        )
        self.ledger: Moody | None = None

    async def post(self, body: object, status: int = 200, path: str = "/api/v1/trades") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await ask(self.app, path, "POST", LOCAL, [data])
        assert reply.status == status, reply.body
        kind = "application/json" if status == 200 else "application/problem+json"
        assert reply.headers["content-type"] == kind
        return reply.json

    async def get(self, path: str) -> Any:
        reply = await ask(self.app, path)
        assert reply.status == 200, reply.body
        return reply.json

    @property
    def moody(self) -> Moody:
        assert self.ledger is not None
        return self.ledger


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site()
    async with kept(site.pipeline, tmp_path) as ledger:
        site.ledger = site.intake.ledger = ledger
        yield site


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def trade(name: str = "a", **changes: object) -> dict[str, object]:
    fields = {
        "id": name,
        "symbol": "PEPE",
        "price": "0.000001234",
        "amount": 1000000.0,
        "side": "Buy",
        "timestamp": "2026-03-21T10:30:00Z",
    }
    return {key: value for key, value in {**fields, **changes}.items() if value is not None}


def result(accepted: int = 0, duplicates: int = 0) -> dict[str, Any]:
    return {"accepted": accepted, "duplicates": duplicates, "rejected": [], "flagged": []}


@pytest.mark.parametrize("path", ["/api/v1/trades", "/internal/trades"])
async def test_a_posted_trade_is_there_everywhere(site: Site, path: str) -> None:
    assert await site.post(trade(), path=path) == result(accepted=1)
    (row,) = (await site.get("/api/v1/trades/PEPE"))["data"]
    assert row == {
        **trade(),
        "number": 1,
        "address": "posted:PEPE",
        "amount": "1000000",
        "timestamp": "2026-03-21T10:30:00.000Z",
    }
    token = await site.get("/api/v1/tokens/posted:PEPE")
    assert (token["source"], token["price"], token["volume"]["h24"]) == (POSTED, "0.000001234", "1.234")
    (bar,) = (await site.get("/api/v1/klines/PEPE?interval=1m"))["data"]
    assert (bar["close"], bar["closed"]) == ("0.000001234", False)
    assert site.pipeline.states == {POSTED: SourceState.LIVE}


async def test_numbers_are_exact_however_they_are_written(site: Site) -> None:
    price, amount = "0.12345678901234567890123456789", "12345678901234567890.5"
    text = json.dumps(trade()).replace('"0.000001234"', price).replace("1000000.0", amount)
    await site.post(text.encode())
    (row,) = (await site.get("/api/v1/trades/PEPE"))["data"]
    assert (row["price"], row["amount"]) == (price, amount)


async def test_each_item_has_its_own_fate(site: Site) -> None:
    items = [trade("a"), trade("b", price="-1"), 7, trade("a"), trade(None, id=None), trade("c", venue="mine")]
    found = await site.post(items)
    assert (found["accepted"], found["duplicates"]) == (2, 1)
    assert [(each["index"], each["id"], each["code"], each["reason"]) for each in found["rejected"]] == [
        (1, "b", "DATA_REJECTED", "price_not_positive"),
        (2, None, "DATA_REJECTED", "not_an_object"),
        (4, None, "DATA_REJECTED", "trade_id_invalid"),
    ]
    assert {token.address for token in site.pipeline.market} == {"posted:PEPE", "mine:PEPE"}
    assert site.pipeline.rejections == {
        (POSTED, "price_not_positive"): 1,
        (POSTED, "not_an_object"): 1,
        (POSTED, "trade_id_invalid"): 1,
    }


async def test_all_rejected_is_a_problem_that_names_each(site: Site) -> None:
    found = await site.post([trade(side="hold"), trade(price="NaN")], 422)
    assert found.keys() >= {"title", "status", "detail", "instance"}
    assert [each["reason"] for each in found["rejected"]] == ["side_invalid", "price_invalid"]
    assert len(site.pipeline.market) == 0
    assert site.pipeline.states == {}, "nothing was ever posted"


async def test_nothing_is_accepted_gladly(site: Site) -> None:
    assert await site.post([]) == result()
    assert site.moody.settled_calls == 0


async def test_odd_trades_are_used_and_flagged(site: Site) -> None:
    found = await site.post(
        [
            trade("a", price="1"),
            trade("b", price="1.5"),
            trade("c", price="2.26"),
            trade("d", timestamp="1999-01-01T00:00:00Z"),
            trade("e", timestamp=NOW_MS + 86_400_000, price="9"),
        ]
    )
    assert (found["accepted"], found["rejected"]) == (5, [])
    assert found["flagged"] == [
        {"index": 2, "id": "c", "flags": ["price_jump"]},
        {"index": 3, "id": "d", "flags": ["time_old"]},
        {"index": 4, "id": "e", "flags": ["price_jump", "time_ahead"]},
    ]
    assert site.pipeline.doubts == {(POSTED, "price_jump"): 2, (POSTED, "time_old"): 1, (POSTED, "time_ahead"): 1}


async def test_an_old_id_is_known_across_restarts_and_however_many_came_after_it(tmp_path: Path) -> None:
    for begin in range(3):
        site = Site()
        async with kept(site.pipeline, tmp_path) as ledger:
            site.intake.ledger = ledger
            found = await site.post([trade(str(number)) for number in range(1_000)])
            assert found == (result(accepted=1_000) if begin == 0 else result(duplicates=1_000))
            for batch in range(2):
                more = [trade(f"{begin}-{batch}-{number}") for number in range(1_000)]
                assert await site.post(more) == result(accepted=1_000)
            assert await site.post(trade("0")) == result(duplicates=1)
            page = await site.get("/api/v1/trades/PEPE?limit=1")
            assert page["newest"] == 1_000 + 2_000 * (begin + 1)


async def test_several_writers_at_once_make_one_order_and_no_duplicate(site: Site) -> None:
    def batches(writer: int) -> list[range]:
        return [range(first, first + 20) for first in range(writer % 7, 100, 5)]

    async def write(writer: int) -> list[Any]:
        return [await site.post([trade(str(number)) for number in numbers]) for numbers in batches(writer)]

    found = [each for replies in await asyncio.gather(*map(write, range(12))) for each in replies]
    names = {str(number) for writer in range(12) for numbers in batches(writer) for number in numbers}
    assert sum(each["accepted"] for each in found) == len(names)
    assert sum(each["accepted"] + each["duplicates"] for each in found) == 20 * len(found)
    rows = (await site.get("/api/v1/trades/PEPE?after=0&limit=1000"))["data"]
    assert [row["number"] for row in rows] == list(range(1, len(names) + 1))
    assert {row["id"] for row in rows} == names


async def test_one_id_counts_once_whatever_comes_between_asking_for_it_and_using_it(site: Site) -> None:
    """More trades than the market remembers the ids of."""
    await site.post(trade("first"))
    gate = site.moody.next_answer = asyncio.Event()
    slow = asyncio.create_task(site.post(trade("same")))
    await until(lambda: site.moody.next_answer is None)

    async def meanwhile() -> int:
        accepted = (await site.post(trade("same")))["accepted"]
        for batch in range(2):
            await site.post([trade(f"{batch}-{number}") for number in range(MAX_POST_TRADES)])
        return int(accepted)

    others = asyncio.create_task(meanwhile())
    await asyncio.wait([others], timeout=1)
    gate.set()
    assert (await slow)["accepted"] + await others == 1
    assert (await site.get("/api/v1/trades/PEPE"))["newest"] == 2 + 2 * MAX_POST_TRADES


async def test_no_answer_before_it_is_stored(site: Site) -> None:
    site.moody.may_settle.clear()
    posting = asyncio.create_task(site.post(trade()))
    repeated = asyncio.create_task(site.post(trade()))
    await until(lambda: site.moody.settled_calls == 2)
    assert not posting.done()
    assert not repeated.done(), "a duplicate is not stored yet either"
    site.moody.may_settle.set()
    assert await posting == result(accepted=1)
    assert await repeated == result(duplicates=1)


async def test_a_disk_that_fails_is_told_and_posting_again_is_harmless(site: Site) -> None:
    site.moody.fails_to_settle = True
    reply = await ask(site.app, "/api/v1/trades", "POST", LOCAL, [json.dumps([trade("a"), trade("b")]).encode()])
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    site.moody.fails_to_settle = False
    assert await site.post([trade("a"), trade("b"), trade("c")]) == result(accepted=1, duplicates=2)
    site.moody.fails_to_check = True
    await site.post(trade("d"), 503)
    assert (await site.get("/api/v1/trades/PEPE"))["newest"] == 3, "nothing was taken that can't be kept"


async def test_a_disk_that_hangs_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "SETTLE_TIMEOUT_S", 0.02)
    site.moody.may_settle.clear()
    await site.post(trade(), 503)
    site.moody.may_settle.set()
    monkeypatch.setattr(intake_module, "SETTLE_TIMEOUT_S", 5)
    assert await site.post(trade()) == result(duplicates=1)


async def test_without_numbers_that_can_be_kept_nothing_is_taken(site: Site) -> None:
    numbers = site.pipeline.market.numbers
    numbers.reserved, extend = numbers.given + 1, numbers.extend
    numbers.extend = lambda: False
    await site.post([trade("a"), trade("b")], 503)
    numbers.extend = extend
    assert await site.post([trade("a"), trade("b")]) == result(accepted=1, duplicates=1)


async def test_without_a_history_nothing_is_taken() -> None:
    detail = (await Site().post(trade(), 503))["detail"]
    assert "--data DIR" in detail


async def test_a_symbol_of_another_source_is_its_own(site: Site) -> None:
    site.pipeline.states["live"] = SourceState.LIVE
    site.pipeline.tokens("live", [TokenInfo("x-address", "PEPE"), TokenInfo("posted:DOGE", "DOGE")])
    site.pipeline.tokens("live", [TokenInfo("y", "TWICE"), TokenInfo("z", "TWICE")])
    names = ["PEPE", "pepe", "DOGE", "TWICE", "x-address"]
    items = [trade(name, symbol=name) for name in names] + [trade("v", symbol="NEW", venue="live")]
    found = await site.post(items, 422)
    assert {each["code"] for each in found["rejected"]} == {"SYMBOL_TAKEN"}
    assert "comes from the source live" in found["rejected"][0]["message"]
    assert len(site.pipeline.market) == 4
    assert await site.post([trade(symbol="SHIB"), *items]) == {**found_of(found, 1), "accepted": 1}


def found_of(found: dict[str, Any], shift: int) -> dict[str, Any]:
    rejected = [{**each, "index": each["index"] + shift} for each in found["rejected"]]
    return {"accepted": 0, "duplicates": 0, "rejected": rejected, "flagged": []}


async def test_there_is_an_end_to_new_tokens(tmp_path: Path) -> None:
    site = Site(max_tokens=2)
    async with kept(site.pipeline, tmp_path) as ledger:
        site.intake.ledger = ledger
        found = await site.post([trade(symbol=f"S{number}") for number in range(4)])
        assert (found["accepted"], [each["code"] for each in found["rejected"]]) == (2, ["TOKEN_LIMIT"] * 2)
        assert await site.post(trade("b", symbol="S1")) == result(accepted=1)


async def test_one_request_has_bounds(site: Site) -> None:
    many = [trade(str(number)) for number in range(MAX_POST_TRADES + 1)]
    assert "at most 1000 trades" in (await site.post(many, 413))["detail"]
    assert await site.post(many[1:]) == result(accepted=MAX_POST_TRADES)
    padded = json.dumps([trade()]).encode().ljust(MAX_POST_BYTES)
    assert await site.post(padded) == result(accepted=1)
    assert "larger than 1048576 bytes" in (await site.post(padded + b" ", 413))["detail"]


async def test_a_body_that_says_it_is_too_large_is_not_read(site: Site) -> None:
    for announced in (str(MAX_POST_BYTES + 1), "9" * 5_000):
        headers = {**LOCAL, "content-length": announced}
        reply = await ask(site.app, "/api/v1/trades", "POST", headers, never())
        assert reply.status == 413


def never() -> Any:
    pytest.fail("the body was read")
    yield b""


@pytest.mark.parametrize("body", [b"", b"{", b"7", b"<html>", b'[{"price":NaN}]', b"\xff", b"[" * 1_000_000])
async def test_what_is_no_json(site: Site, body: bytes) -> None:
    await site.post(body, 400)


async def test_too_many_at_once(site: Site) -> None:
    site.moody.may_settle.clear()
    posting = [asyncio.create_task(site.post(trade(str(number)))) for number in range(MAX_POSTS)]
    await until(lambda: site.moody.settled_calls == MAX_POSTS)
    assert "others are posting" in (await site.post(trade("x"), 503))["detail"]
    site.moody.may_settle.set()
    assert await asyncio.gather(*posting) == [result(accepted=1)] * MAX_POSTS
    assert await site.post(trade("x")) == result(accepted=1)


async def test_the_path_takes_nothing_else(site: Site) -> None:
    for path in ("/api/v1/trades", "/internal/trades"):
        reply: Reply = await ask(site.app, path)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        assert "use POST" in reply.json["detail"]
