"""One connection to an exchange: paced requests, their replies, keep-alive, and the reasons to give it up."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from websockets.asyncio.client import ClientConnection

from tokenwire_server.sources.frames import Reply
from tokenwire_server.sources.profile import Profile, Request

__all__ = ["Conversation", "ExchangeSocket", "LostError"]

REPLY_TIMEOUT_S: Final = 10.0  # of a subscription, and of the venue's own ping
SILENCE_S: Final = 60.0  # without a byte the connection is dead
WATCH_INTERVAL_S: Final = 1.0


class LostError(Exception):
    """The connection must be made anew; ``at_once`` without waiting."""

    def __init__(self, detail: str, *, at_once: bool = False) -> None:
        super().__init__(detail)
        self.at_once = at_once


class ExchangeSocket(ClientConnection):
    """Knows when the last byte came: pings and pongs are signs of life too."""

    last_byte_s: float

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.last_byte_s = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.last_byte_s = self.loop.time()
        super().data_received(data)


class Conversation:
    """What was asked for over one connection and not answered yet.

    ``on_watch(silent_ms)`` is called every second of a living connection.
    """

    def __init__(
        self,
        profile: Profile,
        socket: ExchangeSocket,
        requests: Sequence[Request],
        on_watch: Callable[[float], None],
    ) -> None:
        now_s = asyncio.get_running_loop().time()
        self.begun_s = now_s
        self._profile = profile
        self._socket = socket
        self._requests = requests
        self._on_watch = on_watch
        self._last_frame_s = now_s
        self._pinged_s: float | None = None  # when a ping of ours went out that nothing followed yet
        self._next_ping_s = now_s + (profile.ping.interval_s if profile.ping else 0.0)
        # All are pending from the start: the source is live when the last of them is granted.
        due_s = now_s + len(requests) * profile.request_interval_s + REPLY_TIMEOUT_S
        self._pending = {key: due_s for request in requests for key in request.keys}
        self._granted = 0
        self.is_held = False
        """Nobody reads for now, so that a silence is not the venue's."""
        self._was_held = False

    def received(self) -> None:
        """A frame came: whatever it says, it follows the ping."""
        self._last_frame_s = asyncio.get_running_loop().time()
        self._pinged_s = None

    def reply(self, reply: Reply) -> bool:
        """Note an answer; True when it was the last one due and something was granted.

        Raises:
            LostError: nothing is left of what was asked for, or nobody knows what is.
        """
        waited = bool(self._pending)
        for key in reply.keys:
            if self._pending.pop(key, None) is not None and reply.error is None:
                self._granted += 1
        if reply.error is not None and (not reply.keys or (waited and not self._pending and not self._granted)):
            raise LostError(f"SUBSCRIBE refused: {reply.error}")
        return waited and not self._pending

    async def tend(self) -> None:
        """Subscribe, then watch; whatever ends this cuts the connection, so that the reader ends too."""
        try:
            await self._subscribe_and_watch()
        except Exception:
            self._socket.transport.abort()
            raise

    async def _subscribe_and_watch(self) -> NoReturn:
        for request in self._requests:
            await self._socket.send(request.text)
            await asyncio.sleep(self._profile.request_interval_s)
        loop = asyncio.get_running_loop()
        while True:
            now_s = loop.time()
            self._judge(now_s)
            self._on_watch((now_s - self._socket.last_byte_s) * 1_000)
            await self._ping(now_s)
            await asyncio.sleep(WATCH_INTERVAL_S)

    def _judge(self, now_s: float) -> None:
        max_age_s = self._profile.max_age_s
        if self.is_held or self._was_held:  # what came meanwhile is still to be read
            self._was_held = self.is_held
            self._socket.last_byte_s = self._last_frame_s = now_s
            self._pinged_s = None
            self._pending = {key: max(due_s, now_s + REPLY_TIMEOUT_S) for key, due_s in self._pending.items()}
        if now_s - self._socket.last_byte_s >= SILENCE_S:
            raise LostError(f"no byte for {SILENCE_S:.0f} s")
        if any(due_s <= now_s for due_s in self._pending.values()):
            raise LostError("no reply to SUBSCRIBE")
        if self._pinged_s is not None and now_s - self._pinged_s >= REPLY_TIMEOUT_S:
            raise LostError("no answer to our ping")
        if max_age_s is not None and now_s - self.begun_s >= max_age_s:
            raise LostError("renewed before the venue cuts it", at_once=True)

    async def _ping(self, now_s: float) -> None:
        ping = self._profile.ping
        if ping is None:
            return
        if ping.only_when_idle:
            self._next_ping_s = max(self._next_ping_s, self._last_frame_s + ping.interval_s)
        if now_s >= self._next_ping_s:
            self._next_ping_s = now_s + ping.interval_s
            if self._pinged_s is None:
                self._pinged_s = now_s
            await self._socket.send(ping.text)
