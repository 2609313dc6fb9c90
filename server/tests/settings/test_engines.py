"""Settings of the engines: topics that are called otherwise, ports of roles, what librdkafka is told."""

import pytest

from tokenwire_server.settings import SettingsError, load
from tokenwire_server.stream.topics import Topics, topics_of


def test_topics_may_be_called_otherwise() -> None:
    settings = load(
        environ={"TOKENWIRE_KAFKA_TOPICS": "raw=trades.raw; bars=klines", "TOKENWIRE_KAFKA_PARTITIONS": "3"}
    )
    assert topics_of(settings) == Topics(raw="trades.raw", bars="klines", partitions=3)
    assert topics_of(load(environ={})) == Topics()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("trades=x", "'trades' is none of raw, log, bars"),
        ("raw", "'' is no name of a topic"),
        ("raw=a b", "'b' is none of"),
        ("raw=a/b", "'a/b' is no name of a topic"),
        ("raw=..", "'..' is no name of a topic"),
        ("raw=token-state", "two topics have one name"),
    ],
)
def test_names_that_no_topic_has_are_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match="TOKENWIRE_KAFKA_TOPICS") as refused:
        load(environ={"TOKENWIRE_KAFKA_TOPICS": text})
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("8000-8003", [8000, 8001, 8002, 8003]),
        ("9100", [9100] * 4),
        ("0", [0] * 4),
        ("8000-8001", [8000, 8001, 8001, 8001]),
    ],
)
def test_each_role_has_its_port(text: str, ports: list[int]) -> None:
    settings = load(environ={"PROMETHEUS_PORT": text})
    assert [settings.port_of_role(place) for place in range(4)] == ports


@pytest.mark.parametrize("text", ["", "x", "8003-8000", "70000", "1-2-3", "-1"])
def test_ports_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="expected a TCP port from 0 to 65535, or a range"):
        load({"role_port": text}, environ={})


def test_librdkafka_is_told_of_the_user_where_there_is_one() -> None:
    assert load(environ={}).kafka_options == {"security.protocol": "plaintext"}
    settings = load(
        environ={
            "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": "me",
            "KAFKA_SASL_PASSWORD": "hunter2",
            "KAFKA_SSL_CA_LOCATION": "ca.pem",
        }
    )
    assert settings.kafka_options == {
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": "ca.pem",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "hunter2",
    }
    assert "hunter2" not in repr(settings)
