"""Users of a Kafka that asks everybody who they are."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import BusError, TopicSpec
from tokenwire_server.roles import open_bus
from tokenwire_server.settings import Settings
from tokenwire_server.stream.topics import Topics

from ..services.granted import USERS, Grant, kafka_grants
from ..services.guarded_kafka import GuardedKafka

__all__ = ["SECRET", "bindings", "bus_of", "everything", "granted", "refusal", "settings"]

SECRET = "hunter2"


def settings(servers: str, user: str = "", password: str = SECRET, **more: Any) -> Settings:
    """As a role is given them."""
    if user:
        more = {"kafka_security_protocol": "sasl_plaintext", "kafka_sasl_username": user,
                "kafka_sasl_password": password, **more}  # fmt: skip
    return Settings(kafka_bootstrap_servers=servers, **more)


def granted(topics: Topics, user: str, role: str) -> list[Grant]:
    """What the page grants to the user of a role, for this one."""
    named = dict(zip(Topics()[:-1], topics[:-1], strict=True))
    return [grant._replace(user=user) for grant in kafka_grants(named) if grant.user == USERS[role]]


def bindings(grants: Iterable[Grant]) -> list[Any]:
    return [grant.binding() for grant in grants]


@asynccontextmanager
async def bus_of(kafka: GuardedKafka, user: str) -> AsyncIterator[KafkaBus]:
    """The brokers for a new user, who may do nothing."""
    await asyncio.to_thread(kafka.add_user, user, SECRET)
    bus = open_bus(settings(kafka.address, user), "collect")
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def everything(kafka: GuardedKafka) -> AsyncIterator[KafkaBus]:
    """The brokers for somebody who may do everything."""
    bus = KafkaBus(kafka.address, kafka.client_config())
    try:
        yield bus
    finally:
        await bus.close()


async def refusal(bus: KafkaBus, topics: Iterable[TopicSpec]) -> str:
    """Why these can't be had; empty if they can."""
    try:
        await bus.ensure(list(topics))
    except BusError as error:
        return str(error)
    return ""
