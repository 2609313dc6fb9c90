"""What the movements of the market bring to the sessions."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from conformance.tests.reference.market import CHANGE_MS
from conformance.tests.reference.session import Session

if TYPE_CHECKING:
    from conformance.tests.reference.server import ReferenceServer

__all__ = ["Feed"]

_TRADE_S: Final = 0.25


class Feed:
    """Queues values, single versions, trades and bars."""

    def __init__(self, server: "ReferenceServer") -> None:
        self._server: Final = server
        self._loop = asyncio.get_running_loop()
        self._trades = 0

    def works(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What is to run as long as the server."""
        return self._tick(), self._versions(), self._trade()

    async def _tick(self) -> None:
        faults = self._server.faults
        interval_s = self._server.settings.update_interval_s
        if "updates_every_second" in faults:
            interval_s = 1.0
        begun_s, count = self._loop.time(), 0
        while True:
            count += 1
            await asyncio.sleep(max(0.0, begun_s + count * interval_s + 0.002 - self._loop.time()))
            self._update()

    def _update(self) -> None:
        for session in self._server.sessions():
            connection, faults = session.connection, session.faults
            if session.every or "no_updates" in session.faults:
                continue
            if "updates_to_everyone" in faults and connection is not None:
                for other in self._server.connections:
                    connection.haunted.update(dict.fromkeys(other.session.held))
            if "updates_for_all" in faults and session.held:
                session.want(self._server.market.names[-1])
            session.want_all()
            if connection is None:
                if "numbers_while_detached" in faults and session.held:
                    while session.next_text(self._server.wall_ms()) is not None:
                        pass
                continue
            if "first_value_missing" in faults:
                # Not even by the chance that a tick comes soon after the subscribe.
                for name, since_s in session.sent_at_s.items():
                    if self._loop.time() - since_s < 2:
                        session.pending.pop(name, None)
            for name in connection.haunted:
                session.want(name)
            connection.flush()

    async def _versions(self) -> None:
        """Every change of the market, for those who get single versions."""
        step_s = CHANGE_MS / 1000
        begun_s, count = self._loop.time(), 0
        while True:
            count += 1
            await asyncio.sleep(max(0.0, begun_s + count * step_s + 0.001 - self._loop.time()))
            for session in self._server.sessions():
                if session.every:
                    self._single(session)

    def _single(self, session: Session) -> None:
        details = "details" in session.caps
        for name, channels in session.held.items():
            if "token" in channels:
                value = self._server.market.value(name, self._server.wall_ms(), details=details, faults=session.faults)
                session.stream.append(("token_update", value))
        connection = session.connection
        if connection is not None and len(session.stream) > 1024 * (1000 if "batch" in session.caps else 1):
            connection.close(4003, "overflow")
        elif connection is not None:
            self._loop.call_soon(connection.flush)

    async def _trade(self) -> None:
        """A trade and a revision of the bar every 250 ms, for who has the channel."""
        faults = self._server.faults
        step_s = 0.05 if "bars_too_often" in faults else _TRADE_S
        begun_s = self._loop.time()
        while True:
            self._trades += 1
            await asyncio.sleep(max(0.0, begun_s + self._trades * step_s - self._loop.time()))
            for session in self._server.sessions():
                if "channels" not in session.caps:
                    continue
                before = len(session.stream)
                for name, channels in list(session.held.items()):
                    if "trades" in channels:
                        self._add_trade(session, name)
                    if "klines:1m" in channels:
                        self._add_bar(session, name)
                if session.connection is not None and len(session.stream) > before:
                    session.connection.flush()

    def _add_trade(self, session: Session, name: str) -> None:
        faults = session.faults
        if "trades_with_holes" in faults and self._trades % 3 == 0:
            return
        price = self._server.market.value(name, self._server.wall_ms(), faults=faults)["price"]
        data: dict[str, Any] = {
            "symbol": name[:4], "price": price, "volume": "100",
            "side": ("Buy", "Sell")[self._trades % 2], "timestamp": _iso(self._server.wall_ms()),
            "address": name,
        }  # fmt: skip
        if "side_lower_case" in faults:
            data["side"] = data["side"].lower()
        if "details" in session.caps:
            data["version"] = self._trades
        session.stream.append(("transaction", data))

    def _add_bar(self, session: Session, name: str) -> None:
        now_ms = int(self._server.wall_ms())
        opened = now_ms // 60_000 * 60_000
        closing = now_ms - opened < 250
        for begin in (opened - 60_000, opened) if closing else (opened,):
            data: dict[str, Any] = {
                "symbol": name[:4], "interval": "1m", "open_time": _iso(begin),
                "close_time": _iso(begin + 60_000), "open": "0.123", "high": "0.125", "low": "0.122",
                "close": f"0.124{self._trades % 9 + 1}", "volume": str(1 + self._trades), "address": name,
                "closed": begin < opened,
            }  # fmt: skip
            if "details" in session.caps:
                data["version"] = self._trades
            session.stream.append(("kline", data))


def _iso(time_ms: float) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
