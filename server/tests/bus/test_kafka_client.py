"""What librdkafka complains of, in words that say what to do. Without a broker."""

import pytest
from confluent_kafka import KafkaError

from tokenwire_server.bus.kafka_client import Complaints

AWAY = KafkaError(KafkaError._TIMED_OUT, "Timed out")
DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")


def complaints(*heard: tuple[int, str]) -> Complaints:
    found = Complaints("k1:9092")
    for code, text in heard:
        found.hear(KafkaError(code, text))
    return found


@pytest.mark.parametrize(
    ("code", "text", "explained"),
    [
        (KafkaError._AUTHENTICATION, "k1: SASL authentication error: bad (after 3ms in state AUTH_REQ)",
         "k1: SASL authentication error: bad: check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
        (KafkaError._AUTHENTICATION, "k1: SASL PLAIN mechanism handshake failed",
         "k1: SASL PLAIN mechanism handshake failed: check KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_MECHANISM"),
        (KafkaError._SSL, "k1: certificate verify failed.",
         "k1: certificate verify failed: check KAFKA_SSL_CA_LOCATION"),
        (KafkaError._TRANSPORT, "k1: error:0A000086:SSL routines::certificate verify failed",
         "k1: error:0A000086:SSL routines::certificate verify failed: check KAFKA_SSL_CA_LOCATION"),
        (KafkaError._TRANSPORT, "k1: SSL handshake failed", "k1: SSL handshake failed: check KAFKA_SECURITY_PROTOCOL"),
        (KafkaError._TRANSPORT, "k1: Connect to ipv4#10.0.0.1:9 failed: refused (after 0ms in state CONNECT)",
         "k1: Connect to ipv4#10.0.0.1:9 failed: refused: check KAFKA_BOOTSTRAP_SERVERS"),
        (KafkaError._RESOLVE, "k1: Failed to resolve", "k1: Failed to resolve: check KAFKA_BOOTSTRAP_SERVERS"),
        (KafkaError._TRANSPORT, "k1: Disconnected: closed by peer", "k1: Disconnected: closed by peer"),
    ],
)  # fmt: skip
def test_a_complaint_explains_why_nobody_answers(code: int, text: str, explained: str) -> None:
    assert complaints((code, text)).explain(AWAY) == explained


def test_one_that_says_less_does_not_take_the_place_of_one_that_says_more() -> None:
    more, less = (
        "k1: SSL handshake failed: connecting to a PLAINTEXT listener?",
        "k1: Disconnected: SSL connection closed",
    )
    found = complaints((KafkaError._TRANSPORT, more), (KafkaError._TRANSPORT, less))
    assert found.explain(AWAY) == f"{more}: check KAFKA_SECURITY_PROTOCOL"


def test_silence_is_told_with_what_may_be_wrong() -> None:
    said = complaints((DOWN.code(), DOWN.str())).explain(AWAY)
    assert said.startswith("k1:9092 does not answer, or ends each connection without a word: check KAFKA_BOOTSTRAP_")
    assert complaints().explain(DOWN) == said


def test_an_error_that_says_what_is_wrong_is_told_as_it_is() -> None:
    found = complaints((KafkaError._RESOLVE, "k1: Failed to resolve"))
    assert found.explain(KafkaError(KafkaError.TOPIC_EXCEPTION, "no such name")) == "no such name"
    refused = found.explain(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "Group authorization failed."))
    assert refused.startswith("Group authorization failed: grant it to the user of KAFKA_SASL_USERNAME")


@pytest.mark.parametrize(
    ("code", "is_hopeless"),
    [(KafkaError._AUTHENTICATION, True), (KafkaError._SSL, True), (DOWN.code(), True), (KafkaError._TRANSPORT, False)],
)
def test_nobody_is_waited_for_who_does_not_let_us_in(code: int, is_hopeless: bool) -> None:
    assert complaints((code, "x")).is_hopeless_since(0.0) is is_hopeless
    assert not complaints((code, "x")).is_hopeless_since(float("inf"))
