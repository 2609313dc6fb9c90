"""The users that Locust starts: who they are and what they do, in a loop until the run ends.

Importing this patches the process's sockets (gevent), so it is for Locust's processes alone.
"""

import random
from typing import ClassVar, Final

import gevent
from locust import User, task

from loadtests.load.client import Client
from loadtests.load.run_state import RunState
from loadtests.load.wire import Ended

__all__ = ["KINDS", "Churner", "Resumer", "SlowConsumer", "Subscriber"]

_RETRY_S: Final = 1.0
_SLOW_BUFFER: Final = 4_096  # bytes that the kernel holds for a slow reader, about
_SLOW_SIP: Final = 2_048  # bytes a second that it reads
_SLOW_PING: Final = 5  # seconds; a peer that sends nothing either would be closed as dead


class _TokenUser(User):
    abstract = True
    caps: ClassVar[tuple[str, ...]] = ()
    judged: ClassVar[bool] = True
    receive_buffer: ClassVar[int] = 0

    def on_start(self) -> None:
        """Locust's: once, before the task."""
        state: RunState = self.environment.tokenwire
        self.state = state
        self.random = random.Random()
        self.client_of_tokens = Client(
            state.target,
            state.grid,
            state.tally,
            state.reader,
            state.report,
            caps=self.caps,
            judged=self.judged,
            receive_buffer=self.receive_buffer,
        )
        state.clients.add(self.client_of_tokens)

    def on_stop(self) -> None:
        """Locust's: the end, also in the middle of the task."""
        client = self.client_of_tokens
        self.state.clients.discard(client)
        client.stop()

    @task
    def live(self) -> None:
        """One life: until the connection is lost. A user that has lost it waits and comes back."""
        client = self.client_of_tokens
        try:
            self.spend(client)
        except Ended as error:
            if client.is_open:
                client.lost_connection(error)
            gevent.sleep(_RETRY_S * self.random.uniform(1, 2))
            client.came_back()
        except Exception:
            self.state.tally.count("crashed")
            raise

    def spend(self, client: Client) -> None:
        """What this kind of user does with a life."""
        raise NotImplementedError

    def ticks(self, least: float, most: float) -> float:
        """A random time of that many update intervals, in seconds."""
        return self.random.uniform(least, most) * self.state.interval_s


class Subscriber(_TokenUser):
    """Subscribes to every token once, and stays."""

    def spend(self, client: Client) -> None:
        """Stay for ever."""
        client.open()
        client.subscribe(client.target.tokens)
        while True:
            client.stay(3600)


class Churner(_TokenUser):
    """Takes half of the tokens, gives them back, takes the other half, leaves, comes back."""

    def spend(self, client: Client) -> None:
        """One round."""
        tokens = list(client.target.tokens)
        self.random.shuffle(tokens)
        middle = (len(tokens) + 1) // 2
        client.open()
        for half in (tokens[:middle], tokens[middle:] or tokens):
            client.subscribe(tuple(half))
            client.stay(self.ticks(1.5, 4))
            client.unsubscribe()
            client.stay(self.ticks(0.2, 1))
        client.leave()
        gevent.sleep(self.ticks(0.1, 1))
        client.came_back()


class Resumer(_TokenUser):
    """Loses its connection without a word every few ticks and asks for its session back."""

    caps = ("resume",)

    def spend(self, client: Client) -> None:
        """Until a session is not given back."""
        client.open()
        client.subscribe(client.target.tokens)
        while True:
            client.stay(self.ticks(1.5, 5))
            client.drop()
            gevent.sleep(min(self.ticks(0.3, 2), 30))
            client.came_back()
            if not client.resume():
                client.drop()
                return


class SlowConsumer(_TokenUser):
    """Reads less than is sent to it. Its ticks are not judged (they are conflated, rightly), its numbers are."""

    judged = False
    receive_buffer = _SLOW_BUFFER

    def spend(self, client: Client) -> None:
        """Sip for ever."""
        client.open()
        client.subscribe(client.target.tokens)
        seconds = 0
        while True:
            gevent.sleep(1)
            seconds += 1
            if seconds % _SLOW_PING == 0:
                client.ping()
            client.sip(_SLOW_SIP, 0.001)


_ALL: Final[tuple[type[_TokenUser], ...]] = (Subscriber, Churner, Resumer, SlowConsumer)
KINDS: Final = {kind.__name__: kind for kind in _ALL}
