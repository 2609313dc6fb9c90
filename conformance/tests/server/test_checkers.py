"""Each checker says nothing about a good history, and exactly what is wrong with each bad one."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.server import checkers
from tokenwire_conformance.server.checkers import Checker, Finding
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received

NOW_MS = 1_764_547_200_000
ID = "f30104da-a116-406a-8f0d-b2caf2444da6"

Change = Callable[[dict[str, Any]], object]


def received(payload: bytes, *, at_s: float = 0.0, opcode: Opcode = Opcode.TEXT, compressed: bool = False) -> Received:
    """A message of these bytes, ``at_s`` after the beginning."""
    return Received(at_s, NOW_MS + at_s * 1000, opcode, payload, compressed, len(payload), 1)


def message(kind: Any, sequence: Any, data: Any, *, at_s: float = 0.0, timestamp: Any = None, **more: Any) -> Received:
    """A message with the four keys, and more if given."""
    stamp = NOW_MS + round(at_s * 1000) if timestamp is None else timestamp
    fields = {"type": kind, "sequence": sequence, "timestamp": stamp, "data": data, **more}
    return received(json.dumps(fields).encode(), at_s=at_s)


def changed(base: dict[str, Any], change: Change) -> dict[str, Any]:
    """A deep copy of ``base`` to which ``change`` was done."""
    copy: dict[str, Any] = json.loads(json.dumps(base))
    change(copy)
    return copy


def put(**values: Any) -> Change:
    return lambda data: data.update(values)


def drop(key: str) -> Change:
    return lambda data: data.pop(key)


CONNECTION: dict[str, Any] = {"status": "connected", "connectionId": ID, "maxSubscriptions": 100}
UPDATE: dict[str, Any] = {
    "address": "A", "price": "0.00002431", "marketCap": "0", "volume": {"h24": "1250000.5", "h1": "52000", "m5": "0"},
}  # fmt: skip
ANSWER: dict[str, Any] = {"action": "subscribe", "tokens": ["A", "B"], "status": "success"}
ERROR: dict[str, Any] = {"code": "INVALID_JSON", "message": "not JSON", "level": "error"}
FATAL: dict[str, Any] = {"code": "INTERNAL_ERROR", "message": "sorry", "level": "fatal"}
ENDED = CONNECTION | {"status": "disconnected"}

GOOD = [
    message("connection", 1, CONNECTION),
    message("subscription", 2, ANSWER, at_s=0.1),
    message("token_update", 3, UPDATE, at_s=0.1),
    message("token_update", 4, UPDATE | {"address": "B"}, at_s=0.1),
    message("error", 5, ERROR, at_s=0.2),
    message("token_update", 6, UPDATE, at_s=5.1),
    message("error", 7, FATAL, at_s=5.2),
    message("connection", 8, ENDED, at_s=5.2),
]
"""All types, a quiet while, and an end in good order."""

SENT = [{"type": "subscription", "data": {"action": "subscribe", "tokens": ["A", "B"]}}]


def with_deflate(messages: Sequence[Received]) -> Iterator[Finding]:
    return checkers.compression(messages, deflate=True)


def without_deflate(messages: Sequence[Received]) -> Iterator[Finding]:
    return checkers.compression(messages, deflate=False)


def of_the_subscribed(messages: Sequence[Received]) -> Iterator[Finding]:
    return checkers.only_subscribed(messages, SENT)


ALL: tuple[Checker, ...] = (
    checkers.text_frames, checkers.strict_json, checkers.envelope, checkers.four_keys, checkers.strict_types,
    checkers.sequence_first, checkers.sequence_contiguous, checkers.timestamps_near_now, checkers.timestamps_ordered,
    checkers.connection_data, checkers.update_data, checkers.subscription_data, checkers.error_data,
    checkers.greeting, checkers.end_status, checkers.after_fatal, checkers.sizes, checkers.batch_sizes,
    with_deflate, without_deflate, of_the_subscribed,
)  # fmt: skip


def found(checker: Checker, messages: Sequence[Received]) -> list[tuple[str, int]]:
    return [(finding.clause, finding.index) for finding in checker(messages)]


@pytest.mark.parametrize("checker", ALL, ids=lambda checker: checker.__name__)
def test_a_good_history(checker: Checker) -> None:
    assert list(checker(GOOD)) == []


@pytest.mark.parametrize("checker", ALL, ids=lambda checker: checker.__name__)
def test_no_history(checker: Checker) -> None:
    assert list(checker([])) == []


NUMBERS = [
    # numbers, and what sequence_first and sequence_contiguous find
    ([1, 2, 3], [], []),
    ([1.0, 2.0, 3], [], []),
    ([0, 1, 2], [("MB.sequence-first", 0)], []),
    ([2, 3], [("MB.sequence-first", 0)], []),
    (["1", 2, 3], [("MB.sequence-first", 0)], [("MB.sequence", 0)]),
    ([True, 2], [("MB.sequence-first", 0)], [("MB.sequence", 0)]),
    ([None, None], [("MB.sequence-first", 0)], [("MB.sequence", 0), ("MB.sequence", 1)]),
    ([1, 2, 2, 3], [], [("MB.sequence", 2)]),
    ([1, 2, 1, 2], [], [("MB.sequence", 2)]),
    ([1, 1, 1], [], [("MB.sequence", 1), ("MB.sequence", 2)]),
    ([1, 3, 4], [], [("MB.sequence-contiguous", 1)]),
    ([1, 2, 4, 5, 9], [], [("MB.sequence-contiguous", 2), ("MB.sequence-contiguous", 4)]),
    ([1, 1.5, 2.5], [], [("MB.sequence-contiguous", 1)]),
    ([1, math.inf, 2], [], [("MB.sequence", 1)]),
]


@pytest.mark.parametrize(("numbers", "first", "row"), NUMBERS, ids=lambda value: str(value)[:40])
def test_numbers(numbers: list[Any], first: list[tuple[str, int]], row: list[tuple[str, int]]) -> None:
    # Infinity is written as a number that is too large; json.dumps has a word for it that is not JSON.
    history = [
        received(message("error", number, ERROR).payload.replace(b"Infinity", b"1e400")) for number in numbers
    ]  # fmt: skip
    assert found(checkers.sequence_first, history) == first
    assert found(checkers.sequence_contiguous, history) == row


STAMPS = [
    # timestamp and time of receipt in s, and what timestamps_near_now and timestamps_ordered find
    ([(NOW_MS, 0), (NOW_MS, 1), (NOW_MS + 1, 2)], [], []),
    ([(NOW_MS - 55_000, 0), (NOW_MS + 55_000, 0)], [], []),
    ([(float(NOW_MS), 0)], [], []),
    ([(NOW_MS // 1000, 0)], ["MB.timestamp-near-now"], []),
    ([(NOW_MS * 1000, 0)], ["MB.timestamp-near-now"], []),
    ([(0, 0), (1, 1)], ["MB.timestamp-near-now"] * 2, []),
    ([(NOW_MS - 3_600_000, 0)], ["MB.timestamp-near-now"], []),
    ([(NOW_MS, 0), (NOW_MS, 61)], ["MB.timestamp-near-now"], []),
    ([(NOW_MS + 1, 0), (NOW_MS, 0), (NOW_MS, 0)], [], ["MB.timestamp-order"]),
    ([(NOW_MS + 0.5, 0)], [], ["MB.timestamp-order"]),
    ([(1e290, 0)], ["MB.timestamp-near-now"], []),
    ([("now", 0), (None, 0), (True, 0)], [], []),
]


@pytest.mark.parametrize(("stamps", "near", "order"), STAMPS, ids=lambda value: str(value)[:40])
def test_timestamps(stamps: list[tuple[Any, float]], near: list[str], order: list[str]) -> None:
    history = []
    for stamp, at_s in stamps:
        fields = {"type": "error", "sequence": 1, "timestamp": stamp, "data": ERROR}
        history.append(received(json.dumps(fields).encode(), at_s=at_s))
    assert [finding.clause for finding in checkers.timestamps_near_now(history)] == near
    assert [finding.clause for finding in checkers.timestamps_ordered(history)] == order


def test_seconds_are_named() -> None:
    (finding,) = checkers.timestamps_near_now([message("error", 1, ERROR, timestamp=NOW_MS // 1000)])
    assert "counts seconds" in finding.message


TEXTS = [
    # a message, and what text_frames, strict_json, envelope, four_keys and strict_types find in it
    (b"hello", "", "", "MB.object", "", ""),
    (b"", "", "", "MB.object", "", ""),
    (b"[]", "", "", "MB.object", "", ""),
    (b"null", "", "", "MB.object", "", ""),
    (b'"text"', "", "", "MB.object", "", ""),
    (b"{}", "", "", "", "MB.four-keys", ""),
    (GOOD[0].payload * 2, "", "", "MB.object", "", ""),
    (b"\xef\xbb\xbf" + GOOD[0].payload, "", "MB.strict-json", "", "", ""),
    (GOOD[0].payload.decode().encode("utf-16-le"), "", "MB.strict-json", "", "", ""),
    (b'{"type":"error","sequence":1,"timestamp":1}', "", "", "", "MB.four-keys", ""),
    (b'{"type":"error","sequence":1,"data":{}}', "", "", "", "MB.four-keys", ""),
    (b'{"type":"error","timestamp":1,"data":{}}', "", "", "", "MB.four-keys", ""),
    (b'{"sequence":1,"timestamp":1,"data":{}}', "", "", "", "MB.four-keys", ""),
    (b'{"type":"error","sequence":1,"timestamp":1,"data":{},"id":1}', "", "", "", "MB.four-keys", ""),
    (b'{"type":"error","seq":1,"timestamp":1,"data":{}}', "", "", "", "MB.four-keys", ""),
    (b'{"type":"error","sequence":1,"timestamp":1,"data":[]}', "", "", "MB.object", "", ""),
    (b'{"type":"error","sequence":1,"timestamp":1,"data":null}', "", "", "MB.object", "", ""),
    (b'{"type":7,"sequence":1,"timestamp":1,"data":{}}', "", "", "MB.type", "", ""),
    (b'{"type":["x"],"sequence":1,"timestamp":1,"data":{}}', "", "", "MB.type", "", ""),
    (b'{"type":"error","sequence":"1","timestamp":1,"data":{}}', "", "", "MB.sequence", "", ""),
    (b'{"type":"error","sequence":true,"timestamp":1,"data":{}}', "", "", "MB.sequence", "", ""),
    (b'{"type":"error","sequence":1,"timestamp":"2025-12-01","data":{}}', "", "", "MB.timestamp", "", ""),
    (b'{"type":"error","sequence":1,"timestamp":null,"data":{}}', "", "", "MB.timestamp", "", ""),
    (b'{"type":"heartbeat","sequence":1,"timestamp":1,"data":{}}', "", "", "", "", "MB.strict-types"),
    (b'{"type":"Error","sequence":1,"timestamp":1,"data":{}}', "", "", "", "", "MB.strict-types"),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "frames", "strict", "envelope", "keys", "types"), TEXTS)
def test_envelopes(payload: bytes, frames: str, strict: str, envelope: str, keys: str, types: str) -> None:
    history = [GOOD[0], received(payload)]
    named = {
        checkers.text_frames: frames, checkers.strict_json: strict, checkers.envelope: envelope,
        checkers.four_keys: keys, checkers.strict_types: types,
    }  # fmt: skip
    for checker, clause in named.items():
        assert found(checker, history) == ([(clause, 1)] if clause else []), checker.__name__


def test_several_wrong_types_are_told_each() -> None:
    bad = received(b'{"type":1,"sequence":"2","timestamp":"3","data":4}')
    clauses = [finding.clause for finding in checkers.envelope([bad])]
    assert clauses == ["MB.object", "MB.type", "MB.sequence", "MB.timestamp"]


def test_binary_messages() -> None:
    binary = received(GOOD[0].payload, opcode=Opcode.BINARY)
    assert found(checkers.text_frames, [binary, GOOD[1], binary]) == [("MB.text-frame", 0), ("MB.text-frame", 2)]


def volume(**values: Any) -> Change:
    return lambda data: data["volume"].update(values)


DATA: list[tuple[Checker, str, dict[str, Any], Change, list[str]]] = [
    *(
        (checkers.connection_data, "connection", CONNECTION, change, clauses)
        for change, clauses in [
            (put(status="disconnected"), []),
            (put(maxSubscriptions=0), []),
            (put(maxSubscriptions=250.0), []),
            (put(connectionId=ID.upper()), []),
            (put(status="ok"), ["MC.status"]),
            (put(status=None), ["MC.status"]),
            (put(connectionId="42"), ["MC.connection-id"]),
            (put(connectionId=ID.replace("-", "")), ["MC.connection-id"]),
            (put(connectionId=None), ["MC.connection-id"]),
            (put(maxSubscriptions="100"), ["MC.max-subscriptions"]),
            (put(maxSubscriptions=99.5), ["MC.max-subscriptions"]),
            (put(maxSubscriptions=True), ["MC.max-subscriptions"]),
            (drop("status"), ["MC.fields"]),
            (drop("connectionId"), ["MC.fields"]),
            (drop("maxSubscriptions"), ["MC.fields"]),
            (put(capabilities=[]), ["MC.fields"]),
            (put(status=1, connectionId=2), ["MC.connection-id", "MC.status"]),
        ]
    ),
    *(
        (checkers.update_data, "token_update", UPDATE, change, clauses)
        for change, clauses in [
            (put(price="12345678901234567890.123456789"), []),
            (put(address=7), ["MU.address"]),
            (put(address=""), ["MU.address-form"]),
            (put(price=0.5), ["MU.price"]),
            (put(price=None), ["MU.price"]),
            (put(price="cheap"), ["MU.price"]),
            (put(price=""), ["MU.price"]),
            (put(price="1,5"), ["MU.price"]),
            (put(price="NaN"), ["MU.price"]),
            (put(price="1.50"), ["MU.canonical"]),
            (put(price="01"), ["MU.canonical"]),
            (put(price="+1"), ["MU.canonical"]),
            (put(price="2.431e-05"), ["MU.canonical"]),
            (put(price=".5"), ["MU.canonical"]),
            (put(marketCap=0), ["MU.market-cap"]),
            (put(marketCap="unknown"), ["MU.market-cap"]),
            (put(marketCap="0.0"), ["MU.canonical"]),
            (put(volume="5"), ["MU.volume"]),
            (volume(h24=5), ["MU.volume"]),
            (volume(h1=None), ["MU.volume"]),
            (volume(m5="much"), ["MU.volume-decimal"]),
            (volume(m5="-0"), ["MU.canonical"]),
            (volume(d7="1"), ["MU.fields"]),
            (lambda data: data["volume"].pop("m5"), ["MU.fields"]),
            (drop("price"), ["MU.fields"]),
            (drop("volume"), ["MU.fields"]),
            (put(symbol="DOGE"), ["MU.fields"]),
        ]
    ),
    *(
        (checkers.subscription_data, "subscription", ANSWER, change, clauses)
        for change, clauses in [
            (put(action="unsubscribe", status="error"), []),
            (put(tokens=["A"] * 1_001), []),
            (put(action="subscribed"), ["MS.action"]),
            (put(action=None), ["MS.action"]),
            (put(status="ok"), ["MS.status"]),
            (put(status=True), ["MS.status"]),
            (put(tokens="A"), ["MS.tokens"]),
            (put(tokens=None), ["MS.tokens"]),
            (put(tokens=["A", 7]), ["MS.tokens"]),
            (put(tokens=[]), ["MS.answer-order"]),
            (put(tokens=["x" * 257]), ["MS.refused-echo"]),
            (drop("tokens"), ["MS.fields"]),
            (drop("status"), ["MS.fields"]),
            (put(message="fine"), ["MS.fields"]),
        ]
    ),
    *(
        (checkers.error_data, "error", ERROR, change, clauses)
        for change, clauses in [
            (put(level="warning", message=""), []),
            (put(code="X_1"), []),
            (put(code=404), ["ME.code"]),
            (put(code=None), ["ME.code"]),
            (put(code="invalid json"), ["ME.catalogue"]),
            (put(message=None), ["ME.message"]),
            (put(message={"en": "x"}), ["ME.message"]),
            (put(level="critical"), ["ME.level"]),
            (put(level=["fatal"]), ["ME.level"]),
            (drop("code"), ["ME.fields"]),
            (drop("message"), ["ME.fields"]),
            (drop("level"), ["ME.fields"]),
            (put(details={}), ["ME.fields"]),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("checker", "kind", "base", "change", "clauses"), DATA)
def test_data(checker: Checker, kind: str, base: dict[str, Any], change: Change, clauses: list[str]) -> None:
    history = [*GOOD, message(kind, 9, changed(base, change))]
    assert sorted(found(checker, history)) == [(clause, len(GOOD)) for clause in sorted(clauses)]
    # What is wrong with data is nobody else's business.
    others = {checkers.connection_data, checkers.update_data, checkers.subscription_data, checkers.error_data}
    for other in others - {checker}:
        assert list(other(history)) == []


@pytest.mark.parametrize("kind", checkers.TYPES)
def test_every_keyword_of_the_schemas_has_a_clause(kind: str) -> None:
    """Values of every wrong kind, in every place: never an error of the checker itself."""
    base = {"connection": CONNECTION, "token_update": UPDATE, "subscription": ANSWER, "error": ERROR}[kind]
    checker = {
        "connection": checkers.connection_data, "token_update": checkers.update_data,
        "subscription": checkers.subscription_data, "error": checkers.error_data,
    }[kind]  # fmt: skip
    wrong: list[Any] = [None, True, -1, 1.5, "", "x" * 300, [], [[]], [""], ["x" * 300], {}, {"h24": []}, ["A"] * 1_001]
    for key in base:
        for value in wrong:
            for finding in checker([message(kind, 1, base | {key: value})]):
                assert finding.clause in CLAUSES


GREETINGS = [
    ([message("connection", 1, CONNECTION | {"status": "error"})], [("MC.connected", 0)]),
    ([message("connection", 1, {})], [("MC.connected", 0)]),
    ([message("subscription", 1, ANSWER), GOOD[0]], [("MC.first", 0)]),
    ([received(b"welcome"), GOOD[0]], [("MC.first", 0)]),
    ([message("error", 1, ERROR)], [("MC.first", 0)]),
    ([message("error", 1, FATAL | {"code": "MAX_CONNECTIONS"})], []),
    ([message("connection", 1, CONNECTION | {"status": ["connected"]})], [("MC.connected", 0)]),
]


@pytest.mark.parametrize(("history", "expected"), GREETINGS)
def test_greetings(history: list[Received], expected: list[tuple[str, int]]) -> None:
    assert found(checkers.greeting, history) == expected


ENDS = [
    ([message("connection", 2, ENDED), message("token_update", 3, UPDATE)], [("MC.end-status", 1)]),
    ([message("connection", 2, CONNECTION | {"status": "error"}), GOOD[0]], [("MC.end-status", 1)]),
    ([message("connection", 2, ENDED), message("connection", 3, ENDED)], [("MC.end-status", 1)]),
    ([GOOD[0], message("connection", 2, CONNECTION)], []),
    ([message("connection", 2, CONNECTION | {"status": []}), GOOD[0]], []),
]


@pytest.mark.parametrize(("history", "expected"), ENDS)
def test_ends(history: list[Received], expected: list[tuple[str, int]]) -> None:
    assert found(checkers.end_status, history) == expected


FATALS = [
    ([message("error", 1, FATAL), message("token_update", 2, UPDATE, at_s=0.1)], [("ME.end-order", 1)]),
    ([message("error", 1, FATAL), message("error", 2, FATAL)], [("ME.end-order", 1)]),
    ([message("error", 1, FATAL), message("connection", 2, ENDED), GOOD[2]], [("ME.end-order", 2)]),
    ([message("error", 1, FATAL), message("token_update", 2, UPDATE, at_s=7)], [("ME.fatal-ends", 1)]),
    ([message("error", 1, FATAL), message("connection", 2, CONNECTION, at_s=7)], [("ME.fatal-ends", 1)]),
    ([message("error", 1, FATAL), GOOD[1], GOOD[5]], [("ME.end-order", 1), ("ME.end-order", 2)]),
    ([message("error", 1, ERROR), message("token_update", 2, UPDATE, at_s=7)], []),
]  # fmt: skip


@pytest.mark.parametrize(("history", "expected"), FATALS)
def test_fatal_errors(history: list[Received], expected: list[tuple[str, int]]) -> None:
    assert found(checkers.after_fatal, history) == expected


COMPRESSED = [
    # size, whether compressed, whether agreed on
    (1_024, False, True, []),
    (1_025, True, True, []),
    (1_025, False, False, []),
    (1_025, False, True, ["PF.compress-large"]),
    (500_000, False, True, ["PF.compress-large"]),
    (1_024, True, True, ["PF.compress-only-large"]),
    (2, True, True, ["PF.compress-only-large"]),
]


@pytest.mark.parametrize(("size", "compressed", "deflate", "clauses"), COMPRESSED)
def test_compression(size: int, compressed: bool, deflate: bool, clauses: list[str]) -> None:
    history = [received(b"x" * size, compressed=compressed)]
    assert [finding.clause for finding in checkers.compression(history, deflate=deflate)] == clauses


@pytest.mark.parametrize(("size", "clauses"), [(1_048_576, []), (1_048_577, ["CR.message-size-sent"])])
def test_sizes(size: int, clauses: list[str]) -> None:
    assert [finding.clause for finding in checkers.sizes([received(b"x" * size)])] == clauses


@pytest.mark.parametrize(("count", "clauses"), [(1_000, []), (1_001, ["PF.batch-size"]), (5_000, ["PF.batch-size"])])
def test_batch_sizes(count: int, clauses: list[str]) -> None:
    history = [
        message("subscription", 1, ANSWER | {"tokens": ["A"] * count}),
        message("subscription", 2, {"tokens": 7}),
    ]
    assert [finding.clause for finding in checkers.batch_sizes(history)] == clauses


def update(address: Any) -> Received:
    return message("token_update", 1, UPDATE | {"address": address})


SUBSCRIBED = [
    # names that were asked for, messages, and what is found
    (["A", "B"], [update("A"), update("B")], []),
    (["0xAbC"], [update("0xabc")], []),
    (["DOGE"], [message("subscription", 1, ANSWER | {"tokens": ["binance:DOGE"]}), update("binance:DOGE")], []),
    ([], [update("A")], [("MU.only-subscribed", 0)]),
    (["A"], [update("A"), update("B"), update("B")], [("MU.only-subscribed", 1)]),
    (["A"], [update("A"), update("B"), update("C")], [("MU.only-subscribed", 1), ("MU.only-subscribed", 2)]),
    (["A"], [update("B"), update("C")], [("MU.only-subscribed", 0), ("MU.only-subscribed", 1)]),
    # DOGE may be the symbol of the first, and so for each that has no update of its own.
    (["DOGE"], [update("binance:DOGE")], [("MU.address-form", 0)]),
    (["A", "B"], [update("A"), update("C")], [("MU.address-form", 1)]),
    (["A"], [update(7), update(["A"])], []),
]


@pytest.mark.parametrize(("names", "history", "expected"), SUBSCRIBED)
def test_only_the_subscribed(names: list[str], history: list[Received], expected: list[tuple[str, int]]) -> None:
    sent = [{"type": "subscription", "data": {"action": "subscribe", "tokens": names}}, 7, {"data": []}, {"data": {}}]
    assert [(finding.clause, finding.index) for finding in checkers.only_subscribed(history, sent)] == expected


OTHER = ID.replace("f", "a")
IDS: list[tuple[list[Any], list[int]]] = [
    ([ID, OTHER], []),
    ([ID, OTHER, ID], [2]),
    ([ID, ID, ID], [1, 2]),
    ([ID, ID.upper()], [1]),
    ([None, None, ["x"], ["x"]], []),
]


@pytest.mark.parametrize(("ids", "expected"), IDS)
def test_distinct_ids(ids: list[Any], expected: list[int]) -> None:
    connections = [[message("connection", 1, CONNECTION | {"connectionId": name}), GOOD[1]] for name in ids]
    findings = list(checkers.distinct_ids([*connections, []]))
    assert [(finding.clause, finding.index) for finding in findings] == [("MC.fresh-id", index) for index in expected]


def test_every_clause_exists() -> None:
    cited = {clause for _, _, _, _, clauses in DATA for clause in clauses}
    cited |= {clause for _, *clauses in TEXTS for clause in clauses if clause}
    assert cited <= set(CLAUSES)
