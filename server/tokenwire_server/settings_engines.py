"""Settings of the engines that several servers share: Kafka, Redis, PostgreSQL or TimescaleDB."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, SecretStr

__all__ = ["PARTITIONS", "TOPIC_NAMES", "EngineSettings", "lower"]

PARTITIONS: Final = 8  # more processors than that have nothing to do
TOPIC_NAMES: Final[Mapping[str, str]] = {
    "raw": "raw-market-data",
    "log": "numbered-trades",
    "bars": "normalized-ohlcv",
    "tokens": "token-state",
    "positions": "collector-positions",
    "rejects": "dead-letters",
}
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PORTS = re.compile(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?")


def lower(value: object) -> object:
    """Text in small letters; anything else as it is."""
    return value.lower() if isinstance(value, str) else value


def _topics(value: object) -> object:
    """``raw=trades.raw;bars=klines``: those that are called otherwise."""
    if not isinstance(value, str):
        return value
    parts = [part for part in re.split(r"[;,\s]+", value.strip(";, ")) if part]
    named = dict(part.partition("=")[::2] for part in parts)
    for key, name in named.items():
        if key not in TOPIC_NAMES:
            raise ValueError(f"{key!r} is none of {', '.join(TOPIC_NAMES)}; one part looks like raw=trades.raw")
        if not _TOPIC.fullmatch(name) or name in (".", ".."):
            raise ValueError(f"{name!r} is no name of a topic: 1 to 249 letters, digits, dots, dashes, underscores")
    names = {**TOPIC_NAMES, **named}
    if len(set(names.values())) < len(names):
        raise ValueError("two topics have one name")
    return ";".join(f"{key}={name}" for key, name in named.items())


def _ports(value: object) -> object:
    """A TCP port, or the first and the last of a range."""
    found = _PORTS.fullmatch(str(value).strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not (0 <= first <= last <= 65_535):
        raise ValueError("expected a TCP port from 0 to 65535, or a range such as 8000-8003")
    return str(first) if first == last else f"{first}-{last}"


def _redis_url(value: object) -> object:
    if isinstance(value, str) and not re.match(r"(rediss?|unix)://.", value.strip()):
        raise ValueError("expected such as redis://HOST:6379/0, redis://:PASSWORD@HOST:6379/0 or unix:///PATH")
    return value.strip() if isinstance(value, str) else value


class EngineSettings(BaseModel):
    """Where the engines are, and as whom they are used."""

    timescale_host: str | None = Field(
        None,
        min_length=1,
        description="host of a PostgreSQL or TimescaleDB server that bars and trades are kept in, or the folder of its "
        "socket; unset: see data",
    )
    timescale_port: int = Field(5432, ge=1, le=65535, description="its TCP port, from 1 to 65535")
    timescale_db: str = Field("tokenwire", min_length=1, max_length=63, description="the database, which exists")
    timescale_user: str = Field("tokenwire", min_length=1, max_length=63, description="the user, who may make tables")
    timescale_password: SecretStr | None = Field(None, description="the user's password; unset: none is needed")
    timescale_sslmode: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"], BeforeValidator(lower)
    ] = Field("prefer", description="disable, allow, prefer, require, verify-ca or verify-full: whether it is TLS")
    timescale_schema: str = Field(
        "tokenwire",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="schema of the tables, made if there is none: 1 to 63 small letters, digits and underscores",
    )
    redis_url: Annotated[SecretStr | None, BeforeValidator(_redis_url)] = Field(
        None,
        description="redis://, rediss:// or unix:// URL of a Redis that several servers share their tokens through; "
        "unset: none",
    )
    redis_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._:-]{0,64}$",
        description="what all keys in Redis begin with, up to 64 letters, digits, dots, colons, dashes and underscores",
    )
    kafka_bootstrap_servers: str | None = Field(
        None,
        pattern=r"^[^\s,]+(\s*,\s*[^\s,]+)*$",
        description="brokers that collectors, processors, gateways and loaders share, as host:port,host:port; unset: "
        "this process works alone",
    )
    kafka_security_protocol: Annotated[
        Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], BeforeValidator(lower)
    ] = Field("plaintext", description="plaintext, ssl, sasl_plaintext or sasl_ssl: how the brokers are spoken to")
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512: how the user is proven with sasl_…"
    )
    kafka_sasl_username: str | None = Field(None, description="the user with sasl_…; unset: none")
    kafka_sasl_password: SecretStr | None = Field(None, description="the user's password with sasl_…; unset: none")
    kafka_ssl_ca_location: str | None = Field(
        None, description="file with the authorities (PEM) that the brokers' certificates are checked by; unset: the "
        "system's"
    )  # fmt: skip
    kafka_topics: Annotated[str, BeforeValidator(_topics)] = Field(
        "",
        description="topics that are called otherwise, as raw=trades.raw;bars=klines; the names are raw, log, bars, "
        "tokens, positions and rejects",
    )
    kafka_partitions: int = Field(
        PARTITIONS,
        ge=1,
        le=1_024,
        description="partitions of each topic, from 1 to 1024, the same in all processes and not to be changed later: "
        "so many processors can share the work",
    )
    kafka_replication: int = Field(
        -1, ge=-1, le=15, description="copies of topics that are made, up to 15; -1: as the brokers say"
    )
    instance: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="name of this process among those of its role, which it keeps over restarts and nobody else has: "
        "1 to 100 letters, digits, dots, dashes and underscores; unset: the machine's name",
    )
    role_port: Annotated[str, BeforeValidator(_ports)] = Field(
        "8000-8003",
        description="TCP port of /health, /ready and /metrics of collect, process, gateway and load, or a range in "
        "which they take the first, second, third and fourth; 0 takes a free one",
    )

    @property
    def topic_names(self) -> Mapping[str, str]:
        """What each topic is called."""
        named = dict(part.partition("=")[::2] for part in self.kafka_topics.split(";") if part)
        return {**TOPIC_NAMES, **named}

    def port_of_role(self, place: int) -> int:
        """The role port of the first (0) to the fourth (3) role."""
        first, _, last = self.role_port.partition("-")
        return min(int(first) + place, int(last or first))

    @property
    def kafka_options(self) -> dict[str, str | int]:
        """Settings of librdkafka beside the brokers; secrets are among them."""
        options: dict[str, str | int] = {"security.protocol": self.kafka_security_protocol}
        if self.kafka_ssl_ca_location is not None:
            options["ssl.ca.location"] = self.kafka_ssl_ca_location
        if self.kafka_security_protocol.startswith("sasl"):
            options["sasl.mechanism"] = self.kafka_sasl_mechanism
            options["sasl.username"] = self.kafka_sasl_username or ""
            password = self.kafka_sasl_password
            options["sasl.password"] = "" if password is None else password.get_secret_value()
        return options
