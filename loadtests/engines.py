"""Engines for what measures or tries the server past one machine, and the settings that lead its roles to them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

from server.tests.services.engine import Engine
from server.tests.services.kafka import Kafka
from server.tests.services.postgres import Postgres
from server.tests.services.share import private, running

__all__ = ["DATABASE", "at_hand", "kafka_settings", "postgres_settings"]

DATABASE: Final = "postgres"
E = TypeVar("E", bound=Engine)


@contextmanager
def at_hand(kind: type[E]) -> Iterator[E]:
    """The engine that ``make services`` started, else one that ends with the block.

    Raises:
        ServiceError: it is not installed, or does not start.
    """
    if (found := running(kind)) is not None:
        found.shared = True
        yield found
        return
    with private(kind) as own:
        yield own


def kafka_settings(kafka: Kafka) -> Mapping[str, str]:
    """For the environment of a role."""
    return {"KAFKA_BOOTSTRAP_SERVERS": kafka.address}


def postgres_settings(postgres: Postgres) -> Mapping[str, str]:
    """For the environment of a role."""
    return {
        "TIMESCALE_HOST": "127.0.0.1",
        "TIMESCALE_PORT": str(postgres.port),
        "TIMESCALE_DB": DATABASE,
        "TIMESCALE_USER": postgres.user,
        "TIMESCALE_PASSWORD": postgres.password,
    }
