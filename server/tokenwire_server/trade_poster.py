"""The sink that posts trades to a running server: in batches, one after another, as fast as that takes them."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

from tokenwire_server.errors import UserError
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.posted import MAX_POST_TRADES
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources.retry_after import retry_after_s

__all__ = ["TradePoster"]

POST_INTERVAL_S: Final = 0.25  # a smaller batch than the greatest waits so long
REQUEST_TIMEOUT_S: Final = 30.0
RETRY_S: Final = 0.5
GIVE_UP_S: Final = 120.0  # after so long without an answer that takes the trades
MAX_ANSWER_BYTES: Final = 4_194_304
_UNAVAILABLE: Final = 503
_BUSY: Final = (429, _UNAVAILABLE)


class _Answer(msgspec.Struct):
    accepted: int
    duplicates: int
    rejected: list[dict[str, Any]]


class TradePoster:
    """Posts what a source delivers to ``url``, once :meth:`send` is called; a context manager. ``prefix`` stands before
    every trade's id, ``token`` is the server's ingest token.

    Counters: ``posts``, ``accepted``, ``duplicates``, ``rejected_by_reason``, ``waits`` (the server asked for
    patience), ``unsent`` (nobody took them before the end: once ``is_stopping``, nothing is tried twice).
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "",
        token: str | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        is_stopping: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.posts = 0
        self.accepted = 0
        self.duplicates = 0
        self.rejected_by_reason: Counter[str] = Counter()
        self.waits = 0
        self.unsent = 0
        self._url = url
        self._prefix = prefix
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._sleep = sleep
        self._is_stopping = is_stopping
        self._monotonic = monotonic
        self._symbols: dict[str, str] = {}
        self._waiting: deque[Trade] = deque()
        self._posted_s = monotonic()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, *, everything: bool = False) -> None:
        """Post what waits, unless it is little and came just now; returns when the server has it.

        Raises:
            UserError: the server can't be reached, or does not take such trades.
        """
        while self._waiting:
            due = everything or self._monotonic() - self._posted_s >= POST_INTERVAL_S
            if len(self._waiting) < MAX_POST_TRADES and not due:
                return
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_POST_TRADES))]
            await self._post(msgspec.json.encode([self._row(trade) for trade in batch]), len(batch))
            self._posted_s = self._monotonic()

    def _row(self, trade: Trade) -> dict[str, object]:
        return {
            "id": f"{self._prefix}{trade.trade_id}",
            "symbol": self._symbols.get(trade.address, trade.address),
            "price": canonical(trade.price),
            "amount": canonical(trade.amount),
            "side": str(trade.side),
            "timestamp": trade.time_ms,
        }

    async def _post(self, body: bytes, count: int) -> None:
        """Post one batch until the server has it: repeating is harmless, each trade counts once."""
        give_up_s = self._monotonic() + GIVE_UP_S
        while True:
            wait_s = RETRY_S
            try:
                status, retry_after, answer = await self._request(body)
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                problem = f"{self._url} can't be reached: {error or type(error).__name__}"
                if not self.posts:
                    raise UserError(f"{problem}; start a server there: tokenwire-server --source none") from None
            except (aiohttp.ClientError, ValueError) as error:
                raise UserError(f"{self._url}: {error}") from None
            else:
                if status == _UNAVAILABLE and retry_after is None and not self.posts:
                    raise UserError(f"{self._url} says {status}: {_detail(answer)}")  # it says nothing of later
                if status in _BUSY:
                    problem = f"{self._url} says {status}: {_detail(answer)}"
                    wait_s = max(RETRY_S, retry_after_s(retry_after, time.time_ns() // 1_000_000))
                else:
                    self._take(status, answer, count)
                    return
            if self._is_stopping():
                self.unsent += count + len(self._waiting)
                self._waiting.clear()
                return
            if self._monotonic() + wait_s > give_up_s:
                raise UserError(f"given up after {GIVE_UP_S:.0f} s: {problem}")
            self.waits += 1
            await self._sleep(wait_s)

    async def _request(self, body: bytes) -> tuple[int, str | None, bytes]:
        assert self._session is not None
        async with self._session.post(self._url, data=body, headers=self._headers, allow_redirects=False) as reply:
            answer = b""
            while len(answer) < MAX_ANSWER_BYTES and (part := await reply.content.read(MAX_ANSWER_BYTES)):
                answer += part
            return reply.status, reply.headers.get("Retry-After"), answer

    def _take(self, status: int, answer: bytes, count: int) -> None:
        if status not in (200, 422):
            raise UserError(f"{self._url} says {status}: {_detail(answer)}")
        try:
            read = msgspec.json.decode(answer, type=_Answer)
        except msgspec.MsgspecError:
            raise UserError(f"{self._url} does not answer as a server that takes trades does") from None
        self.posts += 1
        self.accepted += read.accepted
        self.duplicates += read.duplicates
        for each in read.rejected:
            self.rejected_by_reason[str(each.get("reason", "unknown"))[:64]] += 1
        taken = read.accepted + read.duplicates
        if not taken and count and not self.accepted and not self.duplicates:
            first = read.rejected[0].get("message", "") if read.rejected else ""
            raise UserError(f"{self._url} rejects every trade: {str(first)[:200]}")

    # --- Sink ------------------------------------------------------------------------------------------------

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Remember symbols: trades are posted by them."""
        self._symbols.update((token.address, token.symbol) for token in tokens)

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        """Have these posted."""
        self._waiting.extend(trades)

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        """Values can't be posted."""

    def before_tick(self, callback: Callable[[float], None]) -> None:
        """There are no ticks here."""

    def clock(self, source: str, event_time_ms: int) -> None:
        """The server has a clock of its own."""

    def rejected(self, source: str, reason: str, detail: str) -> None:
        """Count."""
        self.rejected_by_reason[reason] += 1

    def gap(self, source: str, token: str, missed: int) -> None:
        """Holes can't be posted."""

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        """The server does not know the source."""

    def offset(self, source: str, position: str) -> None:
        """Whoever posts twice is told of duplicates."""

    async def room(self) -> None:
        """What came is posted between two steps of the simulated market."""


def _detail(answer: bytes) -> str:
    """What a problem says of itself, or how the answer begins."""
    try:
        read = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, RecursionError):
        read = None
    detail = read.get("detail") if isinstance(read, dict) else None
    return str(detail)[:200] if detail else ascii(answer[:80])[2:-1]
