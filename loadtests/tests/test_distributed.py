"""The proof of the server past one machine: its pure parts. ``make test-distributed`` is the proof itself."""

import json
import os
import time
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from server.tests.services.kafka import Kafka

from loadtests.distributed.fold import expected, figures, plain
from loadtests.distributed.markers import aborted_in
from loadtests.distributed.schedule import ENGINES, LONG_STOP_S, SETTLE_S, FaultKind, plan_faults
from loadtests.distributed.tapes import captured_tape, simulated_tape, trade_frames
from loadtests.distributed.verdict import Verdict, judged
from loadtests.faults.history import Followed, Traded, TradeDelivered
from tokenwire_server.sources.tape import Tape

ROLES = {
    "collector-1": "collect", "processor-1": "process", "processor-2": "process", "gateway-1": "gateway",
    "loader-1": "load",
}  # fmt: skip


# --- the fold ----------------------------------------------------------------------------------------------------


def test_a_tape_amounts_to_its_trades_in_order_and_their_bars(tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    rows = [("1", "2", "10", 1_000, "Buy"), ("2", "3", "1", 1_500, "Sell"), ("3", "1.50", "4", 61_000, "Buy")]
    trades = [
        {"address": "A", "trade_id": name, "price": price, "amount": amount, "side": side, "time_ms": time_ms}
        for name, price, amount, time_ms, side in rows
    ]
    events: list[dict[str, Any]] = [
        {"tokenwire": "trades", "source": "s", "trades": trades[:2]},
        {"tokenwire": "clock", "source": "s", "time_ms": 2_000},
        {"tokenwire": "trades", "source": "s", "trades": [trades[1], trades[2]]},  # one of them again
    ]
    tape.write_text("".join(f"1.0: {json.dumps(event)}\n" for event in events))
    found = expected([tape])
    assert found.trades == {"A": ["1", "2", "3"]}
    assert found.prices == {"A": "1.5"}
    assert found.bars["A", 1_000] == {
        1_000: ("2", "3", "2", "3", "11", "23", "10", "20", "2"),
        61_000: ("1.5", "1.5", "1.5", "1.5", "4", "6", "4", "6", "1"),
    }
    assert found.bars["A", 3_600_000] == {0: ("2", "3", "1.5", "1.5", "15", "29", "14", "26", "3")}
    assert (found.count, found.bar_count) == (3, 2 + 2 + 1 + 1 + 1)


def test_a_late_trade_opens_and_does_not_close(tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    trades = [
        {"address": "A", "trade_id": str(number), "price": price, "amount": "1", "side": "Buy", "time_ms": time_ms}
        for number, (price, time_ms) in enumerate((("5", 500), ("7", 100), ("6", 500)))
    ]
    tape.write_text(f"1.0: {json.dumps({'tokenwire': 'trades', 'source': 's', 'trades': trades})}\n")
    assert expected([tape]).bars["A", 1_000][0][:4] == ("7", "7", "5", "6")


@pytest.mark.parametrize(
    ("number", "text"),
    [("1.500", "1.5"), ("10", "10"), ("1E+3", "1000"), ("0.0", "0"), ("-0", "0"), ("1e-7", "0.0000001")],
)
def test_a_number_has_one_spelling(number: str, text: str) -> None:
    assert plain(Decimal(number)) == text


def test_figures_are_the_same_whoever_writes_them() -> None:
    row = dict.fromkeys(("open", "high", "low", "close", "volume", "turnover", "buy_volume", "buy_turnover"), "1.50")
    assert figures({**row, "trades": 3}) == (*["1.5"] * 8, "3")


# --- the tapes ---------------------------------------------------------------------------------------------------


def test_tapes_can_be_played_and_close_every_bar(tmp_path: Path) -> None:
    simulated, captured = tmp_path / "simulated", tmp_path / "captured"
    simulated_tape(simulated, seed=1, trades=300, rate=300, tokens=8)
    count = captured_tape(captured, trade_frames(None, 1), seconds=60)
    found = expected([simulated, captured])
    assert found.count == 300 + count
    for address, ids in found.trades.items():
        if not address.startswith("binance:"):
            in_order = [str(number) for number in range(1, len(ids) + 1)]
            assert sorted(ids, key=int) == in_order
            assert (ids == in_order) == (address not in found.late)
    assert found.late
    assert len(found.late) < len(found.trades) / 2
    for path in (simulated, captured):
        Tape(str(path))
        last = json.loads(path.read_text().splitlines()[-1].partition(": ")[2])
        assert last["tokenwire"] == "clock"
        newest = max(open_ms for (_, length_ms), bars in found.bars.items() if length_ms == 1_000 for open_ms in bars)
        assert path is captured or last["time_ms"] >= newest + 3_600_000


def test_each_round_of_captured_frames_goes_on_behind_the_one_before(tmp_path: Path) -> None:
    frames = trade_frames(None, 2)
    captured_tape(tmp_path / "one", frames, seconds=1)
    captured_tape(tmp_path / "three", frames, seconds=90)
    one, three = (expected([tmp_path / name]).trades for name in ("one", "three"))
    for address, ids in three.items():
        assert ids[: len(one[address])] == one[address], "the first round is verbatim"
        assert [int(each) for each in ids] == list(range(int(ids[0]), int(ids[0]) + len(ids)))


@pytest.mark.tapes
@pytest.mark.skipif("TOKENWIRE_TAPES" not in os.environ, reason="TOKENWIRE_TAPES names no folder of captured frames")
def test_captured_frames_are_found() -> None:
    frames = trade_frames(Path(os.environ["TOKENWIRE_TAPES"]), 1)
    assert len(frames) > 10
    assert frames != trade_frames(None, 1)


# --- the plan ----------------------------------------------------------------------------------------------------


def test_a_plan_kills_each_process_often_enough_and_is_the_same_each_time() -> None:
    plan = plan_faults(7, ROLES, begin_s=5, end_s=200, kills=5, full=True)
    assert plan == plan_faults(7, ROLES, begin_s=5, end_s=200, kills=5, full=True)
    assert plan != plan_faults(8, ROLES, begin_s=5, end_s=200, kills=5, full=True)
    for name, role in ROLES.items():
        kinds = [fault.kind for fault in plan if fault.whom == name]
        assert kinds.count(FaultKind.KILL) == 5
        assert FaultKind.STOP in kinds
        assert (FaultKind.REPLACE in kinds) == (role in ("collect", "process"))
        assert (FaultKind.RESTART in kinds) == (role in ("gateway", "load"))
        assert any(fault.for_s == LONG_STOP_S for fault in plan if fault.whom == name)
    for name in ENGINES:
        assert {fault.kind for fault in plan if fault.whom == name} == {FaultKind.KILL, FaultKind.RESTART}


def test_faults_of_one_part_do_not_overlap() -> None:
    plan = plan_faults(3, ROLES, begin_s=5, end_s=200, kills=5, full=True)
    assert all(5 <= fault.at_s <= 200 for fault in plan)
    for name in (*ROLES, *ENGINES):
        own = [fault for fault in plan if fault.whom == name]
        assert all(a.at_s + a.for_s + SETTLE_S <= b.at_s + 1e-9 for a, b in pairwise(own))


def test_only_kills_breaks_no_engine() -> None:
    plan = plan_faults(3, ROLES, begin_s=5, end_s=20, kills=1, full=False)
    assert {fault.kind for fault in plan} == {FaultKind.KILL}
    assert {fault.whom for fault in plan} == set(ROLES)
    assert plan_faults(3, ROLES, begin_s=5, end_s=20, kills=0, full=False) == []


# --- what is counted ---------------------------------------------------------------------------------------------


def test_each_aborted_transaction_is_counted_once() -> None:
    dump = """\
Dumping /kafka/raw-0/00000000000000000000.log
baseOffset: 0 lastOffset: 3 count: 4 producerId: 5 producerEpoch: 1 isTransactional: true isControl: false position: 0
baseOffset: 4 lastOffset: 4 count: 1 producerId: 5 producerEpoch: 2 isTransactional: true isControl: true position: 9
| offset: 4 endTxnMarker: ABORT coordinatorEpoch: 0
baseOffset: 5 lastOffset: 5 count: 1 producerId: 6 producerEpoch: 9 isTransactional: true isControl: true position: 19
| offset: 5 endTxnMarker: COMMIT coordinatorEpoch: 0
baseOffset: 6 lastOffset: 6 count: 1 producerId: 5 producerEpoch: 2 isTransactional: true isControl: true position: 29
| offset: 6 endTxnMarker: ABORT coordinatorEpoch: 0
Dumping /kafka/raw-1/00000000000000000000.log
baseOffset: 0 lastOffset: 0 count: 1 producerId: 5 producerEpoch: 2 isTransactional: true isControl: true position: 9
| offset: 0 endTxnMarker: ABORT coordinatorEpoch: 0
"""
    assert aborted_in(dump) == 2


def test_aborts_are_found_in_the_files_of_a_real_broker(own_kafka: Kafka) -> None:
    from confluent_kafka import Producer

    from loadtests.distributed.markers import count_aborted

    own_kafka.create_topics(["one"], partitions=2)
    producer = Producer({"bootstrap.servers": own_kafka.address, "transactional.id": "p"})
    producer.init_transactions()
    for is_aborted in (True, False, True):
        producer.begin_transaction()
        for partition in (0, 1):
            producer.produce("one", b"x", partition=partition)
        producer.flush()
        (producer.abort_transaction if is_aborted else producer.commit_transaction)()
    own_kafka.end()  # what it holds is in its files then
    assert count_aborted(own_kafka) == 2


def test_an_open_transaction_is_seen_until_it_ends(own_kafka: Kafka) -> None:
    from confluent_kafka import Producer

    from loadtests.distributed.markers import OpenTransactions

    own_kafka.create_topics(["open"], partitions=2)
    open_transactions = OpenTransactions(own_kafka)
    assert open_transactions.places() == frozenset()
    producer = Producer({"bootstrap.servers": own_kafka.address, "transactional.id": "p"})
    producer.init_transactions()
    for is_aborted in (True, False):
        producer.begin_transaction()
        producer.produce("open", b"x", partition=1)
        producer.flush()
        ((topic, partition, offset),) = open_transactions.places()
        assert (topic, partition, offset) == ("open", 1, 0 if is_aborted else 2)
        (producer.abort_transaction if is_aborted else producer.commit_transaction)()
        until_s = time.monotonic() + 30
        while open_transactions.places():  # the broker writes its marks after it has answered
            assert time.monotonic() < until_s
            time.sleep(0.01)
    own_kafka.kill()
    assert open_transactions.places() == frozenset()


def test_the_last_line_counts_what_is_wrong() -> None:
    truth = [Traded(0, "A", number, str(number)) for number in range(1, 6)]
    got = [TradeDelivered(1, "c", 0, "A", number, str(number)) for number in (1, 4, 2, 2)]
    verdict = judged([*truth, Followed(0, "c", 0, "A", 0, True), *got], [])
    assert not verdict.is_good
    assert verdict.line().startswith("lost=2 duplicated=1 reordered=2 wrong=")
    assert Verdict([], []).is_good
    assert Verdict([], []).line().startswith("lost=0 duplicated=0 reordered=0 wrong=0 trades=0")
    assert not Verdict([], ["a process that was replaced goes on"]).is_good
