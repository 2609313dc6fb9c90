"""Where a value comes from, what is refused, and in which words."""

from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from tokenwire_server.settings import Settings, SettingsError, default_text, env_name, explain, load
from tokenwire_server.settings_aliases import ALIASES, read_file
from tokenwire_server.settings_flags import FLAGS
from tokenwire_server.source_spec import SimulatorScenario
from tokenwire_server.sources.simulation import Scenario

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_env_file_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def origin_of(settings: Settings, name: str) -> str:
    return next(row.origin for row in explain(settings) if row.name == name)


def test_defaults_are_the_specification_s() -> None:
    settings = load(environ={})
    assert (settings.host, settings.port, settings.source) == ("127.0.0.1", 8080, ("simulator",))
    assert (settings.update_interval_s, settings.max_connections) == (5.0, 1000)
    assert {row.origin for row in explain(settings)} == {"default"}
    assert settings.notices == ()


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "some.env"
    file.write_text("TOKENWIRE_PORT=1001\nTOKENWIRE_HOST=10.0.0.1\nexport TOKENWIRE_SEED='7' # lucky\n")
    environ = {"TOKENWIRE_PORT": "1002", "TOKENWIRE_HOST": "10.0.0.2", "TOKENWIRE_ENV_FILE": str(file)}
    settings = load({"port": "1003", "host": None}, environ=environ)
    assert (settings.port, settings.host, settings.seed, settings.drain_s) == (1003, "10.0.0.2", 7, 5.0)
    assert origin_of(settings, "port") == "flag --port"
    assert origin_of(settings, "host") == "environment TOKENWIRE_HOST"
    assert origin_of(settings, "seed") == f"file {file} TOKENWIRE_SEED"
    assert origin_of(settings, "drain_s") == "default"


def test_the_flag_for_the_file_beats_the_variable(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("TOKENWIRE_PORT=1\n")
    (tmp_path / "b.env").write_text("TOKENWIRE_PORT=2\n")
    assert load(environ={"TOKENWIRE_ENV_FILE": "a.env"}, env_file="b.env").port == 2


def test_a_dot_env_file_is_read_where_the_server_starts(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=3000\n", encoding="utf-8-sig")
    settings = load(environ={})
    assert settings.port == 3000
    assert origin_of(settings, "port") == "file .env PORT"


def test_our_own_name_beats_an_alias_of_the_same_layer_only(tmp_path: Path) -> None:
    assert load(environ={"PORT": "1", "TOKENWIRE_PORT": "2"}).port == 2
    (tmp_path / ".env").write_text("TOKENWIRE_PORT=2\n")
    assert load(environ={"PORT": "1"}).port == 1


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("PORT", "3000", "port", 3000),
        ("RUST_LOG", "trace", "log_level", "debug"),
        ("RUST_LOG", "debug", "log_level", "debug"),
        ("RUST_LOG", "WARN", "log_level", "warning"),
        ("RUST_LOG", "hyper=trace,error", "log_level", "error"),
        ("RUST_LOG", "off", "log_level", "critical"),
        ("RUST_LOG", "my_crate", "log_level", "info"),
        ("RUST_LOG", "hyper=trace", "log_level", "info"),
        ("NODE_ENV", "production", "log_format", "json"),
        ("NODE_ENV", "development", "log_format", "text"),
        ("POLL_INTERVAL_MS", "5000", "poll_interval_ms", 5_000),
        ("JANITOR_INTERVAL_MS", "7200000", "janitor_interval_ms", 7_200_000),
        ("DEXSCREENER_API_URL", "http://127.0.0.1:1", "dexscreener_api_url", "http://127.0.0.1:1"),
        ("JUPITER_API_URL", "https://lite-api.jup.ag", "jupiter_api_url", "https://lite-api.jup.ag"),
        ("JUPITER_API_URL", "https://token.jup.ag", "jupiter_api_url", "https://api.jup.ag"),
        ("MAX_HISTORY", "250", "max_history", 250),
        ("JUPITER_API_KEY", "k", "jupiter_api_key", SecretStr("k")),
        ("SOL_PRICE_USD", "160.5", "sol_price_usd", Decimal("160.5")),
        ("TIMESCALE_HOST", "timescale", "timescale_host", "timescale"),
        ("TIMESCALE_PORT", "5433", "timescale_port", 5_433),
        ("TIMESCALE_DB", "cryptobot", "timescale_db", "cryptobot"),
        ("TIMESCALE_USER", "postgres", "timescale_user", "postgres"),
        ("TIMESCALE_PASSWORD", "password", "timescale_password", SecretStr("password")),
        ("TIMESCALE_SSLMODE", "VERIFY-FULL", "timescale_sslmode", "verify-full"),
        ("TIMESCALE_SCHEMA", "prices", "timescale_schema", "prices"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092", "kafka_bootstrap_servers", "localhost:9092"),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL", "kafka_security_protocol", "sasl_ssl"),
        ("KAFKA_SASL_MECHANISM", "PLAIN", "kafka_sasl_mechanism", "PLAIN"),
        ("KAFKA_SASL_USERNAME", "me", "kafka_sasl_username", "me"),
        ("KAFKA_SASL_PASSWORD", "password", "kafka_sasl_password", SecretStr("password")),
        ("KAFKA_SSL_CA_LOCATION", "ca.pem", "kafka_ssl_ca_location", "ca.pem"),
        ("PROMETHEUS_PORT", "8000 - 8003", "role_port", "8000-8003"),
        ("REDIS_URL", " redis://:pw@redis:6379 ", "redis_url", SecretStr("redis://:pw@redis:6379")),
    ],
)
def test_every_alias(name: str, value: str, field: str, expected: object) -> None:
    assert ALIASES[name].field == field
    assert getattr(load(environ={name: value}), field) == expected


def test_the_names_that_others_bring_along_are_all_known() -> None:
    brought = {"PORT", "RUST_LOG", "NODE_ENV", "BROADCAST_CHANNEL_SIZE", "MAX_HISTORY", "REDIS_URL", "SOL_PRICE_USD"}
    brought |= {"POLL_INTERVAL_MS", "JANITOR_INTERVAL_MS", "DEXSCREENER_API_URL", "JUPITER_API_URL", "PROMETHEUS_PORT"}
    brought |= {"JUPITER_API_KEY"}
    brought |= {f"TIMESCALE_{part}" for part in ("HOST", "PORT", "DB", "USER", "PASSWORD", "SSLMODE", "SCHEMA")}
    brought |= {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SECURITY_PROTOCOL", "KAFKA_SSL_CA_LOCATION"}
    brought |= {f"KAFKA_SASL_{part}" for part in ("MECHANISM", "USERNAME", "PASSWORD")}
    assert brought == ALIASES.keys()
    assert all(alias.field in Settings.model_fields for alias in ALIASES.values())


def test_a_slip_of_the_pen_is_noticed_and_other_names_are_not() -> None:
    environ = {"TOKENWIRE_UPDATE_INTERVAL": "1", "TOKENWIRE_TAPES": "x", "HOME": "/"}
    settings = load(environ=environ)
    assert settings.notices == (
        "TOKENWIRE_UPDATE_INTERVAL is no setting; did you mean TOKENWIRE_UPDATE_INTERVAL_S? (environment)",
    )


def test_empty_variables_count_as_not_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TOKENWIRE_HOST=\nTOKENWIRE_SEED=''\n")
    assert load(environ={"PORT": "", "TOKENWIRE_TLS_CERT": " "}).model_dump() == Settings().model_dump()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": "70000"}, "--port cannot be '70000'"),
        ({"port": "http"}, "65535"),
        ({"port": "80.5"}, "--port"),
        ({"host": " "}, None),
        ({"update_interval_s": "0.04"}, "from 0.05 to 3600"),
        ({"update_interval_s": "nan"}, "--update-interval"),
        ({"update_interval_s": "inf"}, "--update-interval"),
        ({"max_connections": "0"}, "--max-connections"),
        ({"seed": "-1"}, "whole number"),
        ({"drain_s": "-1"}, "--drain"),
        ({"log_level": "loud"}, "debug, info, warning"),
        ({"log_format": "xml"}, "text"),
        ({"source": "bitmex:XBT"}, "'bitmex:XBT' is not a source; use simulator, tape:PATH"),
        ({"source": "simulator:x"}, "'x' is not a scenario; use calm, burst"),
        ({"source": "none:x"}, "is not a source"),
        ({"source": "tape:"}, "tape:PATH"),
        ({"source": "binance:"}, "binance:BTCUSDT"),
        ({"source": "binance:BTC/USDT"}, "not a Binance symbol"),
        ({"source": "binance:BTCUSDT@http://example.org"}, "not a WebSocket URL"),
        ({"source": "binance:BTCUSDT@ws://example.org:port"}, "not a WebSocket URL"),
        ({"source": ["none", "simulator"]}, "none stands alone"),
        ({"source": ["simulator", "simulator"]}, "named twice"),
        ({"tls_cert": "cert.pem"}, "--tls-cert needs --tls-key"),
        ({"tls_key": "key.pem"}, "--tls-key needs --tls-cert"),
        ({"port": "x" * 10_000}, "…"),
        ({"port": "x\ny"}, "'x\\ny'"),
        ({"port": "70000", "seed": "x"}, " / "),
    ],
)
def test_a_bad_value_is_refused_in_one_line(flags: dict[str, object], words: str | None) -> None:
    if words is None:
        load(flags, environ={})
        return
    with pytest.raises(SettingsError) as caught:
        load(flags, environ={})
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_refusal_names_where_the_value_stands(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^PORT \(environment\) cannot be 'abc'"):
        load(environ={"PORT": "abc"})
    (tmp_path / ".env").write_text("TOKENWIRE_DRAIN_S=long\n")
    with pytest.raises(SettingsError, match=r"^TOKENWIRE_DRAIN_S \(file \.env\) cannot be 'long'"):
        load(environ={})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"TOKENWIRE_PORT=1\nnot an assignment\n", "line 2 is not NAME=value"),
        (b"\xff\xfe", "UTF-8"),
        (b"#" * 1_048_577, "larger than"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(SettingsError, match=words):
        load(environ={})


def test_a_named_file_that_is_missing_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"cannot read the env file gone\.env: No such file"):
        load(environ={}, env_file="gone.env")


def test_values_in_files_are_taken_literally(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=${HOME}\nB=\"x y\" \n# C=1\nD='a#b'\n")
    assert read_file(tmp_path / ".env") == {"A": "${HOME}", "B": "x y", "D": "a#b"}


def test_sources_are_parsed() -> None:
    settings = load({"source": ["binance:btcusdt, ETHUSDT@wss://h:9443/x", "tape:a;b.jsonl"]}, environ={})
    first, second = settings.sources
    assert (first.kind, first.symbols, first.url) == ("binance", ("BTCUSDT", "ETHUSDT"), "wss://h:9443/x")
    assert (second.kind, second.path) == ("tape", "a;b.jsonl")
    assert [spec.kind for spec in load(environ={"TOKENWIRE_SOURCE": "simulator; tape:x"}).sources] == [
        "simulator",
        "tape",
    ]
    assert load({"source": "none"}, environ={}).sources == ()


@pytest.mark.parametrize(
    ("host", "origins", "origin", "allowed"),
    [
        ("127.0.0.1", None, "https://evil.example", True),
        ("localhost", None, "null", True),
        ("::1", None, "http://x", True),
        ("0.0.0.0", None, None, True),
        ("0.0.0.0", None, "https://evil.example", False),
        ("0.0.0.0", None, "https://me.example:8080", True),
        ("0.0.0.0", None, "null", False),
        ("0.0.0.0", "*", "https://evil.example", True),
        ("0.0.0.0", "https://App.example/, http://b:1", "https://app.example", True),
        ("0.0.0.0", "https://app.example", "http://app.example", False),
        ("0.0.0.0", "https://app.example", "https://app.example.evil", False),
        ("127.0.0.1", "none", "https://evil.example", False),
        ("127.0.0.1", "none", "https://me.example:8080", True),
    ],
)
def test_origins(host: str, origins: str | None, origin: str | None, allowed: bool) -> None:
    settings = load({"host": host}, environ={"TOKENWIRE_ALLOWED_ORIGINS": origins or ""})
    assert settings.origin_allowed(origin, "me.example:8080") is allowed


def test_without_a_host_header_nothing_is_same_origin() -> None:
    settings = Settings(host="0.0.0.0")
    assert not settings.origin_allowed("https://me.example")
    assert not settings.origin_allowed("null", "")
    assert not settings.origin_allowed("http://[", "me.example")


@pytest.mark.parametrize("name", ["REDIS_URL", "TOKENWIRE_REDIS_URL"])
def test_a_wrong_url_with_a_password_is_refused_without_showing_it(name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"REDIS_URL \(environment\) cannot be \*{4}: expected such as redis://"
    ) as told:
        load(environ={name: "http://:hunter2@redis:6379"})
    assert "hunter2" not in str(told.value)


def test_secrets_are_masked() -> None:
    class WithSecret(BaseSettings):
        api_key: SecretStr = SecretStr("hunter2")
        url: str = "https://user:hunter2@example.org/x"

    text = " ".join(row.value for row in explain(WithSecret()))
    assert text == "**** https://****@example.org/x"


def test_every_setting_is_in_the_example_file_with_its_real_default() -> None:
    documented = {}
    for line in (ROOT / ".env.example").read_text().splitlines():
        if line.startswith("#TOKENWIRE_"):
            name, _, value = line[1:].partition("=")
            documented[name] = value
    assert documented == {env_name(field): default_text(field) for field in Settings.model_fields}


def test_the_example_file_with_every_line_in_effect_changes_nothing(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text().replace("#TOKENWIRE_", "TOKENWIRE_")
    (tmp_path / ".env").write_text(text)
    assert load(environ={}).model_dump() == Settings().model_dump()


def test_every_flag_belongs_to_a_setting_and_every_setting_says_what_it_expects() -> None:
    assert FLAGS.keys() <= Settings.model_fields.keys()
    assert all(field.description for field in Settings.model_fields.values())


def test_the_simulator_agrees_with_its_settings() -> None:
    assert set(get_args(SimulatorScenario)) == set(Scenario)
    for scenario in Scenario:
        assert load(environ={"TOKENWIRE_SIMULATOR_SCENARIO": scenario.upper()}).simulator_scenario == scenario
        assert load({"source": f"simulator:{scenario}"}, environ={}).sources[0].scenario == scenario


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
