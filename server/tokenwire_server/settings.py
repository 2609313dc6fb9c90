"""One typed set of settings, read once at the edge of the process.

:func:`load` merges the layers, strongest first: command-line flag, environment, env file, default. Every
setting has the name ``TOKENWIRE_`` + its field in capitals; ``settings_aliases`` holds the other names that
are understood. A field's unit is in its name. :func:`explain` tells where each value comes from.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tokenwire_schemas import limits
from tokenwire_server.errors import UserError
from tokenwire_server.market.bars import MAX_HISTORY
from tokenwire_server.market.intervals import DEFAULT_INTERVALS, parse_intervals
from tokenwire_server.market.retention import (
    DEFAULT_BARS,
    DEFAULT_TRADES,
    Retention,
    parse_duration_ms,
    parse_retention_bars,
)
from tokenwire_server.settings_aliases import PREFIX, Layer, collect, read_environment, read_file
from tokenwire_server.settings_engines import EngineSettings, lower
from tokenwire_server.settings_flags import FLAGS, ROLE_FLAGS
from tokenwire_server.source_spec import MAX_TAPE_SPEED, SimulatorScenario, SourceSpec, parse_sources, parse_tape_speed

__all__ = [
    "Explained",
    "Settings",
    "SettingsError",
    "default_text",
    "env_name",
    "explain",
    "load",
]

LogLevel = Literal["debug", "info", "warning", "error", "critical"]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(:\d{1,5})?")
_RATE: Final = re.compile(r"([1-9][0-9]{0,8})\s*(?:/|\bper\b)\s*(?:([1-9][0-9]{0,3})\s+)?(second|minute|hour)s?")
_API_URL: Final = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"
_LEVEL_NAMES: Final = {"trace": "debug", "warn": "warning", "fatal": "critical", "off": "critical"}
_MAX_SHOWN_CHARS: Final = 60


class SettingsError(UserError):
    """A setting has no usable value; the message names the setting, its origin and what is expected."""


def _sources(value: object) -> object:
    parts = re.split(r"\s*;\s*", value.strip()) if isinstance(value, str) else value
    if isinstance(parts, list | tuple):
        parts = tuple(str(part) for part in parts if part)
        parse_sources(parts)
    return parts


def _origins(value: object) -> object:
    """Origins, separated by semicolons, commas or spaces; ``none`` is the empty list."""
    parts = re.split(r"[;,\s]+", value.strip(";, ")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return parts
    if list(parts) == ["none"]:
        return ()
    listed = tuple(str(part).lower().rstrip("/") for part in parts)
    for origin in listed:
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin; one looks like https://app.example.org")
    return listed


def _networks(value: object) -> object:
    """IP addresses and networks, separated by semicolons, commas or spaces; ``none`` is the empty list."""
    parts = re.split(r"[;,\s]+", value.strip(";, ")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return parts
    if list(parts) == ["none"]:
        return ()
    for part in parts:
        try:
            ipaddress.ip_network(str(part))
        except ValueError:
            raise ValueError(f"{part!r} is no IP address or network; one looks like 10.0.0.7 or 10.0.0.0/8") from None
    return tuple(map(str, parts))


def _secrets(value: object) -> object:
    """Secrets separated by semicolons; ``none`` is the empty list."""
    parts = [part for part in value.split(";") if part.strip()] if isinstance(value, str) else value
    return () if isinstance(parts, list | tuple) and list(parts) == ["none"] else parts


def _rate(value: object) -> object:
    """A number of requests in a time; ``0`` is no limit."""
    if str(value).strip() == "0":
        return "0"
    match = _RATE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected such as 600/minute, 20/second or 100 per 5 minutes, or 0 for no limit")
    amount, multiple, unit = match.groups()
    return f"{amount}/{unit}" if multiple is None else f"{amount} per {multiple} {unit}"


def _tape_speed(value: object) -> object:
    return parse_tape_speed(value) if isinstance(value, str) else value


def _intervals(value: object) -> object:
    """Lengths of bars, separated by commas, semicolons or spaces."""
    parts = re.split(r"[;,\s]+", value.strip(";, ")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return parts
    return tuple(interval.text for interval in parse_intervals(map(str, parts)))


def _duration(value: object) -> object:
    if isinstance(value, str):
        parse_duration_ms(value)
    return value


def _bar_durations(value: object) -> object:
    if isinstance(value, str):
        parse_retention_bars(value)
    return value


def _level(value: object) -> object:
    lower = value.lower() if isinstance(value, str) else value
    return _LEVEL_NAMES.get(lower, lower) if isinstance(lower, str) else lower


class Settings(EngineSettings, BaseSettings):
    """Every setting. Built directly (tests, embedding) or by :func:`load` (the command line)."""

    # The layers are merged before, in load(), where each value's origin is known: so nothing is read here.
    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for all (IPv4)")
    port: int = Field(8080, ge=0, le=65535, description="TCP port from 0 to 65535; 0 lets the system choose")
    update_interval_s: float = Field(
        limits.UPDATE_INTERVAL_MS / 1000,
        ge=limits.MIN_UPDATE_INTERVAL_MS / 1000,
        le=3600,
        description="seconds between two updates of a token, from 0.05 to 3600",
    )
    max_connections: int = Field(
        limits.MAX_CONNECTIONS, ge=1, le=1_000_000, description="WebSocket connections at once, from 1 to 1000000"
    )
    broadcast_channel_size: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="messages that a client of a plain path may lag before it is closed, from 1 to 100000",
    )
    resume_window_s: float = Field(
        limits.RESUME_WINDOW_MS / 1000,
        ge=0,
        le=3600,
        description="seconds that a session waits for a client that lost its connection, from 0 to 3600",
    )
    resume_memory_mib: int = Field(
        limits.RESUME_INSTANCE_BYTES // 1_048_576,
        ge=1,
        le=65_536,
        description="MiB that all sessions together keep for replays, from 1 to 65536",
    )
    source: Annotated[tuple[str, ...], BeforeValidator(_sources)] = Field(
        ("simulator",),
        min_length=1,
        max_length=64,
        description="simulator[:SCENARIO], tape:PATH, binance:SYM,SYM[@URL] (coinbase, kraken, bybit, okx likewise), "
        "ccxt:EXCHANGE:SYM,SYM, dexscreener:ADDR,ADDR, dexscreener:search=QUERY, jupiter:MINT,MINT, probe[:TOKENS] or "
        "none; several separated by ;",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="whole number, 0 or more, that makes the simulator repeatable; unset: random"
    )
    tape_speed: Annotated[float, BeforeValidator(_tape_speed)] = Field(
        1.0,
        ge=0,
        le=MAX_TAPE_SPEED,
        description="how fast tapes are replayed: 1 as recorded, 10 ten times as fast, max as fast as possible",
    )
    tls_cert: Path | None = Field(None, description="file with the certificate chain (PEM); turns on wss and https")
    tls_key: Path | None = Field(None, description="file with the certificate's private key (PEM)")
    data: Path | None = Field(
        None,
        description="directory that bars and trades are kept in; unset: nothing outlives the process, except that "
        "--source none keeps them in tokenwire-data",
    )
    bar_intervals: Annotated[tuple[str, ...], BeforeValidator(_intervals)] = Field(
        tuple(interval.text for interval in DEFAULT_INTERVALS),
        description="lengths of bars, each a number with s, m, h, d or w, separated by commas; at most 16",
    )
    max_history: int = Field(
        MAX_HISTORY,
        ge=1,
        le=100_000,
        description="closed bars of each length and token that are kept in memory at most, from 1 to 100000; 300000 of "
        "all tokens together",
    )
    retention_trades: Annotated[str, BeforeValidator(_duration)] = Field(
        DEFAULT_TRADES, description="how long stored trades are kept: a number with s, m, h, d or w, or forever"
    )
    retention_bars: Annotated[str, BeforeValidator(_bar_durations)] = Field(
        DEFAULT_BARS,
        description="how long stored bars of each interval are kept, as 1s=7d;1m=52w (7d at least); others are kept "
        "forever",
    )
    drain_s: float = Field(
        5.0, ge=0, le=600, description="seconds over which a shutdown spreads its closes, from 0 to 600"
    )
    log_level: Annotated[LogLevel, BeforeValidator(_level)] = Field(
        "info", description="debug, info, warning, error or critical"
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(lower)] = Field(
        "text", description="text (one readable line an event) or json (one object a line)"
    )
    access_log: bool = Field(False, description="true or false: whether every HTTP request is logged")
    allowed_origins: Annotated[tuple[str, ...] | None, BeforeValidator(_origins)] = Field(
        None,
        description="web origins that may connect, separated by ; or * for any, or none for the server's own "
        "pages only; unset: any on a loopback host, else the server's own pages only",
    )
    trusted_proxies: Annotated[tuple[str, ...], BeforeValidator(_networks)] = Field(
        (),
        description="addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, "
        "separated by ;, or none",
    )
    rest_rate_limit: Annotated[str, BeforeValidator(_rate)] = Field(
        "600/minute",
        description="REST requests that one client may make, such as 600/minute, 20/second or 100 per 5 minutes; "
        "0: any number",
    )
    rest_api_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(_secrets)] = Field(
        (),
        description="keys separated by ;, each of which has a REST limit of its own wherever it is used from "
        "(X-API-Key), or none",
    )
    ingest_token: SecretStr | None = Field(
        None,
        description="secret that programs show when they post trades (Authorization: Bearer); unset: only programs on "
        "this machine may post",
    )
    ingest_venue: str = Field(
        "posted",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
        description="venue of posted trades that name none, 1 to 32 letters, digits, dots, dashes and underscores: a "
        "token's address is VENUE:SYMBOL",
    )
    socketio: bool = Field(False, description="true or false: whether Socket.IO clients are served on /socket.io/")
    max_tokens: int = Field(10_000, ge=1, le=1_000_000, description="tokens known at once, at least 1")
    simulator_scenario: Annotated[SimulatorScenario, BeforeValidator(lower)] = Field(
        "calm", description="calm, burst, crash, stalled or bad-data"
    )
    simulator_rate: float = Field(
        1.0, ge=0.01, le=1000, description="factor on the simulator's trades a second, from 0.01 to 1000"
    )
    poll_interval_ms: int = Field(
        30_000,
        ge=100,
        le=3_600_000,
        description="milliseconds between two polls of DexScreener or Jupiter, from 100 to 3600000",
    )
    janitor_interval_ms: int = Field(
        3_600_000,
        ge=1_000,
        le=604_800_000,
        description="milliseconds after which what was polled of a token that no API mentions any more is forgotten, "
        "from 1000 to 604800000",
    )
    dexscreener_api_url: str = Field(
        "https://api.dexscreener.com", pattern=_API_URL, description="http(s) URL of DexScreener's API"
    )
    jupiter_api_url: str = Field("https://api.jup.ag", pattern=_API_URL, description="http(s) URL of Jupiter's API")
    jupiter_api_key: SecretStr | None = Field(None, description="key for Jupiter's API; unset: none")
    sol_price_usd: Decimal | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="USD for one SOL where no live price is known, more than 0 and up to 1000000000; unset: none",
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+(/\S*)?$",
        description="http(s) URL of an OpenTelemetry collector that metrics are pushed to; unset: none",
    )

    _value_origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _notices: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller passes: :func:`load` has merged the rest."""
        return (init_settings,)

    @model_validator(mode="after")
    def _belongs_together(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_key", "tls_cert") if self.tls_cert is None else ("tls_cert", "tls_key")
            raise ValueError(f"{FLAGS[given]} needs {FLAGS[missing]} beside it ({env_name(missing)})")
        if self.data is not None and self.timescale_host is not None:
            raise ValueError(
                f"a history is kept in one place: either {FLAGS['data']} ({env_name('data')}) or TIMESCALE_HOST "
                f"({env_name('timescale_host')}), not both"
            )
        return self

    @property
    def sources(self) -> tuple[SourceSpec, ...]:
        """The sources, parsed; empty for ``none``."""
        return parse_sources(self.source)

    @property
    def retention(self) -> Retention:
        """How long what is stored is kept."""
        return Retention(parse_duration_ms(self.retention_trades), parse_retention_bars(self.retention_bars))

    @property
    def kept_in(self) -> str | None:
        """Where bars and trades are kept, for people; None: nowhere."""
        if self.timescale_host is not None:
            return f"PostgreSQL, {self.timescale_db} on {self.timescale_host}:{self.timescale_port}"
        return None if self.data is None else str(self.data)

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines worth one warning at start-up: names that were set but have no effect."""
        return self._notices

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def effective_origins(self) -> tuple[str, ...]:
        """The list in force: ``("*",)`` is any, ``()`` the server's own pages only."""
        if self.allowed_origins is not None:
            return self.allowed_origins
        return ("*",) if self.is_loopback else ()

    def origin_allowed(self, origin: str | None, host_header: str | None = None) -> bool:
        """Whether a browser page of ``origin`` may connect.

        ``None`` is a client that is no browser: always. So is a page that this server itself served: the host
        and port of its origin are those of the request's ``Host`` header.
        """
        if origin is None:
            return True
        allowed = self.effective_origins
        lower = origin.lower()
        if "*" in allowed or lower in allowed:
            return True
        _, separator, authority = lower.partition("://")
        return bool(separator) and host_header is not None and authority == host_header.lower() != ""


@dataclass(frozen=True, slots=True)
class Explained:
    """One line of ``tokenwire-server config``."""

    name: str
    env_name: str
    value: str
    origin: str


def env_name(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return "****"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ";".join(map(str, value)) or "none"
    return str(value)


def default_text(field: str) -> str:
    """A setting's default as it is written in an env file; empty where the default is "unset"."""
    return _text(Settings.model_fields[field].default)


def explain(settings: BaseSettings) -> list[Explained]:
    """Each setting with its value as text and its origin; secrets, and passwords in URLs, are masked."""
    origins: Mapping[str, str] = getattr(settings, "_value_origins", {})
    rows = []
    for name in type(settings).model_fields:
        value = re.sub(r"(?<=://)[^/\s@]*@", "****@", _text(getattr(settings, name)))
        origin = origins.get(name) or ("code" if name in settings.model_fields_set else "default")
        rows.append(Explained(name, env_name(name), value, origin))
    return rows


def load(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    env_file: str | os.PathLike[str] | None = None,
) -> Settings:
    """Merge flag > environment > env file > default, and check every value.

    Args:
        flags: field to value; ``None`` means "not given".
        environ: the process's environment unless given.
        env_file: path of the env file; otherwise ``TOKENWIRE_ENV_FILE``, otherwise ``.env`` if there is one.

    Raises:
        SettingsError: in one line, for an unusable value or an unreadable file.
    """
    environment = os.environ if environ is None else environ
    named = env_file or environment.get(f"{PREFIX}ENV_FILE")
    path = Path(named or ".env")
    try:
        file = read_file(path) if named or path.is_file() else {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"cannot read the env file {path}: {reason}; correct it or name another with --env-file"
        ) from None
    given = {name: (ROLE_FLAGS[name], value) for name, value in (flags or {}).items() if value is not None}
    layers = [
        Layer(f"file {path}", *collect(file, Settings.model_fields)),
        Layer("environment", *collect(read_environment(environment), Settings.model_fields)),
        Layer("flag", given, ()),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    labels: dict[str, str] = {}
    for layer in layers:
        for field, (name, value) in layer.values.items():
            values[field] = value
            origins[field] = f"{layer.origin} {name}"
            labels[field] = name if layer.origin == "flag" else f"{name} ({layer.origin})"
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_one_line(error, values, labels)) from None
    settings._value_origins.update(origins)
    settings._notices = tuple(f"{notice} ({layer.origin})" for layer in layers for notice in layer.notices)
    return settings


def _one_line(error: ValidationError, values: Mapping[str, object], labels: Mapping[str, str]) -> str:
    lines: dict[str, str] = {}
    for item in error.errors(include_input=False, include_url=False):
        reason = str(item["ctx"]["error"]) if item["type"] == "value_error" else ""
        field = str(item["loc"][0]) if item["loc"] else ""
        if field not in Settings.model_fields:
            lines[reason] = reason
            continue
        is_secret = "SecretStr" in str(Settings.model_fields[field].annotation)
        shown = "****" if is_secret else repr(_text(values.get(field)))
        if len(shown) > _MAX_SHOWN_CHARS:
            shown = shown[:_MAX_SHOWN_CHARS] + "…"
        expected = reason or f"expected {Settings.model_fields[field].description}"
        lines[field] = f"{labels.get(field, env_name(field))} cannot be {shown}: {expected}"
    return " / ".join(lines.values())
