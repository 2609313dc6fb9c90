"""Binance's depth frames and snapshots: as documented, as captured, and broken in every way."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.sources.binance_depth import (
    MAX_EVENT_LEVELS,
    DepthEvent,
    depth_stream,
    parse_depth,
    parse_snapshot,
    snapshot_path,
)
from tokenwire_server.sources.frames import FormatError

# As in the venue's documentation, "Diff. Depth Stream" of its WebSocket streams and "Order book" of its REST API.
EVENT = """
{"e": "depthUpdate", "E": 1672515782136, "s": "BNBBTC", "U": 157, "u": 160,
 "b": [["0.0024", "10"]], "a": [["0.0026", "100"]]}
"""
SNAPSHOT = """
{"lastUpdateId": 1027024, "bids": [["4.00000000", "431.00000000"]], "asks": [["4.00000200", "12.00000000"]]}
"""


def changed(**keys: Any) -> str:
    return json.dumps({**json.loads(EVENT), **keys})


def test_the_documented_event() -> None:
    expected = DepthEvent(
        symbol="BNBBTC",
        first=157,
        last=160,
        bids=((Decimal("0.0024"), Decimal(10)),),
        asks=((Decimal("0.0026"), Decimal(100)),),
        time_ms=1672515782136,
    )
    assert parse_depth(EVENT) == expected
    assert parse_depth(f'{{"stream":"bnbbtc@depth@100ms","data":{EVENT}}}'.encode()) == expected


def test_the_documented_snapshot() -> None:
    snapshot = parse_snapshot(SNAPSHOT.encode(), 77)
    assert (snapshot.last, snapshot.time_ms) == (1027024, 77)
    assert snapshot.bids == ((Decimal(4), Decimal(431)),)
    assert snapshot.asks == ((Decimal("4.000002"), Decimal(12)),)


def test_what_is_asked_for() -> None:
    assert depth_stream("BNBBTC") == "bnbbtc@depth@100ms"
    assert snapshot_path("BNBBTC") == "/api/v3/depth?symbol=BNBBTC&limit=1000"


@pytest.mark.parametrize(
    "frame",
    [
        '{"result":null,"id":1}',
        '{"e":"serverShutdown","E":1}',
        '{"stream":"a@bookTicker","data":{"u":1,"s":"A","b":"1","B":"1","a":"2","A":"1"}}',
        '{"stream":"x","data":[]}',
        "[]",
        "7",
    ],
)
def test_other_frames_are_none(frame: str) -> None:
    assert parse_depth(frame) is None


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("<html>502</html>", "not_json"),
        (EVENT[:-20], "not_json"),
        (EVENT.replace('"10"', "NaN"), "not_json"),
        (changed(s=""), "bad_symbol"),
        (changed(s="A" * 65), "bad_symbol"),
        (changed(s=None), "bad_symbol"),
        (changed(U="157"), "bad_update_id"),
        (changed(u=-1), "bad_update_id"),
        (changed(u=True), "bad_update_id"),
        (changed(u=2**63), "bad_update_id"),
        (changed(U=161), "bad_update_id"),
        (changed(E="now"), "bad_time"),
        (changed(b=None), "bad_levels"),
        (changed(a={}), "bad_levels"),
        (changed(b=[["1", "1"]] * (MAX_EVENT_LEVELS + 1)), "bad_levels"),
        (changed(b=["1"]), "bad_level"),
        (changed(b=[["1"]]), "bad_level"),
        (changed(b=[["0", "1"]]), "bad_price"),
        (changed(b=[["-1", "1"]]), "bad_price"),
        (changed(b=[["1e40", "1"]]), "bad_price"),
        (changed(b=[["NaN", "1"]]), "bad_price"),
        (changed(b=[[True, "1"]]), "bad_price"),
        (changed(a=[["1", "-0.1"]]), "bad_amount"),
        (changed(a=[["1", None]]), "bad_amount"),
        (changed(a=[["1", "Infinity"]]), "bad_amount"),
    ],
)
def test_what_cannot_be_used_is_rejected(frame: str, reason: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_depth(frame)
    assert error.value.reason == reason
    assert error.value.detail.isprintable()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[]", "not_an_object"),
        (b'{"code":-1121,"msg":"Invalid symbol."}', "bad_update_id"),
        (b'{"lastUpdateId":1,"bids":[]}', "bad_levels"),
        (b'{"lastUpdateId":1,"bids":[["1","x"]],"asks":[]}', "bad_amount"),
    ],
)
def test_a_snapshot_that_cannot_be_used_is_rejected(body: bytes, reason: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_snapshot(body, 0)
    assert error.value.reason == reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("seEUuba"), inner, max_size=6),
    max_leaves=12,
)


@given(JSON, st.dictionaries(st.sampled_from("sEUuba"), JSON, max_size=3))
def test_nothing_but_a_format_error_comes_of_garbage(whole: object, keys: dict[str, Any]) -> None:
    for frame in (json.dumps(whole), changed(**keys)):
        try:
            parse_depth(frame)
            parse_snapshot(frame, 0)
        except FormatError:
            pass


def test_captured_events_are_read_and_continue_one_another(tapes: Path) -> None:
    last: dict[str, int] = {}
    read = levels = 0
    for line in (tapes / "binance-spot-2021-10-12.txt").read_text().splitlines():
        frame = line.partition(": ")[2]
        event = parse_depth(frame)
        assert (event is not None) == ("@depth" in frame[:60])
        if event is None:
            continue
        read += 1
        levels += len(event.bids) + len(event.asks)
        assert event.first == last.get(event.symbol, event.first - 1) + 1
        last[event.symbol] = event.last
    assert (read, len(last)) == (177, 4)
    assert levels == sum(
        len(re.findall(r'\["[\d.]+","[\d.]+"\]', line))
        for line in (tapes / "binance-spot-2021-10-12.txt").read_text().splitlines()
        if "@depth" in line[:80]
    )
