"""Channels on connections of their own: one feed for each channel, which hands what comes to the streams it is for."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

import msgspec

from tokenwire.channels import Bar, Book, Trade
from tokenwire.config import ClientConfig
from tokenwire.endings import all_ended
from tokenwire.errors import RequestError, SubscriptionError, TokenwireError
from tokenwire.events import Connected, Error, Gap, Stale
from tokenwire.session import ClientSession
from tokenwire.shards import Batch, Shards
from tokenwire.states import ConnectionState
from tokenwire.transport import Opener

__all__ = ["Feed", "Feeds", "Listener"]

_log = logging.getLogger("tokenwire")

CAPABILITIES: Final = ("batch", "heartbeat", "resume", "details", "channels")
_SESSION_LOST: Final = "session_lost"  # of a gap: the connection message before it has told of that
_MAX_ADDRESSES_PER_NAME: Final = 4  # that are remembered: a name may come to mean another one
_MAX_SHOWN: Final = 10  # names in a line of the log


class Listener(Protocol):
    """A stream, as its feed sees it."""

    names: tuple[str, ...]

    def accepted(self, addresses: dict[str, str]) -> None:
        """Of its names these are subscribed, under these addresses; others than before, perhaps."""

    def hears(self, address: str) -> bool:
        """Whether one of its names means ``address``, as far as it knows."""

    def refused(self, rejected: dict[str, str]) -> None:
        """Of its names these are not subscribed, for the reasons with these codes."""

    def item(self, item: Trade | Bar | Book) -> None:
        """Something of one of its tokens."""

    def broken(self, addresses: Collection[str], *, is_new: bool) -> None:
        """Something of these may have been missed; ``is_new``: what follows is of another lineage."""

    def failed(self, error: TokenwireError) -> None:
        """Nothing comes any more."""


class Feed:
    """The connections of one channel. ``idle`` is called once no listener is left."""

    def __init__(self, config: ClientConfig, opener: Opener, max_connections: int, idle: Callable[[], None]) -> None:
        self._shards = Shards(
            lambda checkpoint: ClientSession(config, random.random, checkpoint),
            opener,
            self._on_change,
            max_connections,
        )
        self._channel = config.channel
        self._idle = idle
        self._listeners: dict[Listener, Batch | None] = {}
        self._by_name: dict[str, dict[Listener, None]] = {}
        self._by_address: dict[str, dict[Listener, None]] = {}
        self._streams: dict[int, str | None] = {}  # of each shard that was connected, the lineage
        self._origins: dict[str, int] = {}  # the shard that each address is heard from
        self._shards.start()

    @property
    def state(self) -> ConnectionState:
        """Where its connections stand."""
        return self._shards.state

    def add(self, listener: Listener) -> None:
        """Subscribe what ``listener`` wants, and have it hear of that."""
        for name in listener.names:
            self._by_name.setdefault(name, {})[listener] = None
        self._listeners[listener] = self._shards.subscribe(listener.names)
        self._on_change()

    def remove(self, listener: Listener) -> None:
        """``listener`` wants nothing any more."""
        if self._listeners.pop(listener, self) is self:
            return
        for listeners in (*self._by_address.values(), *self._by_name.values()):
            listeners.pop(listener, None)
        self._by_address = {address: them for address, them in self._by_address.items() if them}
        self._by_name = {name: them for name, them in self._by_name.items() if them}
        self._origins = {address: shard for address, shard in self._origins.items() if address in self._by_address}
        gone = [name for name in listener.names if name not in self._by_name]
        if not self._listeners:
            self._idle()
        elif gone and self._shards.failure is None:
            self._shards.unsubscribe(gone)

    async def close(self) -> None:
        """End the connections; listeners hear nothing of it."""
        self._listeners.clear()
        await self._shards.close()

    def abort(self) -> None:
        """Cut the sockets as a broken network would."""
        self._shards.abort()

    def _on_change(self) -> None:
        self._settle()
        while (taken := self._shards.take_event_of_shard()) is not None:
            self._hear(*taken)
        failure = self._shards.failure
        if failure is not None:
            for listener in list(self._listeners):
                listener.failed(failure)

    def _hear(self, shard: int, event: object) -> None:
        if isinstance(event, Trade | Bar | Book):
            self._hear_item(shard, event)
        elif isinstance(event, Connected):
            if "channels" not in event.capabilities:
                self._fail(
                    TokenwireError(
                        "CHANNELS_NOT_GRANTED",
                        "the server has no channels",
                        "Subscribe to values instead; trades and bars need a server that grants `channels`",
                    )
                )
                return
            if shard in self._streams:
                self._break(shard, is_new=event.stream is None or event.stream != self._streams[shard])
            self._streams[shard] = event.stream
        elif isinstance(event, Gap):
            if event.cause != _SESSION_LOST:
                self._break(shard, is_new=False)
        elif isinstance(event, Error | Stale):
            tokens = event.names if isinstance(event, Error) else event.tokens
            _log.warning("%s: %s: %s (%s)", self._channel, event.code, event.message, ", ".join(tokens[:_MAX_SHOWN]))

    def _hear_item(self, shard: int, item: Trade | Bar | Book) -> None:
        address = item.address
        names = self._names_of(shard, address)
        origin = self._origins.setdefault(address, shard)
        if origin != shard:
            if self._names_of(origin, address) or not names:
                return  # two connections have it, under different names: one of them is enough
            self._origins[address] = shard
            stream = self._streams.get(shard)
            self._tell_broken([address], is_new=stream is None or stream != self._streams.get(origin))
        if address not in self._by_address:
            self._forget_former()
        listeners = self._by_address.setdefault(address, {})
        for name in names:
            for listener in self._by_name.get(name, ()):
                listeners[listener] = None
                if not listener.hears(address):  # its name was not known, or meant another address
                    listener.accepted({name: address})
        for listener in list(listeners):
            listener.item(item)

    def _names_of(self, shard: int, address: str) -> Collection[str]:
        """What ``address`` is called on a connection; nothing if that does not have it any more."""
        return self._shards.drivers[shard].session.addresses.get(address, ())

    def _break(self, shard: int, *, is_new: bool) -> None:
        """Something of the tokens of one connection may have been missed."""
        addresses = set(self._shards.drivers[shard].session.addresses)
        self._tell_broken(
            [address for address in addresses if self._origins.get(address, shard) == shard], is_new=is_new
        )

    def _forget_former(self) -> None:
        """Let go of addresses that no connection has; seldom, since a token may be on its way to another one."""
        if len(self._origins) <= _MAX_ADDRESSES_PER_NAME * len(self._by_name):
            return
        shards = range(len(self._shards.drivers))
        for address in [address for address in self._origins if not any(self._names_of(n, address) for n in shards)]:
            del self._origins[address]
            self._by_address.pop(address, None)

    def _tell_broken(self, addresses: Collection[str], *, is_new: bool) -> None:
        for listener in list(self._listeners):
            listener.broken(addresses, is_new=is_new)

    def _fail(self, error: TokenwireError) -> None:
        for listener in list(self._listeners):
            listener.failed(error)

    def _settle(self) -> None:
        """Tell listeners what became of their subscriptions."""
        for listener, batch in list(self._listeners.items()):
            if batch is None:
                continue
            for address in batch.accepted.values():
                self._by_address.setdefault(address, {})[listener] = None
            if batch.accepted:
                listener.accepted(dict(batch.accepted))
            if batch.rejected:
                listener.refused(dict(batch.rejected))
            if batch.done:
                self._listeners[listener] = None
                error = _refusal(batch)
                if error is not None:
                    listener.failed(error)


class Feeds:
    """The feeds of one client, opened when the first stream of a channel is, and closed with the last."""

    def __init__(self, config: ClientConfig, opener: Opener, max_connections: int) -> None:
        zstd = ("zstd",) if "zstd" in config.capabilities else ()
        self._config = msgspec.structs.replace(
            config, capabilities=(*CAPABILITIES, *zstd), delivery="latest", overflow="latest", ack="consumed"
        )
        self._opener = opener
        self._max_connections = max_connections
        self._feeds: dict[str, Feed] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, channel: str) -> Feed:
        """The feed of a channel."""
        feed = self._feeds.get(channel)
        if feed is None:
            config = msgspec.structs.replace(self._config, channel=channel)
            feed = Feed(config, self._opener, self._max_connections, lambda: self._drop(channel))
            self._feeds[channel] = feed
        return feed

    def abort(self) -> None:
        """Cut all sockets as a broken network would."""
        for feed in self._feeds.values():
            feed.abort()

    async def close(self) -> None:
        """End all of them; afterwards no task and no socket is left."""
        for channel in list(self._feeds):
            self._drop(channel)
        await all_ended(self._closing)

    def _drop(self, channel: str) -> None:
        feed = self._feeds.pop(channel, None)
        if feed is not None:
            task = asyncio.create_task(feed.close(), name=f"tokenwire close {channel}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _refusal(batch: Batch) -> TokenwireError | None:
    """Why none of the names was accepted; None if one was."""
    if batch.accepted:
        return None
    if batch.errors:
        error = batch.errors[0]
        return error if isinstance(error, TokenwireError) else RequestError("NOT_ANSWERED", str(error), "")
    return _rejection(batch.rejected)


def _rejection(rejected: dict[str, str]) -> SubscriptionError:
    codes: Iterable[str] = sorted(set(rejected.values()))
    shown = ", ".join(list(rejected)[:10])
    return SubscriptionError(
        next(iter(codes), "REJECTED"),
        f"none of the names was accepted ({', '.join(codes)}): {shown}",
        "Check the names and the channel; `rejected` has the code for each",
        dict(rejected),
    )
