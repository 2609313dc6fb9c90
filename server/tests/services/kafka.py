"""Apache Kafka: broker and controller in one process (KRaft), memory and time-outs small."""

import contextlib
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .engine import START_S, Engine
from .errors import ServiceError
from .kafka_jars import jars, version_of
from .ports import free_port

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = ["Kafka"]

_HEAP_MB: Final = 512
_ASK_S: Final = 1.0
"""Seconds that a question to the broker may take."""
_TOPIC_S: Final = 30.0
"""Seconds that making or removing topics may take on a busy machine."""
_LOG4J: Final = Path(__file__).parent / "log4j2.properties"
_JAVA: Final = (
    "java", f"-Xmx{_HEAP_MB}m", "-Xms128m", "-XX:MaxMetaspaceSize=160m", "-XX:MaxDirectMemorySize=96m",
    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={_LOG4J}",
)  # fmt: skip

# One of everything, as there is one broker; topics are made on purpose, so that a misspelt one is an error.
# broker.session: a broker that was killed is let in again only when its former life's session is over.
# transaction.max: what clients ask for unless told otherwise, so theirs is not refused; transactions of clients that
# asked for less are ended within the interval of the clean-up, not within ten seconds.
# The cleaner's buffers are a quarter of the heap unless told otherwise.
_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
transaction.max.timeout.ms=60000
transaction.abort.timed.out.transaction.cleanup.interval.ms=200
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
group.consumer.min.session.timeout.ms=500
group.consumer.min.heartbeat.interval.ms=100
group.consumer.session.timeout.ms=6000
group.consumer.heartbeat.interval.ms=1000
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.io.buffer.size=131072
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
log.segment.delete.delay.ms=1000
"""
_LISTENERS: Final = """\
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
"""


class Kafka(Engine):
    """A broker; ``address`` is what clients take as ``bootstrap.servers``."""

    name = "kafka"

    @classmethod
    def lacking(cls) -> str:
        if missing := [program for program in ("java", "mvn") if shutil.which(program) is None]:
            return f"no {' and no '.join(missing)} in PATH (apt-get install openjdk-17-jre-headless maven)"
        try:
            import confluent_kafka  # noqa: F401
        except ImportError:
            return "no confluent-kafka (pip install 'tokenwire[dev]')"
        return ""

    @classmethod
    def prepare(cls) -> None:
        jars()

    def answers(self) -> bool:
        from confluent_kafka import KafkaException

        # A client of its own each time: one that found nobody waits longer and longer before it asks again.
        with contextlib.suppress(KafkaException):
            return bool(self.admin().list_topics(timeout=_ASK_S).brokers)
        return False

    def admin(self) -> "AdminClient":
        """Somebody who may do everything."""
        from confluent_kafka.admin import AdminClient

        return AdminClient({**self.client_config(), "log_level": 0, "allow.auto.create.topics": False})

    def client_config(self) -> dict[str, str]:
        """What a client of librdkafka takes to be somebody who may do everything."""
        return {"bootstrap.servers": self.address}

    def create_topics(self, names: Iterable[str], *, partitions: int = 1) -> None:
        """Make topics and wait until the broker serves them; :class:`ServiceError` names one that can't be made."""
        from confluent_kafka.cimpl import NewTopic

        wanted = set(names)
        admin = self.admin()
        _wait(admin.create_topics([NewTopic(name, partitions, 1) for name in wanted], operation_timeout=_TOPIC_S))
        deadline = time.monotonic() + _TOPIC_S
        while wanted - admin.list_topics(timeout=_TOPIC_S).topics.keys():
            if time.monotonic() > deadline:
                raise ServiceError(f"the topics {', '.join(sorted(wanted))} are not there after {_TOPIC_S:g} s")

    def delete_topics(self, names: Iterable[str]) -> None:
        """Remove topics with all they hold."""
        admin = self.admin()
        if wanted := list(names):
            _wait(admin.delete_topics(wanted, operation_timeout=_TOPIC_S))

    def dumped(self, files: Iterable[str]) -> str:
        """What Kafka's own tool says of these segments: a line for each batch, and for each mark at the end of a
        transaction."""
        done = subprocess.run(
            [*self._java("kafka.tools.DumpLogSegments"), "--deep-iteration", "--files", ",".join(files)],
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise ServiceError(f"Kafka could not read its data: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    def _create(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self._properties.touch(0o600)
        self._properties.write_text(_PROPERTIES.format(data=self.data) + self._listeners(), "utf-8")
        # Sixteen bytes in base64; the first character is never a hyphen, which would look like an option.
        cluster = "t" + secrets.token_urlsafe(16)[1:]
        done = subprocess.run(
            [*self._java("kafka.tools.StorageTool"), "format", "--standalone", "-t", cluster, "-c", self._properties],
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise ServiceError(f"Kafka could not make its data: {(done.stderr or done.stdout).strip()[-300:]}")

    def _listeners(self) -> str:
        """Where it listens, and whom it lets in."""
        return _LISTENERS.format(port=self.port, controller=free_port())

    def _command(self) -> list[str]:
        return [*self._java("kafka.Kafka"), str(self._properties)]

    def _find_version(self) -> str:
        return version_of(jars())

    def destroy(self) -> None:
        super().destroy()
        self._properties.unlink(missing_ok=True)

    @property
    def _properties(self) -> Path:
        return self.folder / "kafka.properties"

    def _java(self, main: str) -> list[str]:
        return [*_JAVA, "-cp", f"{jars()}/*", main]


def _wait(futures: "dict[str, Future[None]]") -> None:
    """For the answers; the client that asked has to live until then."""
    from confluent_kafka import KafkaException

    for name, future in futures.items():
        try:
            future.result(_TOPIC_S)
        except KafkaException as refused:
            raise ServiceError(f"topic {name}: {refused.args[0].str()}") from refused
