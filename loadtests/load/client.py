"""A client of the protocol that measures: it reads cheaply, follows the numbers, and keeps the ledger of its ticks."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.load.grid import Grid
from loadtests.load.ledger import Ledger
from loadtests.load.message import Message, Reader
from loadtests.load.numbers import Numbers
from loadtests.load.tally import Tally
from loadtests.load.wire import Ended, Wire, now_us

__all__ = ["Client", "Target"]

ANSWER_S: Final = 20.0
SILENCE_S: Final = 20.0  # without one byte, pings included, a server is dead


@dataclass(frozen=True)
class Target:
    """What to load. ``url`` has no query; ``caps`` are those every user asks for; ``limit_us`` is the gate's."""

    url: str
    caps: tuple[str, ...]
    tokens: tuple[str, ...]
    limit_us: int


class Client:
    """One user's connection and session. ``report(name, us, octets, error)`` hears of everything that has a name.

    ``judged`` is whether its ticks are expected at all (not those of a reader that is slow on purpose).
    """

    def __init__(
        self,
        target: Target,
        grid: Grid,
        tally: Tally,
        reader: Reader,
        report: Callable[[str, int, int, str | None], None],
        *,
        caps: tuple[str, ...] = (),
        judged: bool = True,
        receive_buffer: int = 0,
    ) -> None:
        self.target = target
        self.held: tuple[str, ...] = ()
        self.finished = False  # the run is over: what happens now is not counted
        self._grid = grid
        self._tally = tally
        self._reader = reader
        self._report = report
        self._caps = tuple(dict.fromkeys((*target.caps, *caps)))
        self._judged = judged
        self._receive_buffer = receive_buffer
        self._ledger = Ledger(grid, self, target.limit_us)
        self._numbers = Numbers()
        self._wire: Wire | None = None
        self._octets = 0
        self._session = ""
        self._attempt = 0
        self._answers: list[Message] = []
        self._counted = False  # among those that have subscribed
        self._subscribing = False  # values may come: a subscribe was sent, and no unsubscribe confirmed since

    # --- the book of the ledger ------------------------------------------------------------------------------

    def delivered(self, latency_us: int) -> None:
        """A tick came whole."""
        self._tally.delivered(latency_us)
        self._report("push latency", latency_us, self._octets, None)

    def lost(self, waited_us: int) -> None:
        """A tick never came."""
        self._tally.lost(waited_us)
        self._report("push latency", waited_us, 0, "lost")

    def unjudged(self) -> None:
        """A tick was not due yet."""
        self._tally.unjudged()

    def repeated(self, values: int) -> None:
        """Values of a tick came once more than they should."""
        self._count("repeated", values, "a tick's values came again, or after it was lost")

    # --- the connection --------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self._wire is not None

    def open(self) -> None:
        """Connect and wait for the ``connection`` message. Raises Ended if it fails."""
        self._connect(())
        self.held = ()

    def resume(self) -> bool:
        """Connect and ask for the session back; False if it was not given. Raises Ended if connecting fails."""
        begin_us = now_us()
        self._attempt += 1
        query = (f"seq={self._numbers.last}", f"attempt={self._attempt}")
        hello = self._connect(query, {"X-Tokenwire-Session": self._session})
        if not hello.data.get("resumed"):
            self._subscribing = False
            self._count("resume failed", error=str(hello.data.get("reason")))
            self.held = ()
            return False
        self._time("resume", begin_us)
        if self.held:
            self._begin(now_us())
        return True

    def _connect(self, query: Sequence[str], headers: dict[str, str] | None = None) -> Message:
        caps = (f"caps={','.join(self._caps)}",) if self._caps else ()
        question = "&".join((*caps, *query))
        begin_us = now_us()
        try:
            url = f"{self.target.url}?{question}" if question else self.target.url
            self._wire = Wire(url, headers, self._receive_buffer)
            self._time("connect", begin_us)
            hello = self._await(lambda message: message.type == "connection")
        except Ended as error:
            self._gone()
            self._count("refused", error=str(error))
            raise
        if hello.data.get("status") != "connected":
            self._gone()
            self._count("refused", error=str(hello.data.get("status")))
            raise Ended("not admitted")
        self._time("ready", begin_us)
        self._session = hello.data.get("session", "")
        return hello

    def lost_connection(self, error: Ended) -> None:
        """The connection ended, and nobody here wanted that."""
        self.settle(now_us())
        self._gone()
        self._count("dropped", error=str(error))

    def came_back(self) -> None:
        """The user opened a connection again."""
        self._count("reconnect")

    def leave(self) -> None:
        """End in good order."""
        self.settle(now_us())
        if self._wire is not None:
            self._wire.close()
        self._gone()

    def drop(self) -> None:
        """Lose the connection on purpose."""
        self.settle(now_us())
        self._gone()

    def stop(self) -> None:
        """The user is gone for good; nothing is counted any more."""
        self.settle(now_us())
        self.finished = True
        if self._counted:
            self._tally.went()
        self._gone()

    def settle(self, now: int) -> None:
        """No further tick is expected; those due until ``now`` are judged."""
        self._ledger.end(now)

    def _gone(self) -> None:
        if self._wire is not None:
            self._wire.drop()
        self._wire = None

    # --- requests --------------------------------------------------------------------------------------------

    def subscribe(self, tokens: tuple[str, ...]) -> None:
        """Subscribe and wait for the answer; from then on the ticks are expected. Raises Ended."""
        begin_us = now_us()
        self._subscribing = True
        self._request("subscribe", tokens)
        self._time("subscribe ack", begin_us)
        self._tally.count("subscribed")
        if not self._counted and not self.finished:
            self._counted = True
            self._tally.came()
        self.held = tokens
        self._begin(now_us())

    def unsubscribe(self) -> None:
        """Unsubscribe all and wait for the answer. Raises Ended."""
        begin_us = now_us()
        self.settle(begin_us)
        tokens = self.held
        self._request("unsubscribe", tokens)
        self.held = ()
        self._time("unsubscribe ack", begin_us)

    def _begin(self, now: int) -> None:
        if self._judged and not self.finished:
            self._ledger.begin(now, len(self.held))

    def _request(self, action: str, tokens: tuple[str, ...]) -> None:
        assert self._wire is not None
        data = {"action": action, "tokens": tokens}
        self._wire.send(json.dumps({"type": "subscription", "data": data}, separators=(",", ":")))
        answer = self._await(lambda message: message.type == "subscription")
        if answer.data["status"] != "success" or len(answer.data["tokens"]) != len(tokens):
            self._count("errors", error=f"{action} was answered {answer.data['status']}")

    # --- receiving -------------------------------------------------------------------------------------------

    def stay(self, seconds: float) -> None:
        """Receive for this long. Raises Ended if the connection is lost meanwhile."""
        until_s = time.monotonic() + seconds
        silent_s = 0.0
        while (left_s := until_s - time.monotonic()) > 0:
            wait_s = min(left_s, SILENCE_S)
            if self._receive(wait_s):
                silent_s = 0.0
                self._answers.clear()
                continue
            silent_s += wait_s
            if silent_s >= SILENCE_S:
                raise Ended(f"silent for {SILENCE_S:.0f} s")

    def sip(self, octets: int, seconds: float) -> None:
        """Receive at most so many bytes. Raises Ended if the connection is lost."""
        self._receive(seconds, octets)
        self._answers.clear()

    def ping(self) -> None:
        """Send a ping. Raises Ended if the connection is lost."""
        assert self._wire is not None
        self._wire.ping()

    def _await(self, wanted: Callable[[Message], bool]) -> Message:
        """The next answer that is wanted; values that come meanwhile are taken account of."""
        until_s = time.monotonic() + ANSWER_S
        while True:
            for number, message in enumerate(self._answers):
                if wanted(message):
                    del self._answers[: number + 1]
                    return message
            self._answers.clear()
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise Ended(f"no answer within {ANSWER_S:.0f} s")
            self._receive(left_s)

    def _receive(self, seconds: float, octets: int = 65_536) -> bool:
        wire = self._wire
        assert wire is not None
        if not wire.has_message and not wire.wait(seconds, octets):  # the first one comes with the handshake
            return False
        received_us = now_us()
        while (payload := wire.message()) is not None:
            self._octets = len(payload)
            self._take(payload, received_us)
        return True

    def _take(self, payload: bytes, received_us: int) -> None:
        try:
            message = self._reader.read(payload)
        except ValueError as error:
            self._count("unreadable", error=str(error))
            return
        if message.type == "connection" and message.data.get("status") == "connected":
            if message.data.get("resumed"):
                self._answers.append(message)  # it has no number of its own
                return
            self._numbers = Numbers()
        if message.is_numbered:
            self._follow(message.sequence)
        if message.updates:
            if not self._subscribing:
                self._count("stray", error="a value after the end of the subscription")
            self._ledger.values(message.planned_us, message.tokens, message.updates, received_us)
        elif message.type == "error":
            if message.data.get("level") == "warning":
                self._count("warnings")
            else:
                self._count("errors", error=str(message.data.get("code")))
        elif message.type != "heartbeat":
            if message.data.get("action") == "unsubscribe":
                self._subscribing = False
            self._answers.append(message)

    def _follow(self, sequence: int) -> None:
        missing = self._numbers.follow(sequence)
        if missing > 0:
            self._count("gap", missing, "numbers are missing")
        elif missing < 0:
            self._count("duplicate", error="a number came again")

    # --- telling ---------------------------------------------------------------------------------------------

    def _time(self, name: str, begin_us: int) -> None:
        if not self.finished:
            elapsed_us = now_us() - begin_us
            self._tally.time(name, elapsed_us)
            self._report(name, elapsed_us, 0, None)

    def _count(self, name: str, number: int = 1, error: str | None = None) -> None:
        if not self.finished:
            self._tally.count(name, number)
            self._report(name, 0, 0, error)
