"""``load`` as processes between real Kafka and real PostgreSQL, killed and stopped, and the database killed: what is
stored is, to the row, what the log holds.

``make proof`` does that, each twice; the others are of every test run.
"""

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import Outgoing, Place
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.history.postgres_view import PostgresView
from tokenwire_server.stream.fold import Fold
from tokenwire_server.stream.loading import Position
from tokenwire_server.stream.processor import Processor
from tokenwire_server.stream.records import encode, read_raw
from tokenwire_server.stream.topics import Topics

from ..services.kafka import Kafka
from ..services.postgres import Postgres
from .role_process import RoleProcess, environment, feed, until
from .test_kafka import end
from .test_processor import NOW_MS, PLAN, result, tape, topics_named

ROOT = Path(__file__).parents[3]
ROUNDS = 2
TRADES = 12_000
SECONDS = 200.0
"""In which they are written, if the rounds take that long: what is disturbed is at work."""
LAST = 400
"""Records that are written after the rounds, so that who took over last has some to store."""
END_MS = 1 << 53
_PATIENCE_S = 90


class LoadProcess(RoleProcess):
    """``tokenwire-server load``."""

    def __init__(self, variables: dict[str, str], log: Path, arguments: tuple[str, ...] = ()) -> None:
        super().__init__("load", variables, log, arguments)
        self.stopped = False


async def is_stored(bus: KafkaBus, topics: Topics, view: PostgresView) -> bool:
    """Whether everything that is in the log is stored."""
    offsets = await view.offsets()
    for number in range(topics.partitions):
        position = Position.of(offsets.get(f"{topics.log}/{number}", str(Position())))
        if position.log_offset < await end(bus, Place(topics.log, number)):
            return False
    return True


async def in_database(view: PostgresView) -> tuple[dict[str, list[tuple[int, str]]], dict[tuple[str, int, int], Any]]:
    trades, bars = {}, {}
    for token in await view.tokens():
        address = token.info.address
        trades[address] = [(number, trade.trade_id) for number, trade in await view.trades(address, 0, END_MS)]
        for interval in PLAN.intervals:
            for bar in await view.bars(address, interval.ms, 0, END_MS, END_MS):
                bars[address, interval.ms, bar.open_ms] = (bar.trades, bar.volume, bar.revision)
    return trades, bars


@pytest.mark.proof(only=True)
def test_loaders_and_the_database_are_killed_and_each_row_is_stored_once(
    kafka: Kafka, own_postgres: Postgres, unique: str, tmp_path: Path
) -> None:
    own_postgres.sql(f"CREATE DATABASE {unique}")
    asyncio.run(disturbed(kafka, own_postgres, unique, tmp_path))


async def disturbed(kafka: Kafka, postgres: Postgres, unique: str, folder: Path) -> None:
    chance = random.Random(7)
    topics = topics_named(unique)
    bus = KafkaBus(kafka.address)
    await bus.ensure(topics.specs())
    variables = environment(kafka, topics, postgres, unique)
    place = PostgresPlace(
        host="127.0.0.1", port=postgres.port, database=unique, user=postgres.user, password=postgres.password,
        sslmode="disable",
    )  # fmt: skip
    view = await PostgresView.view(place)
    processing = asyncio.create_task(Processor(bus, topics, "p", PLAN, 100).run())
    records = tape(7, TRADES)
    enough = asyncio.Event()
    feeding = asyncio.create_task(feed(bus, topics, records[:-LAST], SECONDS, enough))
    loaders = [await LoadProcess(variables, folder / f"{name}.log").start() for name in ("one", "two")]

    async def active() -> LoadProcess | None:
        found = [each for each in loaders if each.alive and not each.stopped and (await each.ready())["ready"]]
        waiting = [each for each in loaders if each.alive and not each.stopped and each not in found]
        settled = len(found) == 1 and all([await _waits(each) for each in waiting])
        return found[0] if settled else None

    try:
        for _ in range(ROUNDS):
            await until(active)
            one = await active()
            assert one is not None
            await asyncio.sleep(chance.random())
            await one.end()  # kill -9
            await until(active)
            await one.start()
            await asyncio.to_thread(postgres.kill)
            await asyncio.sleep(chance.random() * 2)
            await asyncio.to_thread(postgres.start)
            await until(active)
            one = await active()
            assert one is not None
            other = loaders[1 - loaders.index(one)]
            assert f"in use by process {one.process.pid} on " in (await other.ready())["reason"]  # type: ignore[union-attr]
            one.send(signal.SIGSTOP)
            one.stopped = True
            await until(active)
            one.send(signal.SIGCONT)
            one.stopped = False
            await until(lambda one=one: _waits(one))
        enough.set()
        await feeding
        await feed(bus, topics, records[-LAST:], 0)
        await until(lambda: _is_done(bus, topics, view))
        expected_trades, expected_bars, _ = await result(bus, topics)
        assert await in_database(view) == (expected_trades, expected_bars)
        rows = "SELECT count(*) || ' ' || count(DISTINCT (token, number)) FROM tokenwire.trades"
        count = sum(map(len, expected_trades.values()))
        assert postgres.sql(rows, unique) == f"{count} {count}"
        assert count > LAST
        one = await active()
        assert one is not None
        await until(lambda one=one: _has_caught_up(one))
        assert await one.metric("tokenwire_loader_lag_records{") == 0
        assert await one.metric("tokenwire_loader_rows_total{") > 0
        assert await one.metric("tokenwire_loader_records_total{") > 0
        assert await one.metric("tokenwire_loader_batches_total ") > 0
        for loader in loaders:
            assert await loader.end(signal.SIGTERM) == 0, loader.said()
            assert postgres.password not in loader.said()
    finally:
        for task in (feeding, processing):
            task.cancel()
        await asyncio.gather(feeding, processing, return_exceptions=True)
        for loader in loaders:
            await loader.end()
        await view.close()
        await bus.close()


async def _waits(one: LoadProcess) -> bool:
    return (await one.ready())["history"]["state"] == "waiting"


async def _has_caught_up(one: LoadProcess) -> bool:
    return bool((await one.ready())["lag"] == 0)


async def _is_done(bus: KafkaBus, topics: Topics, view: PostgresView) -> bool:
    """Everything was numbered, and everything that was numbered is stored."""
    ends = [await end(bus, Place(topics.raw, number)) for number in range(topics.partitions)]
    await asyncio.sleep(0.5)
    return await is_stored(bus, topics, view) and ends == [
        await end(bus, Place(topics.raw, number)) for number in range(topics.partitions)
    ]


def test_engines_that_are_not_there_are_waited_for_and_named(
    kafka: Kafka, own_postgres: Postgres, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        topics = topics_named(unique)
        good = environment(kafka, topics, own_postgres, unique)
        one = await LoadProcess({**good, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, tmp_path / "one.log").start()
        two = await LoadProcess({**good, "TIMESCALE_PASSWORD": "wrong"}, tmp_path / "two.log").start()
        three = await LoadProcess(good, tmp_path / "three.log").start()
        try:
            await until(lambda: _fails(one, "kafka", ""))
            await until(lambda: _fails(two, "history", "check TIMESCALE_USER and TIMESCALE_PASSWORD"))
            await until(lambda: _fails(three, "history", "create the database"))
            assert await one.metric("tokenwire_role_ready") == 0
            await asyncio.to_thread(own_postgres.sql, f"CREATE DATABASE {unique}")
            await until(lambda: _is_ready(three))
            assert await three.metric("tokenwire_role_ready") == 1
            assert three.said().count("history failing") == 1
            assert await three.end(signal.SIGINT) == 0
            assert "0 trades and 0 bars stored in PostgreSQL" in three.said()
        finally:
            for each in (one, two, three):
                await each.end()
        assert "Traceback" not in one.said() + two.said() + three.said()
        assert "wrong" not in two.said()

    asyncio.run(scenario())


@pytest.mark.proof(only=True)
def test_a_broker_that_goes_away_is_missed_and_read_on_when_it_is_back(
    own_kafka: Kafka, own_postgres: Postgres, unique: str, tmp_path: Path
) -> None:
    own_postgres.sql(f"CREATE DATABASE {unique}")

    async def scenario() -> None:
        topics = topics_named(unique)
        one = await LoadProcess(environment(own_kafka, topics, own_postgres, unique), tmp_path / "one.log").start()
        await until(lambda: _is_ready(one))
        bus = KafkaBus(own_kafka.address)
        folds = [Fold(PLAN, 100) for _ in range(topics.partitions)]
        records = tape(1, 200)
        try:
            await log_of(bus, topics, folds, records[:100])
            await until(lambda: _has_stored(one, 80))
            own_kafka.kill()
            await until(lambda: _fails(one, "kafka", ""))
            own_kafka.start()
            await until(lambda: _is_ready(one))
            await log_of(bus, topics, folds, records[100:])
            await until(lambda: _has_stored(one, 160))
            assert await one.end(signal.SIGTERM) == 0
            assert one.said().count("kafka failing") == 1
        finally:
            await one.end()
            await bus.close()

    asyncio.run(scenario())


async def log_of(bus: KafkaBus, topics: Topics, folds: list[Fold], records: list[Outgoing]) -> None:
    """Write what a processor makes of these."""
    outgoing = []
    for place, _, value in records:
        folds[place.partition].feed(read_raw(value), NOW_MS)
    for number, fold in enumerate(folds):
        output = fold.take()
        log, bars = Place(topics.log, number), Place(topics.bars, number)
        outgoing += [Outgoing(log, key.encode(), encode(logged)) for key, logged in output.log]
        outgoing += [Outgoing(bars, key.encode(), encode(bar)) for key, bar in output.bars]
    writer = bus.writer(topics.log)
    await writer.commit(outgoing)
    await writer.close()


async def _has_stored(one: LoadProcess, trades: int) -> bool:
    return await one.metric('tokenwire_loader_rows_total{kind="trades"}') >= trades


async def _fails(one: LoadProcess, part: str, advice: str) -> bool:
    body = await one.ready()
    return body[part]["state"] == "failing" and advice in body["reason"]


async def _is_ready(one: LoadProcess) -> bool:
    return bool((await one.ready())["ready"])


def test_a_history_of_a_single_server_is_refused(
    kafka: Kafka, own_postgres: Postgres, unique: str, tmp_path: Path
) -> None:
    own_postgres.sql(f"CREATE DATABASE {unique}")

    async def scenario() -> None:
        variables = environment(kafka, topics_named(unique), own_postgres, unique)
        served = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokenwire_server", "collect", "--source", "simulator", "--duration", "1"),
            cwd=ROOT, env={**os.environ, **variables, "KAFKA_BOOTSTRAP_SERVERS": ""},  # alone, not into Kafka
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await served.communicate()
        assert served.returncode == 0, said.decode()
        one = await LoadProcess(variables, tmp_path / "one.log").start()
        assert await one.ended() == 2
        last = one.said().splitlines()[-1]
        assert "was written by run, collect or import" in last
        assert "name another schema with TIMESCALE_SCHEMA" in last

    asyncio.run(scenario())


@pytest.mark.parametrize("missing", ["TIMESCALE_HOST", "KAFKA_BOOTSTRAP_SERVERS"])
def test_what_is_not_named_is_said(missing: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        variables = {"TIMESCALE_HOST": "127.0.0.1", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
        one = await LoadProcess({**variables, missing: ""}, tmp_path / "one.log").start()
        assert await one.ended() == 2
        assert one.said().startswith("tokenwire-server: load needs ")
        assert missing in one.said()

    asyncio.run(scenario())
