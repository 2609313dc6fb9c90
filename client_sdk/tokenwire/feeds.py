"""Channels on connections of their own: one feed for each channel, which hands what comes to the streams it is for."""

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from tokenwire.channels import Bar, Book, Trade
from tokenwire.config import ClientConfig
from tokenwire.errors import RequestError, SubscriptionError, TokenwireError
from tokenwire.events import Connected, Gap
from tokenwire.session import ClientSession
from tokenwire.shards import Batch, Shards
from tokenwire.states import ConnectionState
from tokenwire.transport import Opener

__all__ = ["Feed", "Feeds", "Listener"]

CAPABILITIES: Final = ("batch", "heartbeat", "resume", "details", "channels")


class Listener(Protocol):
    """A stream, as its feed sees it."""

    names: tuple[str, ...]

    def accepted(self, addresses: dict[str, str]) -> None:
        """Of its names these are subscribed, under these addresses."""

    def item(self, item: Trade | Bar | Book) -> None:
        """Something of one of its tokens."""

    def broken(self, stream: str | None, *, is_new: bool) -> None:
        """Something may have been missed; ``is_new``: what follows is of another lineage, ``stream``."""

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
        self._idle = idle
        self._listeners: dict[Listener, Batch | None] = {}
        self._by_address: dict[str, dict[Listener, None]] = {}
        self._stream: str | None = None
        self._was_connected = False
        self._closing: asyncio.Task[None] | None = None
        self._shards.start()

    @property
    def state(self) -> ConnectionState:
        """Where its connections stand."""
        return self._shards.state

    def add(self, listener: Listener) -> None:
        """Subscribe what ``listener`` wants, and have it hear of that."""
        self._listeners[listener] = self._shards.subscribe(listener.names)
        self._on_change()

    def remove(self, listener: Listener) -> None:
        """``listener`` wants nothing any more."""
        if self._listeners.pop(listener, self) is self:
            return
        for listeners in self._by_address.values():
            listeners.pop(listener, None)
        self._by_address = {address: them for address, them in self._by_address.items() if them}
        others = {name for other in self._listeners for name in other.names}
        gone = [name for name in listener.names if name not in others]
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
        while (event := self._shards.take_event()) is not None:
            self._hear(event)
        failure = self._shards.failure
        if failure is not None:
            for listener in list(self._listeners):
                listener.failed(failure)

    def _hear(self, event: object) -> None:
        if isinstance(event, Trade | Bar | Book):
            for listener in list(self._by_address.get(event.address, ())):
                listener.item(event)
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
            is_new = self._was_connected and (event.stream is None or event.stream != self._stream)
            if self._was_connected:
                for listener in list(self._listeners):
                    listener.broken(event.stream, is_new=is_new)
            self._stream, self._was_connected = event.stream, True
        elif isinstance(event, Gap):
            for listener in list(self._listeners):
                listener.broken(self._stream, is_new=False)

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
        while self._closing:
            await asyncio.wait(set(self._closing))

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
