"""What the parts of the Kafka client have in common: threads that wait for the network, and what its errors mean."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, Message

from tokenwire_server.bus.port import AbortedError, BusError, FencedError, Place, Record

__all__ = [
    "ANSWER_S",
    "FENCING",
    "FORBIDDEN",
    "GRANT_IT",
    "REQUEST_TIMEOUT_S",
    "Complaints",
    "Thread",
    "client_config",
    "is_end",
    "is_refused_by_group",
    "number_of",
    "reading_config",
    "record_of",
    "translated",
]

REQUEST_TIMEOUT_S: Final = 10.0
GRANT_IT: Final = "grant it to the user of KAFKA_SASL_USERNAME (deploy/README.md lists what each role needs)"
ANSWER_S: Final = 0.2  # between two looks at whether something came
_COMPLAINT_S: Final = 30.0  # so long a complaint explains what fails after it
_WHEN: Final = re.compile(r" \(after \d+ ?ms[^)]*\)$")
_WEAK: Final = ": Disconnected: "  # says less than what is complained of in turn with it
_VAGUE: Final = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN})
_LOGIN: Final = frozenset(
    {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM}
)
FORBIDDEN: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
FENCING: Final = frozenset(
    {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.FENCED_INSTANCE_ID}
)

T = TypeVar("T")


class _Quiet:
    """Takes what librdkafka would print: what matters is raised."""

    def log(self, level: int, text: str, *parts: object) -> None:
        pass


def client_config(servers: str, options: Mapping[str, str | int], complaints: "Complaints") -> dict[str, Any]:
    """What every client is made with."""
    return {
        **options,
        "bootstrap.servers": servers,
        "client.id": "tokenwire",
        "log_level": 2,
        "logger": _Quiet(),
        "error_cb": complaints.hear,
    }


class Complaints:
    """What librdkafka says by the way of its connections to ``servers``: the answer to a call only says that none
    came."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._latest = ""
        self._heard_s = -math.inf
        self._hopeless_s = -math.inf

    def hear(self, error: KafkaError) -> None:
        """One more; of whichever thread."""
        now_s = time.monotonic()
        if error.code() in _LOGIN or error.code() in (KafkaError._SSL, KafkaError._ALL_BROKERS_DOWN):
            self._hopeless_s = now_s
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            return
        text = _advised(error.code(), _WHEN.sub("", error.str()))
        if _WEAK not in text or not self._is_recent:
            self._latest = text
        self._heard_s = now_s

    def heard_since(self, moment_s: float) -> bool:
        """Whether there was any after this moment (of ``time.monotonic``)."""
        return self._heard_s >= moment_s

    def is_hopeless_since(self, moment_s: float) -> bool:
        """Whether no broker took us, as far as was heard after this moment."""
        return self._hopeless_s >= moment_s

    def explain(self, cause: KafkaError) -> str:
        """Why a call failed, and what to look at."""
        if cause.code() not in _VAGUE:
            return _advised(cause.code(), cause.str())
        return self._latest if self._is_recent else self.silence

    @property
    def silence(self) -> str:
        """That nobody says anything at all."""
        return (
            f"{self._servers} does not answer, or ends each connection without a word: check KAFKA_BOOTSTRAP_SERVERS "
            "and KAFKA_SECURITY_PROTOCOL"
        )

    @property
    def _is_recent(self) -> bool:
        return bool(self._latest) and time.monotonic() - self._heard_s < _COMPLAINT_S


def _advised(code: int, text: str) -> str:
    """With the settings to look at."""
    advice = ""
    if code in _LOGIN and "handshake" in text:
        advice = "check KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_MECHANISM"
    elif code in _LOGIN:
        advice = "check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
    elif "verif" in text and (code == KafkaError._SSL or "SSL" in text):  # some come with the code of a lost connection
        advice = "check KAFKA_SSL_CA_LOCATION"
    elif code == KafkaError._SSL or "SSL" in text:
        advice = "check KAFKA_SECURITY_PROTOCOL"
    elif code == KafkaError._RESOLVE or "Connect to" in text:
        advice = "check KAFKA_BOOTSTRAP_SERVERS"
    elif code in FORBIDDEN:
        advice = GRANT_IT
    return f"{text.rstrip('. ')}: {advice}" if advice else text


def translated(error: KafkaException, complaints: Complaints | None = None) -> BusError:
    """What it means to whoever asked."""
    cause = error.args[0]
    if cause.code() in FENCING:
        return FencedError(cause.str())
    if cause.txn_requires_abort():
        return AbortedError(cause.str())
    return BusError(_advised(cause.code(), cause.str()) if complaints is None else complaints.explain(cause))


class Thread:
    """A thread that works off one call after the other, or several of them."""

    def __init__(self, name: str, complaints: Complaints, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._complaints = complaints

    async def call(self, work: Callable[[], T]) -> T:
        """What ``work`` returns; whoever stops waiting for it leaves it to end by itself."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except KafkaException as error:
            raise translated(error, self._complaints) from None

    def close(self) -> None:
        self._pool.shutdown(wait=False)


def reading_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "group.id": "tokenwire",  # asked for, and without meaning to whoever names its places
        "auto.offset.reset": "error",  # what was deleted is never passed over in silence
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        **config,
    }


def is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def is_refused_by_group(message: Message) -> bool:
    """Whether the group refuses us; without meaning to whoever names its places."""
    error = message.error()
    return error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED


def record_of(message: Message) -> Record:
    """Raises BusError if it is none."""
    error = message.error()
    if error is not None:
        refused = translated(KafkaException(error))
        raise refused if message.topic() is None else BusError(f"{message.topic()}: {refused}")
    kind, time_ms = message.timestamp()
    place = Place(str(message.topic()), number_of(message.partition()))
    written_ms = 0 if kind == TIMESTAMP_NOT_AVAILABLE else time_ms
    return Record(place, number_of(message.offset()), _octets(message.key()), _octets(message.value()), written_ms)


def number_of(value: int | None) -> int:
    return 0 if value is None else value


def _octets(value: bytes | str | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
