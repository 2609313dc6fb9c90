"""Fixtures of real engines, for every test of the project (the root ``conftest.py`` names this plugin).

- ``kafka``, ``postgres``, ``redis_server``: shared by all tests and workers; they refuse to be stopped or killed. Keep
  apart by names: ``topics``, ``database``, ``unique``.
- ``own_kafka``, ``own_postgres``, ``own_redis``: of one test file alone, for faults. Each test finds it running,
  whatever the test before did to it; its data stay. ``guarded_kafka`` is likewise, and asks everybody who they are.
- ``balance``: starts a HAProxy in front of gateways of the test.

Without the engine's programs a test skips and says what to install; in CI it fails.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from uuid import uuid4

import pytest

from .engine import Engine
from .errors import ServiceError
from .guarded_kafka import GuardedKafka
from .haproxy import Gateway, HAProxy, balancing
from .kafka import Kafka
from .postgres import Postgres
from .redis import Redis
from .share import private, running, shared

__all__ = ["Balance", "Topics"]

E = TypeVar("E", bound=Engine)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    yield from _shared(Kafka, tmp_path_factory)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    yield from _shared(Postgres, tmp_path_factory)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    yield from _shared(Redis, tmp_path_factory)


@pytest.fixture
def own_kafka(_kafka_of_file: Kafka) -> Kafka:
    return _revived(_kafka_of_file)


@pytest.fixture
def guarded_kafka(_guarded_kafka_of_file: GuardedKafka) -> GuardedKafka:
    return _revived(_guarded_kafka_of_file)


@pytest.fixture
def own_postgres(_postgres_of_file: Postgres) -> Postgres:
    return _revived(_postgres_of_file)


@pytest.fixture
def own_redis(_redis_of_file: Redis) -> Redis:
    return _revived(_redis_of_file)


@pytest.fixture(scope="module")
def _kafka_of_file() -> Iterator[Kafka]:
    yield from _private(Kafka)


@pytest.fixture(scope="module")
def _guarded_kafka_of_file() -> Iterator[GuardedKafka]:
    yield from _private(GuardedKafka)


@pytest.fixture(scope="module")
def _postgres_of_file() -> Iterator[Postgres]:
    yield from _private(Postgres)


@pytest.fixture(scope="module")
def _redis_of_file() -> Iterator[Redis]:
    yield from _private(Redis)


class Balance(Protocol):
    """Starts a HAProxy, which ends with the test."""

    def __call__(self, gateways: Sequence[Gateway], environment: Mapping[str, str] | None = None) -> HAProxy: ...


@pytest.fixture
def balance() -> Iterator[Balance]:
    _needs(HAProxy)
    with ExitStack() as started:

        def start(gateways: Sequence[Gateway], environment: Mapping[str, str] | None = None) -> HAProxy:
            return started.enter_context(balancing(gateways, environment))

        yield start


@pytest.fixture
def unique() -> str:
    """A prefix that no other test has: of topics, keys, groups, transactions."""
    return f"t{uuid4().hex[:12]}"


@dataclass
class Topics:
    """Topics of one test."""

    kafka: Kafka
    prefix: str
    made: list[str] = field(default_factory=list)

    def create(self, name: str, *, partitions: int = 1) -> str:
        """A topic of this name behind the test's prefix; the whole name."""
        whole = f"{self.prefix}.{name}"
        self.kafka.create_topics([whole], partitions=partitions)
        self.made.append(whole)
        return whole


@pytest.fixture
def topics(kafka: Kafka, unique: str) -> Iterator[Topics]:
    """Makes topics of the shared Kafka, and removes them after the test."""
    made = Topics(kafka, unique)
    yield made
    kafka.delete_topics(made.made)


@pytest.fixture
def database(postgres: Postgres, unique: str) -> Iterator[str]:
    """The name of an empty database of the shared PostgreSQL, which goes after the test."""
    postgres.sql(f"CREATE DATABASE {unique}")
    yield unique
    postgres.sql(f"DROP DATABASE {unique} WITH (FORCE)")


def _shared(kind: type[E], factory: pytest.TempPathFactory) -> Iterator[E]:
    if running(kind) is None:
        _needs(kind)
    base = factory.getbasetemp()
    # Under xdist each worker has a folder of its own in that of the run.
    run = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with shared(kind, run) as engine:
        yield engine


def _private(kind: type[E]) -> Iterator[E]:
    _needs(kind)
    with private(kind) as engine:
        yield engine


def _revived(engine: E) -> E:
    if engine.alive():
        engine.cont()
    else:
        engine.start()
    return engine


def _needs(kind: type[Engine]) -> None:
    lacking = kind.lacking()
    if not lacking:
        try:
            kind.prepare()
        except ServiceError as error:
            lacking = str(error)
    if lacking and os.environ.get("CI"):
        pytest.fail(f"{kind.name} is missing in CI: {lacking}", pytrace=False)
    if lacking:
        pytest.skip(f"{kind.name}: {lacking}")
