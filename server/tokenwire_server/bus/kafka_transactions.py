"""A Kafka producer that writes transactions, each within a bounded time."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tokenwire_server.bus.kafka_client import (
    ANSWER_S,
    FENCING,
    FORBIDDEN,
    GRANT_IT,
    REQUEST_TIMEOUT_S,
    Complaints,
    number_of,
)
from tokenwire_server.bus.port import AbortedError, BusError, FencedError, Outgoing, Place

__all__ = ["TRANSACTION_TIMEOUT_MS", "Transactions", "bounded"]

LOST_CALL_S: Final = 15.0  # after which a call that keeps to no time-out is given up
TRANSACTION_TIMEOUT_MS: Final = 10_000  # what a stopped writer holds up its readers for at most


class Transactions:
    """A producer that writes transactions; to be used by one thread."""

    def __init__(self, config: Mapping[str, Any], complaints: Complaints, name: str) -> None:
        self._complaints = complaints
        self._config = {
            "transactional.id": name,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "compression.type": "zstd",
            "linger.ms": 2,
            "queue.buffering.max.messages": 200_000,
            **config,
        }
        self._producer: Producer | None = None
        self._made_s = 0.0

    def commit(
        self, records: Sequence[Outgoing], more: Callable[[Producer], None] = lambda producer: None
    ) -> Mapping[Place, int]:
        after: dict[Place, int] = {}
        refused: dict[str, KafkaError] = {}  # by topic

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:  # the transaction fails for it
                if error.code() in FORBIDDEN:
                    refused[str(message.topic())] = error
                return
            place = Place(str(message.topic()), number_of(message.partition()))
            after[place] = max(after.get(place, 0), number_of(message.offset()) + 1)

        producer = self.begun()
        try:
            producer.begin_transaction()
            for (topic, partition), key, value in records:
                try:
                    self._produce(producer, topic, partition, key, value, delivered)
                except KafkaException as error:
                    refused[topic] = error.args[0]
                    raise
            _insist(lambda: more(producer))
            _insist(lambda: producer.commit_transaction(REQUEST_TIMEOUT_S))
        except KafkaException as error:
            self._give_up(producer, error)
            if refused:
                why = "; ".join(f"{topic}: {self._complaints.explain(cause)}" for topic, cause in refused.items())
                raise AbortedError(why) from None
            raise AbortedError(self._complaints.explain(error.args[0])) from None
        except _LostCallError:
            self._producer = None  # a new one ends what this one began
            raise AbortedError("the brokers did not say what became of the offsets") from None
        return after

    def _produce(
        self, producer: Producer, topic: str, partition: int, key: bytes, value: bytes, delivered: Callable[..., None]
    ) -> None:
        while True:
            try:
                producer.produce(topic, value, key, partition, on_delivery=delivered)
            except BufferError:
                producer.poll(ANSWER_S)
            else:
                return

    def begun(self) -> Producer:
        """The producer, whose name nobody else has from now on. Raises BusError, KafkaException."""
        # One that lost a connection may wait for ever for the group's coordinator (librdkafka 2.16).
        if self._producer is None or self._complaints.heard_since(self._made_s):
            self._made_s = time.monotonic()
            producer = Producer(self._config)
            try:
                _insist(lambda: producer.init_transactions(REQUEST_TIMEOUT_S))
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                    name = self._config["transactional.id"]
                    raise BusError(f"the transactional id {name} may not be used (Write): {GRANT_IT}") from None
                raise
            self._producer = producer
        return self._producer

    def _give_up(self, producer: Producer, error: KafkaException) -> None:
        """Be ready for another one, or raise FencedError."""
        cause = error.args[0]
        if cause.code() in FENCING:
            self._producer = None
            raise FencedError(cause.str()) from None
        try:
            if cause.fatal():
                raise error
            _insist(lambda: producer.abort_transaction(REQUEST_TIMEOUT_S))
        except KafkaException:
            self._producer = None  # a new one ends what this one began

    def close(self) -> None:
        self._producer = None


class _LostCallError(Exception):
    """A call did not come back; whom it was made to must not be used again."""


def bounded(work: Callable[[], object]) -> None:
    """Call what may never come back, in a thread that nobody waits for at the end: librdkafka forgets the time-out of
    ``send_offsets_to_transaction`` where the coordinator of the group goes away meanwhile."""
    done: Future[None] = Future()

    def call() -> None:
        try:
            work()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=call, name="kafka-offsets", daemon=True).start()
    try:
        done.result(LOST_CALL_S)
    except TimeoutError:
        raise _LostCallError from None


def _insist(work: Callable[[], object]) -> None:
    """Call again what may be called again, for some time."""
    until_s = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            work()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > until_s:
                raise
        else:
            return
