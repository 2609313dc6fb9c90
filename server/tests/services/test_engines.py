"""Every engine: answers, keeps its data over a kill and an orderly end, freezes and goes on."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from .errors import ServiceError
from .fixtures import Topics
from .kafka import Kafka
from .ports import free_port
from .postgres import Postgres
from .process import Process
from .redis import Redis

_LIMIT_S = 60


def _produce(kafka: Kafka, topic: str, *values: str, transaction: str, commit: bool = True) -> None:
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": kafka.address, "transactional.id": transaction, "transaction.timeout.ms": 60_000}
    )
    producer.init_transactions(_LIMIT_S)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value.encode())
    producer.flush(_LIMIT_S)
    if commit:
        producer.commit_transaction(_LIMIT_S)
    else:
        producer.abort_transaction(_LIMIT_S)


def _consume(kafka: Kafka, topic: str) -> list[str]:
    """Every committed value, up to the end of the topic's one partition."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": kafka.address,
            "group.id": f"g{uuid4().hex}",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    found: list[str] = []
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        while True:
            message = consumer.poll(_LIMIT_S)
            assert message is not None, "the broker fell silent"
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                return found
            value = message.value()
            assert value is not None
            found.append(value.decode())
    finally:
        consumer.close()


def test_kafka_delivers_what_was_committed_and_only_that(kafka: Kafka, topics: Topics, unique: str) -> None:
    topic = topics.create("records")
    _produce(kafka, topic, "given up", transaction=unique, commit=False)
    _produce(kafka, topic, "one", "two", transaction=unique)
    assert _consume(kafka, topic) == ["one", "two"]


def test_a_topic_has_the_partitions_asked_for_and_goes_after_the_test(kafka: Kafka, unique: str) -> None:
    kafka.create_topics([unique], partitions=3)
    with pytest.raises(ServiceError, match=unique):
        kafka.create_topics([unique])
    kafka.delete_topics([unique])
    with pytest.raises(ServiceError, match=unique):
        kafka.delete_topics([unique])


@pytest.mark.proof(only=True)
def test_kafka_keeps_what_was_committed_over_a_kill_and_an_end(own_kafka: Kafka, unique: str) -> None:
    own_kafka.create_topics([unique])
    _produce(own_kafka, unique, "before", transaction=unique)
    address, pid = own_kafka.address, own_kafka.pid
    own_kafka.kill()
    assert not own_kafka.answers()
    own_kafka.start()
    assert own_kafka.address == address
    assert own_kafka.pid != pid
    _produce(own_kafka, unique, "between", transaction=unique)
    own_kafka.restart()
    assert _consume(own_kafka, unique) == ["before", "between"]


@pytest.mark.proof(only=True)
def test_a_frozen_kafka_answers_nobody_and_goes_on(own_kafka: Kafka, unique: str) -> None:
    own_kafka.create_topics([unique])
    own_kafka.stop()
    assert own_kafka.alive()
    assert not own_kafka.answers()
    own_kafka.cont()
    _produce(own_kafka, unique, "after", transaction=unique)
    assert _consume(own_kafka, unique) == ["after"]


def test_postgres_answers_in_a_database_of_the_test(postgres: Postgres, database: str) -> None:
    assert postgres.sql("SELECT 1", database) == "1"
    assert postgres.sql("SHOW fsync; SHOW server_encoding; SHOW TimeZone") == "on\nUTF8\nUTC"
    with pytest.raises(ServiceError, match="nowhere"):
        postgres.sql("SELECT * FROM nowhere", database)


def test_postgres_wants_its_password(postgres: Postgres) -> None:
    stranger = Postgres.attach(postgres.record())
    stranger.password = "guessed"
    with pytest.raises(ServiceError, match="password authentication failed"):
        stranger.sql("SELECT 1")


def test_postgres_keeps_its_rows_over_a_kill_and_an_end(own_postgres: Postgres) -> None:
    own_postgres.sql("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('before')")
    address = own_postgres.address
    own_postgres.kill()
    assert not own_postgres.answers()
    own_postgres.start()
    own_postgres.sql("INSERT INTO kept VALUES ('between')")
    own_postgres.restart()
    assert own_postgres.address == address
    assert own_postgres.sql("SELECT string_agg(word, ' ') FROM kept") == "before between"


def test_a_frozen_postgres_answers_nobody_and_goes_on(own_postgres: Postgres) -> None:
    own_postgres.stop()
    assert own_postgres.alive()
    assert not own_postgres.answers()
    own_postgres.cont()
    assert own_postgres.sql("SELECT 1") == "1"


def test_redis_answers(redis_server: Redis, unique: str) -> None:
    assert redis_server.command("PING") == "+PONG"
    assert redis_server.command(f"INCR {unique}") == ":1"
    redis_server.command(f"DEL {unique}")


def test_redis_wants_its_password(redis_server: Redis) -> None:
    stranger = Redis.attach(redis_server.record())
    stranger.password = "guessed"
    assert stranger.command("PING").startswith("-NOAUTH")


def test_redis_keeps_its_keys_over_a_kill_and_an_end(own_redis: Redis) -> None:
    address = own_redis.address
    assert own_redis.command("INCR kept") == ":1"
    own_redis.kill()
    assert not own_redis.answers()
    own_redis.start()
    assert own_redis.command("INCR kept") == ":2"
    own_redis.restart()
    assert own_redis.command("INCR kept") == ":3"
    assert own_redis.address == address


def test_a_frozen_redis_answers_nobody_and_goes_on(own_redis: Redis) -> None:
    own_redis.stop()
    assert own_redis.alive()
    assert not own_redis.answers()
    own_redis.cont()
    assert own_redis.command("PING") == "+PONG"


@pytest.fixture
def left_dead(own_redis: Redis) -> Iterator[Redis]:
    yield own_redis
    own_redis.kill()


@pytest.mark.parametrize("again", [1, 2])
def test_each_test_finds_its_own_engine_alive(left_dead: Redis, again: int) -> None:
    assert left_dead.command("PING") == "+PONG"


@pytest.mark.parametrize("fault", ["kill", "stop", "cont", "end", "restart"])
def test_an_engine_of_all_refuses_faults(redis_server: Redis, fault: str) -> None:
    with pytest.raises(AssertionError, match="own_redis"):
        getattr(redis_server, fault)()
    assert redis_server.answers()


def test_a_port_that_is_taken_is_left_for_another(
    redis_server: Redis, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from . import engine
    from .share import private

    free = free_port()
    offered = iter((redis_server.port, own_redis.port, free))
    monkeypatch.setattr(engine, "free_port", lambda: next(offered))
    with private(Redis) as third:
        assert third.port == free


def test_one_that_does_not_start_shows_the_end_of_its_log_and_leaves_nothing(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from . import engine, share

    made = engine.new_folder()
    monkeypatch.setattr(engine, "free_port", lambda: redis_server.port)
    monkeypatch.setattr(share, "new_folder", lambda: made)
    with pytest.raises(ServiceError, match="Address already in use"), share.private(Redis):
        pass
    assert not made.exists()
    assert redis_server.answers()


def test_a_process_with_the_number_of_a_dead_engine_is_left_alone(own_redis: Redis) -> None:
    stranger = Redis.attach(own_redis.record())
    stranger._process = Process(own_redis.pid, 1)
    stranger.kill()
    assert own_redis.answers()
