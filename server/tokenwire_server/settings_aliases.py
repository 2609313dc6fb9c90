"""Names of settings in the environment and in env files: our own, and those that people bring along.

``ALIASES`` is the one table of foreign names.
"""

import difflib
import io
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv.parser import parse_stream

__all__ = ["ALIASES", "PREFIX", "Alias", "Layer", "collect", "read_environment", "read_file"]

PREFIX: Final = "TOKENWIRE_"
MAX_FILE_BYTES: Final = 1_048_576
_NOT_SETTINGS: Final = frozenset({"TOKENWIRE_ENV_FILE"})
_RUST_LEVELS: Final[Mapping[str, str]] = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "error": "error",
    "off": "critical",
}


def _same(value: str) -> str | None:
    return value


def _rust_log(value: str) -> str | None:
    """``info,hyper=warn`` -> ``info``: the bare level; other directives name Rust modules, not ours."""
    levels = {directive.strip().lower() for directive in value.split(",")} & _RUST_LEVELS.keys()
    return _RUST_LEVELS[min(levels)] if len(levels) == 1 else None


def _node_env(value: str) -> str | None:
    """A production log is read by machines."""
    return "json" if value.strip().lower() == "production" else None


def _jupiter_url(value: str) -> str | None:
    """The host that older set-ups name is gone; the default has what it had."""
    return None if value.strip().rstrip("/") == "https://token.jup.ag" else value


@dataclass(frozen=True, slots=True)
class Alias:
    """A foreign name of ``field``; ``convert`` returns ``None`` where a value says nothing about it."""

    field: str
    convert: Callable[[str], str | None] = _same


ALIASES: Final[Mapping[str, Alias]] = {
    "PORT": Alias("port"),
    "RUST_LOG": Alias("log_level", _rust_log),
    "BROADCAST_CHANNEL_SIZE": Alias("broadcast_channel_size"),
    "MAX_HISTORY": Alias("max_history"),
    "NODE_ENV": Alias("log_format", _node_env),
    "POLL_INTERVAL_MS": Alias("poll_interval_ms"),
    "JANITOR_INTERVAL_MS": Alias("janitor_interval_ms"),
    "DEXSCREENER_API_URL": Alias("dexscreener_api_url"),
    "JUPITER_API_URL": Alias("jupiter_api_url", _jupiter_url),
    "JUPITER_API_KEY": Alias("jupiter_api_key"),
    "SOL_PRICE_USD": Alias("sol_price_usd"),
    "TIMESCALE_HOST": Alias("timescale_host"),
    "TIMESCALE_PORT": Alias("timescale_port"),
    "TIMESCALE_DB": Alias("timescale_db"),
    "TIMESCALE_USER": Alias("timescale_user"),
    "TIMESCALE_PASSWORD": Alias("timescale_password"),
    "TIMESCALE_SSLMODE": Alias("timescale_sslmode"),
    "TIMESCALE_SCHEMA": Alias("timescale_schema"),
    "KAFKA_BOOTSTRAP_SERVERS": Alias("kafka_bootstrap_servers"),
    "KAFKA_SECURITY_PROTOCOL": Alias("kafka_security_protocol"),
    "KAFKA_SASL_MECHANISM": Alias("kafka_sasl_mechanism"),
    "KAFKA_SASL_USERNAME": Alias("kafka_sasl_username"),
    "KAFKA_SASL_PASSWORD": Alias("kafka_sasl_password"),
    "KAFKA_SSL_CA_LOCATION": Alias("kafka_ssl_ca_location"),
    "PROMETHEUS_PORT": Alias("role_port"),
    "REDIS_URL": Alias("redis_url"),
}
"""Foreign name to setting. Within one layer our own name wins, so ``TOKENWIRE_PORT`` beats ``PORT``."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One place that settings come from: field to (name there, value), and notices about the rest."""

    origin: str
    values: Mapping[str, tuple[str, object]]
    notices: tuple[str, ...]


def read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that are set; an empty one counts as not set, as compose files produce them."""
    return {name: value for name, value in environ.items() if value.strip()}


def read_file(path: Path) -> dict[str, str]:
    """The assignments of an env file: ``NAME=value`` lines, ``#`` comments, quotes, an optional ``export``.

    Values mean what they say: ``$`` is not expanded.

    Raises:
        OSError: the file can't be read.
        ValueError: it is too large, is not UTF-8, or has a line that is no assignment.
    """
    with path.open("rb") as stream:
        raw = stream.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    values = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            raise ValueError(f"line {binding.original.line} is not NAME=value")
        if binding.key is not None and binding.value:
            values[binding.key] = binding.value
    return values


def collect(
    variables: Mapping[str, str], fields: Collection[str]
) -> tuple[dict[str, tuple[str, object]], tuple[str, ...]]:
    """Sort one layer's variables into settings (field to name, value) and notices on names without effect."""
    values: dict[str, tuple[str, object]] = {}
    for name, alias in ALIASES.items():
        if name in variables and (value := alias.convert(variables[name])) is not None:
            values[alias.field] = (name, value)
    notices: list[str] = []
    own = {PREFIX + field.upper(): field for field in fields}
    for name in sorted(variables):
        if name in own:
            values[own[name]] = (name, variables[name])
        elif name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            # Only a likely slip of the pen is worth a line: other tools share the prefix.
            close = difflib.get_close_matches(
                name.removeprefix(PREFIX), [field.upper() for field in fields], n=1, cutoff=0.7
            )
            notices.extend(f"{name} is no setting; did you mean {PREFIX}{match}?" for match in close)
    return values, tuple(notices)
