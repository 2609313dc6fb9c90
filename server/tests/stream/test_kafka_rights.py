"""Wrong passwords, missing rights, brokers that speak otherwise: what is wrong is said, nothing is lost, and all goes
on by itself once it is granted. One broker for the whole file, which asks everybody who they are.

``TOKENWIRE_PROOF=full`` has a processor lose its group, too, while it has nothing to do.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tokenwire_server.bus import kafka as kafka_bus
from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import AbortedError, BusError, Outgoing, Place, Right, TopicSpec, Worker, Writer
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.ports import PartState
from tokenwire_server.roles import open_bus
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream import collector, processor
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector import BusSink
from tokenwire_server.stream.processor import Processor
from tokenwire_server.stream.records import Numbered, encode, read_logged, read_raw
from tokenwire_server.stream.topics import COLLECTOR, GATEWAY, LOADER, PROCESSOR, Topics

from ..services.granted import Grant, granted_redis, granted_sql, kafka_table
from ..services.guarded_kafka import PLAIN_USER, GuardedKafka
from ..services.postgres import Postgres
from ..services.redis import Redis
from .rights import SECRET, bindings, bus_of, everything, granted, refusal, settings
from .role_process import RoleProcess, environment, until
from .test_processor import PLAN, topics_named

FULL = os.environ.get("TOKENWIRE_PROOF") == "full"
NEEDS = {"collect": COLLECTOR, "process": PROCESSOR, "gateway": GATEWAY, "load": LOADER}
NOW_MS = 1_774_089_400_000
_PATIENCE_S = 60


# --- who it is, and how it is spoken to ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listener", "options", "words"),
    [
        ("address", {"user": "collector"}, "invalid credentials.*: check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
        ("address", {"user": "nobody"}, "invalid credentials.*: check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
        ("address", {"user": PLAIN_USER, "kafka_sasl_mechanism": "PLAIN"}, "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSW"),
        ("address", {"user": "collector", "kafka_sasl_mechanism": "SCRAM-SHA-256"},
         "Unsupported SASL mechanism.*: check KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_MECHANISM"),
        ("address", {}, "ends each connection.*check KAFKA_BOOTSTRAP_SERVERS and KAFKA_SECURITY_PROTOCOL"),
        ("tls_address", {}, "ends each connection.*check KAFKA_BOOTSTRAP_SERVERS and KAFKA_SECURITY_PROTOCOL"),
        ("tls_address", {"user": "collector"}, "ends each connection.*and KAFKA_SECURITY_PROTOCOL"),
        ("open_address", {"user": "collector"}, "mechanism handshake failed.*: check KAFKA_SECURITY_PROTOCOL and"),
        ("open_address", {"kafka_security_protocol": "ssl"}, "SSL .*: check KAFKA_SECURITY_PROTOCOL"),
        ("tls_address", {"kafka_security_protocol": "ssl", "trusts": True}, "ends each.*KAFKA_SECURITY_PROTOCOL"),
        ("tls_address", {"user": "collector", "kafka_security_protocol": "sasl_ssl"},
         "certificate verify failed.*: check KAFKA_SSL_CA_LOCATION"),
    ],
)  # fmt: skip
async def test_who_is_not_let_in_is_told_at_once_what_to_look_at(
    guarded_kafka: GuardedKafka, listener: str, options: Mapping[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_bus, "REQUEST_TIMEOUT_S", 10.0 * _PATIENCE_S)  # nobody waits for that
    options = dict(options)
    if options.pop("trusts", False):
        options["kafka_ssl_ca_location"] = str(guarded_kafka.ca)
    bus = open_bus(settings(getattr(guarded_kafka, listener), **options), "collect")
    with pytest.raises(BusError, match=words) as refused:
        async with asyncio.timeout(_PATIENCE_S):
            await bus.ensure(Topics().specs(COLLECTOR))
    assert SECRET not in str(refused.value)
    await bus.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_who_is_right_in_everything_is_let_in_by_tls(guarded_kafka: GuardedKafka, mechanism: str) -> None:
    user, password = (PLAIN_USER, guarded_kafka.password) if mechanism == "PLAIN" else ("somebody", SECRET)
    if mechanism != "PLAIN":
        await asyncio.to_thread(guarded_kafka.add_user, user, password)
    right = settings(
        guarded_kafka.tls_address, user, password, kafka_security_protocol="sasl_ssl", kafka_sasl_mechanism=mechanism,
        kafka_ssl_ca_location=str(guarded_kafka.ca),
    )  # fmt: skip
    bus = open_bus(right, "collect")
    assert "refuse Describe on unseen" in await refusal(bus, [TopicSpec("unseen", 1)])
    await bus.close()


# --- what it may do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", NEEDS)
def test_the_table_the_commands_and_the_program_say_the_same(role: str) -> None:
    usual = Topics()
    needed = {(right, "TOPIC", getattr(usual, name)) for name, rights in NEEDS[role].items() for right in rights}
    found = kafka_table(role)
    commands = [grant for grant in granted(usual, "me", role) if grant.operation != "Create"]
    assert found == {(grant.operation, grant.kind, grant.name) for grant in commands}
    assert {each for each in found if each[1] == "TOPIC"} == needed
    makes = {grant.name for grant in granted(usual, "me", "process") if grant.operation == "Create"}
    assert makes == {spec.name for spec in usual.specs()}


async def test_each_right_that_is_missing_is_named(guarded_kafka: GuardedKafka, unique: str) -> None:
    topics = topics_named(unique)
    specs = topics.specs(COLLECTOR)
    async with everything(guarded_kafka) as root, bus_of(guarded_kafka, unique) as bus:
        describe = [Grant(unique, "Describe", "TOPIC", spec.name) for spec in specs]
        refused = await refusal(bus, specs)
        assert f"refuse Write on {topics.raw}, Read and Write on {topics.positions}: grant it" in refused
        assert "KAFKA_SASL_USERNAME (deploy/README.md" in refused
        guarded_kafka.grant(*bindings(describe))
        await until(lambda: _says(bus, specs, f"topic {topics.raw} is not there, and may not be made (Create)"))
        await root.ensure(topics.specs())
        await until(lambda: _says(bus, specs, f"refuse Write on {topics.raw}, Read and Write on {topics.positions}"))
        for grant in granted(topics, unique, "collect"):
            if grant.kind == "TOPIC":
                assert grant.name in await refusal(bus, specs)
                guarded_kafka.grant(grant.binding())
        await until(lambda: _says(bus, specs, ""))
        await bus.check(specs)
        with pytest.raises(BusError, match=f"refuse Read on {topics.log}"):
            await bus.check(topics.specs(GATEWAY)[:1])


async def _says(bus: KafkaBus, specs: Iterable[TopicSpec], words: str) -> bool:
    said = await refusal(bus, specs)
    return words in said if words else not said


async def test_who_reads_places_of_its_own_choice_needs_no_group(guarded_kafka: GuardedKafka, unique: str) -> None:
    place = Place(unique, 0)
    async with everything(guarded_kafka) as root, bus_of(guarded_kafka, unique) as bus:
        await root.ensure([TopicSpec(unique, 1)])
        writer = root.writer(unique)
        await writer.commit([Outgoing(place, b"", b"1"), Outgoing(place, b"", b"2")])
        guarded_kafka.grant(Grant(unique, "Read", "TOPIC", unique).binding())
        await until(lambda: _says(bus, [TopicSpec(unique, 1)], ""))
        assert [record.value for record in await bus.read(place, 0, 2)] == [b"1", b"2"]
        reader = bus.reader()
        await reader.assign({place: 1})
        found: list[bytes] = []
        async with asyncio.timeout(_PATIENCE_S):
            while not found:
                found += [record.value for record in await reader.poll(10, 0.2)]
        assert found == [b"2"]
        await reader.close()
        await writer.close()


async def test_a_writer_names_what_it_may_not_and_writes_as_soon_as_it_may(
    guarded_kafka: GuardedKafka, unique: str, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(unique, 0)
    name = Grant(unique, "Write", "TRANSACTIONAL_ID", f"tokenwire-writer-{unique}", is_prefix=True).binding()
    write = Grant(unique, "Write", "TOPIC", unique).binding()
    async with everything(guarded_kafka) as root, bus_of(guarded_kafka, unique) as bus:
        await root.ensure([TopicSpec(unique, 1)])
        writer = bus.writer(f"{unique}.one")

        async def committed(value: bytes) -> bool:
            with contextlib.suppress(BusError):
                return bool(await writer.commit([Outgoing(place, b"", value)]))
            return False

        with pytest.raises(
            BusError, match=rf"transactional id tokenwire-writer-{unique}.one may not be used \(Write\)"
        ):
            await writer.commit([Outgoing(place, b"", b"0")])
        guarded_kafka.grant(name)
        await until(lambda: _raises(writer, place, AbortedError, f"{unique}: .*Topic authorization failed: grant it"))
        guarded_kafka.grant(write)
        await until(lambda: committed(b"1"))
        guarded_kafka.revoke(name)
        await until(lambda: _raises(writer, place, BusError, "transactional id .* may not be used"))
        guarded_kafka.grant(name)
        await until(lambda: committed(b"2"))
        values = [record.value for record in await root.read(place, *await root.bounds(place))]
        assert [value for value in values if value != b"in vain"] == [b"1", b"2"]
        await writer.close()
    assert capfd.readouterr().err == "", "librdkafka prints nothing by itself"


async def _raises(writer: Writer, place: Place, kind: type[BusError], words: str) -> bool:
    try:
        await writer.commit([Outgoing(place, b"", b"in vain")])
    except BusError as error:
        return isinstance(error, kind) and re.search(words, str(error)) is not None
    return False


async def test_a_member_that_the_group_refuses_says_so_until_it_is_let_in(
    guarded_kafka: GuardedKafka, unique: str
) -> None:
    group = f"{unique}.processor"
    async with everything(guarded_kafka) as root, bus_of(guarded_kafka, unique) as bus:
        await root.ensure([TopicSpec(unique, 1)])
        guarded_kafka.grant(
            Grant(unique, "Read", "TOPIC", unique).binding(),
            Grant(unique, "Write", "TRANSACTIONAL_ID", f"tokenwire-{group}-", is_prefix=True).binding(),
        )
        await until(lambda: _says(bus, [TopicSpec(unique, 1, rights=frozenset({Right.READ}))], ""))
        worker = bus.worker(unique, group, "one")

        async def refused() -> bool:
            try:
                await worker.poll(10, 0.1)
            except BusError as error:
                return f"the group {group} refuses this member (Read): grant it" in str(error)
            return False

        await until(refused)
        for _ in range(5):  # the brokers said it once
            assert await refused()
            assert not worker.is_member
        guarded_kafka.grant(Grant(unique, "Read", "GROUP", group).binding())
        await until(lambda: _joined(worker))
        await worker.close()


async def _joined(worker: Worker) -> bool:
    with contextlib.suppress(BusError):
        await worker.poll(10, 0.1)
    return worker.is_member


# --- roles whose rights come and go ----------------------------------------------------------------------------------


async def test_a_collector_that_may_not_write_keeps_what_it_has_and_writes_it_once(
    guarded_kafka: GuardedKafka, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "MAX_WAITING_RECORDS", 40)
    topics = topics_named(unique)
    write = Grant(unique, "Write", "TOPIC", topics.raw).binding()
    async with everything(guarded_kafka) as root, bus_of(guarded_kafka, unique) as bus:
        await root.ensure(topics.specs())
        guarded_kafka.grant(*bindings(granted(topics, unique, "collect")))
        sink = BusSink(bus, topics, "one", clock=BrokersClock(lambda: NOW_MS))
        async with asyncio.timeout(_PATIENCE_S):
            await sink.begin()
        writing = asyncio.create_task(sink.run())
        told = 0

        async def tell(count: int) -> None:
            nonlocal told
            for _ in range(count):
                await sink.room()
                sink.trades("s", [Trade("x:A", str(told), Decimal(1), Decimal(1), Side.BUY, NOW_MS)])
                told += 1
                await asyncio.sleep(0)

        await tell(10)
        await until(lambda: sink.waiting == 0)
        guarded_kafka.revoke(write)
        telling = asyncio.create_task(tell(100))
        await until(lambda: not sink.has_room and f"the brokers refuse Write on {topics.raw}" in (sink.failure or ""))
        assert 20 <= sink.waiting <= 40, "half of what fits"
        assert not telling.done()
        guarded_kafka.grant(write)
        await asyncio.wait_for(telling, _PATIENCE_S)
        sink.close()
        await asyncio.wait_for(writing, _PATIENCE_S)
        assert sink.failure is None
        assert sink.dropped == {}
        assert await trade_ids(root, topics) == [str(number) for number in range(110)]


async def trade_ids(bus: KafkaBus, topics: Topics) -> list[str]:
    found: list[str] = []
    for number in range(topics.partitions):
        place = Place(topics.raw, number)
        for record in await bus.read(place, *await bus.bounds(place)):
            event = read_raw(record.value)
            found += [trade.trade_id for trade in event.trades] if isinstance(event, raw.Trades) else []
    return found


class Told:
    """What a processor said of itself."""

    def __init__(self) -> None:
        self.state = PartState.STARTING
        self.reason = ""
        self.states: list[PartState] = []

    def __call__(self, state: PartState, reason: str) -> None:
        if state is not self.state:
            self.states.append(state)
        self.state, self.reason = state, reason

    def fails(self, words: str) -> bool:
        return self.state is PartState.FAILING and words in self.reason


async def test_a_processor_says_which_right_it_lost_and_goes_on_when_it_is_back(
    guarded_kafka: GuardedKafka, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "MAX_RETRY_S", 0.5)
    topics = topics_named(unique)
    write = Grant(unique, "Write", "TOPIC", topics.log).binding()
    read = Grant(unique, "Read", "GROUP", topics.group).binding()
    async with everything(guarded_kafka) as root, bus_of(guarded_kafka, unique) as bus:
        await root.ensure(topics.specs())
        guarded_kafka.grant(*bindings(granted(topics, unique, "process")))
        told = Told()
        processing = asyncio.create_task(Processor(bus, topics, "one", PLAN, 100, tell=told).run())
        writer = root.writer(unique)

        async def say(event: raw.Tokens | raw.Trades) -> None:
            await writer.commit([Outgoing(topics.place(topics.raw, "x:A"), b"x:A", encode(event))])

        async def trade(number: int) -> None:
            one = Trade("x:A", str(number), Decimal(1), Decimal(1), Side.BUY, NOW_MS + number)
            await say(raw.Trades("s", (one,)))

        await until(lambda: told.state is PartState.OK)
        await say(raw.Tokens("s", (TokenInfo("x:A", "A"),)))
        await trade(1)
        await until(lambda: _numbers(root, topics, [1]))
        guarded_kafka.revoke(write)
        await trade(2)
        await until(lambda: told.fails(f"refuse Write on {topics.log}"))
        guarded_kafka.grant(write)
        await until(lambda: told.state is PartState.OK)
        await until(lambda: _numbers(root, topics, [1, 2]))
        if FULL:
            guarded_kafka.revoke(read)  # and there is nothing to do, by which it might notice
            await until(lambda: told.fails(f"the group {topics.group} refuses"))
            await trade(3)
            guarded_kafka.grant(read)
            await until(lambda: told.state is PartState.OK)
            await until(lambda: _numbers(root, topics, [1, 2, 3]))
        processing.cancel()
        await asyncio.gather(processing, return_exceptions=True)
        await writer.close()
        ok, failing = PartState.OK, PartState.FAILING
        assert told.states == [ok, failing] * (1 + FULL) + [ok], "it does not waver"


async def _numbers(bus: KafkaBus, topics: Topics, expected: list[int]) -> bool:
    """Whether the log has the trades of these ids, numbered likewise, and nothing twice."""
    found = []
    place = topics.place(topics.log, "x:A")
    for record in await bus.read(place, *await bus.bounds(place)):
        event = read_logged(record.value).event
        if isinstance(event, Numbered):
            found += [(event.first + at, int(trade.trade_id)) for at, trade in enumerate(event.trades)]
    assert found == [(number, number) for number in range(1, len(found) + 1)]
    return [number for number, _ in found] == expected


@dataclass
class Roles:
    """All four as processes, each with a user of its own in each engine: ``collector``, ``processor`` …"""

    processes: dict[str, RoleProcess]
    answers: list[str] = field(default_factory=list)  # all that they gave

    async def say(self, role: str, words: str) -> None:
        """Wait until ``/ready`` says so."""
        await until(lambda: self._says(role, words))

    async def are_ready(self, *roles: str) -> None:
        for role in roles:
            await until(lambda role=role: self._says(role, '"ready": true'))

    async def _says(self, role: str, words: str) -> bool:
        process = self.processes[role]
        assert process.alive, process.said()
        for path in ("ready", "metrics"):
            async with aiohttp.request("GET", f"{process.url}{path}") as reply:
                self.answers.append(await reply.text())
        return re.search(words, self.answers[-2]) is not None


@pytest.mark.proof(only=True)
async def test_every_role_waits_for_each_right_and_with_those_of_the_page_all_works(
    guarded_kafka: GuardedKafka, postgres: Postgres, redis_server: Redis, unique: str, tmp_path: Path
) -> None:
    """They are started before there is any user, and none is started again."""
    topics = topics_named(unique)
    users = {role: f"{unique}-{role}" for role in NEEDS}
    common = environment(guarded_kafka, topics) | {
        "KAFKA_SECURITY_PROTOCOL": "sasl_plaintext", "KAFKA_SASL_PASSWORD": SECRET, "TOKENWIRE_REDIS_PREFIX": unique,
        "REDIS_URL": f"redis://{unique}:{SECRET}@{redis_server.address}/0", "TOKENWIRE_INSTANCE": "one",
        "TIMESCALE_HOST": "127.0.0.1", "TIMESCALE_PORT": str(postgres.port), "TIMESCALE_DB": unique,
        "TIMESCALE_PASSWORD": SECRET, "TIMESCALE_SSLMODE": "disable", "TOKENWIRE_LOG_LEVEL": "debug",
    }  # fmt: skip
    arguments = {"collect": ("--source", "simulator"), "gateway": ("--port", "0", "--drain", "0")}
    roles = Roles({})
    for role, user in users.items():
        own = {"KAFKA_SASL_USERNAME": user, "TIMESCALE_USER": f"{unique}_{'loader' if role == 'load' else 'gateway'}"}
        roles.processes[role] = RoleProcess(role, common | own, tmp_path / role, arguments.get(role, ()))
    try:
        await asyncio.gather(*(process.start() for process in roles.processes.values()))
        for role in NEEDS:
            await roles.say(role, r'"state": "failing".*check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD')
        for user in users.values():
            await asyncio.to_thread(guarded_kafka.add_user, user, SECRET)
        for role, words in (("collect", "Write"), ("process", "Read"), ("gateway", "Read"), ("load", "Read")):
            await roles.say(role, f"the brokers refuse {words} on {unique}-")
        for role, user in users.items():
            guarded_kafka.grant(*bindings(granted(topics, user, role)))
        await roles.are_ready("collect", "process")

        await roles.say("load", '"history": {"state": "failing".*check TIMESCALE_USER and TIMESCALE_PASSWORD')
        await roles.say("gateway", "the history can't be read.*check TIMESCALE_USER and TIMESCALE_PASSWORD")
        await asyncio.to_thread(postgres.sql, granted_sql(unique, unique, SECRET))
        await roles.are_ready("load", "gateway")
        await until(lambda: _count(postgres, unique, "trades"))

        await roles.say("gateway", '"cache": {"state": "degraded".*REDIS_URL')
        await asyncio.to_thread(_command, redis_server, granted_redis(unique, SECRET, unique))
        await roles.say("gateway", '"cache": {"state": "ok"')
        await until(lambda: redis_server.command(f"EXISTS {unique}{{tokens}}:data") == ":1")
        for role, process in roles.processes.items():
            assert await process.end(signal.SIGTERM) == 0, role
            assert "Traceback" not in process.said()
        said = "".join([*roles.answers, *(process.said() for process in roles.processes.values())])
        assert SECRET not in said
    finally:
        for process in roles.processes.values():
            await process.end()
        postgres.sql(f"DROP DATABASE IF EXISTS {unique} WITH (FORCE)")
        for user in ("loader", "gateway"):
            postgres.sql(f"DROP ROLE IF EXISTS {unique}_{user}")
        redis_server.command(f"ACL DELUSER {unique}")


async def _count(postgres: Postgres, database: str, table: str) -> int:
    return int(await asyncio.to_thread(postgres.sql, f"SELECT count(*) FROM tokenwire.{table}", database))


def _command(server: Redis, words: list[str]) -> None:
    assert server.command(" ".join(words)) == "+OK"
