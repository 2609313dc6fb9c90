"""The connections of one client, opened as they are needed, and what comes from them as one stream."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from tokenwire.checkpoint import Checkpoint
from tokenwire.driver import Driver
from tokenwire.endings import all_ended
from tokenwire.errors import ConnectionFailedError
from tokenwire.events import Event, Quote
from tokenwire.requests import CANCELLED, Request
from tokenwire.session import ClientSession
from tokenwire.sharding import Placement, worst_state
from tokenwire.states import ConnectionState
from tokenwire.transport import Opener

__all__ = ["LIMIT_CODE", "Batch", "Shards"]

LIMIT_CODE: Final = "SUBSCRIPTION_LIMIT"
_MAX_HOPS: Final = 10  # shards that may refuse a name before it is rejected, so that no server sends it round for ever


class Batch:
    """A subscribe or unsubscribe that is under way, perhaps on several shards."""

    def __init__(self) -> None:
        self.open: list[tuple[int, Request]] = []
        self.accepted: dict[str, str] = {}
        self.rejected: dict[str, str] = {}
        self.errors: list[Exception] = []
        self.tried: dict[str, set[int]] = {}
        """The shards that had no room for a name although they should have had; it is not sent there again."""

    @property
    def done(self) -> bool:
        """Whether every shard has answered."""
        return not self.open


class Shards:
    """The connections of one client. ``changed`` is called after everything that may interest somebody.

    ``make_session`` builds the session of a further shard.
    """

    def __init__(
        self,
        make_session: Callable[[Checkpoint | None], ClientSession],
        opener: Opener,
        changed: Callable[[], None],
        max_connections: int,
        checkpoints: Sequence[Checkpoint] = (),
    ) -> None:
        self.drivers: list[Driver] = []
        self.failure: ConnectionFailedError | None = None
        self.latest: Mapping[str, Quote] = _Latest(self)
        self._make_session = make_session
        self._opener = opener
        self._changed = changed
        self._placement = Placement(max_connections)
        self._batches: list[Batch] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._limits: dict[int, int] = {}
        self._settling = False
        self._checkpoints = checkpoints

    def start(self) -> None:
        """Open the first connection, and those that the checkpoints tell of."""
        for shard, checkpoint in enumerate(self._checkpoints or (None,)):
            self._open(checkpoint)
            self._placement.adopt(shard, checkpoint.names if checkpoint is not None else ())

    @property
    def state(self) -> ConnectionState:
        """The worst of all: FAILED, RECONNECTING, CONNECTING, and CONNECTED only if each shard is."""
        if self.failure is not None:
            return ConnectionState.FAILED
        return worst_state(driver.session.state for driver in self.drivers)

    @property
    def was_connected(self) -> bool:
        """Whether a server has greeted, and so said how many tokens a connection may hold."""
        return any(driver.was_connected for driver in self.drivers)

    def subscribe(self, names: Iterable[str]) -> Batch:
        """Give each name to its shard, opening further ones. What finds no room is rejected in the batch."""
        for shard, driver in enumerate(self.drivers):
            if (limit := driver.session.max_subscriptions) is not None:
                self._placement.limit(shard, limit)
        batch = Batch()
        self._place(batch, names)
        self._batches.append(batch)  # not before: placing it settles others, and it would look done
        self._settle()
        return batch

    def unsubscribe(self, names: Iterable[str]) -> Batch:
        """End subscriptions; names that nobody holds are done at once."""
        batch = Batch()
        by_shard: dict[int, list[str]] = {}
        for name in names:
            shard = self._placement.shard_of(name)
            if shard is not None:
                by_shard.setdefault(shard, []).append(name)
        for shard, own in by_shard.items():
            driver = self.drivers[shard]
            request = driver.call(partial(driver.session.unsubscribe, own, driver.now()))
            self._placement.release(own)
            batch.open.append((shard, request))
        self._batches.append(batch)
        self._settle()
        return batch

    def take_event(self) -> Event | None:
        """The next event of the shard whose turn it is; None when no shard has one."""
        if len(self.drivers) == 1:
            return self.drivers[0].take_event()
        taken = self.take_event_of_shard()
        return None if taken is None else taken[1]

    def take_event_of_shard(self) -> tuple[int, Event] | None:
        """As :meth:`take_event`, with the number of the shard."""
        for _ in self.drivers:
            self._turn = (self._turn + 1) % len(self.drivers)
            event = self.drivers[self._turn].take_event()
            if event is not None:
                return self._turn, event
        return None

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Where each shard stands."""
        return tuple(driver.call(driver.session.checkpoint) for driver in self.drivers)

    async def close(self, *, keep_session: bool = False) -> None:
        """End all connections in good order; afterwards no task and no socket is left."""
        self._close_all(keep_session=keep_session)
        await all_ended(self._closing)

    def abort(self) -> None:
        """Cut all sockets."""
        for driver in self.drivers:
            driver.abort()

    def _open(self, checkpoint: Checkpoint | None) -> Driver:
        driver = Driver(self._make_session(checkpoint), self._opener, self._on_change)
        self.drivers.append(driver)
        driver.start()
        return driver

    def _place(self, batch: Batch, names: Iterable[str]) -> None:
        placed, left_over = self._placement.assign(names)
        batch.rejected.update(dict.fromkeys(left_over, LIMIT_CODE))
        for shard, own in placed.items():
            while shard >= len(self.drivers):
                self._open(None)
            driver = self.drivers[shard]
            request = driver.call(partial(driver.session.subscribe, own, driver.now()))
            batch.open.append((shard, request))

    def _on_change(self) -> None:
        self._settle()
        if self.failure is None:
            self.failure = next((driver.failure for driver in self.drivers if driver.failure is not None), None)
            if self.failure is not None:
                self._close_all()  # one shard cannot go on, so the stream as a whole ends; no half data
        self._changed()

    def _close_all(self, *, keep_session: bool = False) -> None:
        for driver in self.drivers:
            task = asyncio.create_task(driver.close(keep_session=keep_session), name="tokenwire close")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _settle(self) -> None:
        """Gather answers. A server that holds less than it said (or than was known) sends names on to other shards."""
        if self._settling:
            return
        self._settling = True
        try:
            self._observe_limits()
            for batch in self._batches:
                # Again until nothing is left: a name that is passed on may have its answer at once.
                while answered := [entry for entry in batch.open if entry[1].done]:
                    for shard, request in answered:
                        # In this order: what is passed on may open a connection, and whoever looks must not see an
                        # empty batch meanwhile.
                        self._gather(batch, shard, request)
                        batch.open.remove((shard, request))
            self._batches = [batch for batch in self._batches if not batch.done]
        finally:
            self._settling = False

    def _gather(self, batch: Batch, shard: int, request: Request) -> None:
        if request.error is not None:
            batch.errors.append(request.error)
        if request.action == "unsubscribe":
            batch.rejected.update(request.rejected)
            return
        for name, address in request.accepted.items():
            batch.accepted[name] = address
            self._placement.learn(name, address)
        wanted = frozenset(self.drivers[shard].session.desired) if request.rejected else frozenset()
        overflow = []
        for name, code in request.rejected.items():
            place = self._placement.placed(name)
            if code == LIMIT_CODE and place is not None:
                overflow.append(name)
                continue
            batch.rejected[name] = code
            if place == shard and code != CANCELLED:
                # A wish that is kept for later still belongs to its connection, but takes no place there.
                (self._placement.vacate if name in wanted else self._placement.release)([name])
        if overflow:
            self._pass_on(batch, shard, overflow, wanted)

    def _pass_on(self, batch: Batch, shard: int, names: list[str], wanted: frozenset[str]) -> None:
        """``shard`` has no room for ``names``: others may have."""
        here = [name for name in names if self._placement.placed(name) == shard]
        self._placement.release(here)
        self._placement.is_full(shard)
        # The session keeps the wish and would ask again after a reconnect, when the name is long elsewhere.
        self._give_up(shard, [name for name in here if name in wanted])
        again = []
        for name in names:
            tried = batch.tried.setdefault(name, set())
            tried.add(shard)
            if len(tried) < _MAX_HOPS:
                again.append(name)
            else:
                batch.rejected[name] = LIMIT_CODE
        self._place(batch, again)

    def _give_up(self, shard: int, names: list[str]) -> None:
        if names:
            driver = self.drivers[shard]
            driver.call(partial(driver.session.unsubscribe, names, driver.now()))

    def _observe_limits(self) -> None:
        """A server that allows fewer tokens after a reconnect: what does not fit moves to where there is room."""
        for shard, driver in enumerate(self.drivers):
            limit = driver.session.max_subscriptions
            if limit is None or limit == self._limits.get(shard) or driver.done:
                continue
            self._limits[shard] = limit
            self._placement.limit(shard, limit)
            kept, surplus = self._placement.surplus(shard, limit)
            if surplus:
                asked = {name for batch in self._batches for _, request in batch.open for name in request.waiting}
                # What is asked for right now goes elsewhere by the answer to that.
                self._move(shard, kept, [name for name in surplus if name not in asked])

    def _move(self, shard: int, kept: list[str], surplus: list[str]) -> None:
        batch = Batch()
        batch.tried = {name: {shard} for name in surplus}  # nothing is released before it is known to fit elsewhere
        self._place(batch, surplus)
        moved = [name for name in surplus if name not in batch.rejected]
        self._placement.vacate(batch.rejected)  # no room anywhere: the session keeps the wish, and the next one asks
        if moved:
            self._give_up(shard, moved)
            # Which of them the server has refused already is its own choice: all that stay are asked for once more.
            driver = self.drivers[shard]
            batch.open.append((shard, driver.call(partial(driver.session.subscribe, kept, driver.now()))))
        self._batches.append(batch)


class _Latest(Mapping[str, Quote]):
    """The newest quotes of all shards. Iterating yields each token once, by the name in its quote; asking works by
    address and by any name it was subscribed with. Reading copies nothing."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def __getitem__(self, name: str) -> Quote:
        for driver in self._shards.drivers:
            quote = driver.session.latest.get(name)
            if quote is not None:
                return quote
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        for driver in self._shards.drivers:
            for name, quote in driver.session.latest.items():
                if quote.name == name:
                    yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)
