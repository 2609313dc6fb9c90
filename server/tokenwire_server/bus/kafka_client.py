"""What every part of the Kafka bus needs: threads that wait for the network, errors in words, records as the bus has
them."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, Message

from tokenwire_server.bus.port import AbortedError, BusError, FencedError, Place, Record

__all__ = ["FENCING", "REQUEST_TIMEOUT_S", "Complaints", "Thread", "integer", "is_end", "reading_config", "record_of"]

REQUEST_TIMEOUT_S: Final = 10.0
_COMPLAINT_S: Final = 30.0  # so long a complaint explains what fails after it
_WHEN: Final = re.compile(r" \(after \d+ms in state [^)]*\)")
_VAGUE: Final = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN})
FENCING: Final = frozenset(  # codes of those whose name another has
    {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.FENCED_INSTANCE_ID}
)

T = TypeVar("T")


class Complaints:
    """What librdkafka says of its connections by the way: the answer to a call only says that none came."""

    def __init__(self) -> None:
        self._latest = ""
        self._heard_s = 0.0

    def hear(self, error: KafkaError) -> None:
        """One more; of whichever thread."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._latest, self._heard_s = _WHEN.sub("", error.str()), time.monotonic()

    def heard_since(self, moment_s: float) -> bool:
        """Whether there was any after this moment (of ``time.monotonic``)."""
        return self._heard_s >= moment_s

    def explain(self, cause: KafkaError) -> str:
        """Why a call failed."""
        is_recent = self._latest and time.monotonic() - self._heard_s < _COMPLAINT_S
        return self._latest if is_recent and cause.code() in _VAGUE else cause.str()


def _translated(error: KafkaException, complaints: Complaints | None = None) -> BusError:
    cause = error.args[0]
    if cause.code() in FENCING:
        return FencedError(cause.str())
    if cause.txn_requires_abort():
        return AbortedError(cause.str())
    return BusError(cause.str() if complaints is None else complaints.explain(cause))


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
            raise _translated(error, self._complaints) from None

    def close(self) -> None:
        self._pool.shutdown(wait=False)


def reading_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a consumer is made with that reads what was committed."""
    return {
        "group.id": "tokenwire",  # asked for, and without meaning to whoever names its places
        "auto.offset.reset": "error",  # what was deleted is never passed over in silence
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        **config,
    }


def is_end(message: Message) -> bool:
    """Whether it only says that there is nothing more."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def record_of(message: Message) -> Record:
    """What came. Raises BusError if it is an error."""
    error = message.error()
    if error is not None:
        raise _translated(KafkaException(error))
    kind, time_ms = message.timestamp()
    place = Place(str(message.topic()), integer(message.partition()))
    written_ms = 0 if kind == TIMESTAMP_NOT_AVAILABLE else time_ms
    return Record(place, integer(message.offset()), _octets(message.key()), _octets(message.value()), written_ms)


def integer(value: int | None) -> int:
    """0 for what is not said."""
    return 0 if value is None else value


def _octets(value: bytes | str | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
