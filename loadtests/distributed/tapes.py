"""What is traded in the proof: two tapes that collectors play, on clocks of their own.

The lines' receive times say only when a line is played; what is traded when is said by the events. The last line moves
the event clock on by two hours, so that every bar up to that of an hour closes.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Final
from zlib import crc32

__all__ = ["captured_tape", "simulated_tape", "trade_frames"]

LEAD_MS: Final = 5_000  # from the announcement of the tokens to the first trade: clients are there by then
PLAY_AFTER_MS: Final = 86_400_000  # receive times are so much later than events: a clock is never ahead of its line
CLOSING_MS: Final = 7_200_000
LATE_TOKENS: Final = 4  # one of so many has trades that come late …
LATE_SHARE: Final = 0.03  # … this part of its trades …
LATE_MS: Final = (500, 20_000)  # … by so much; who listens is told of corrections for 10 s
CLOCK_MS: Final = 1_000  # between two signs of a captured tape's clock
_GENERATED: Final = ("CTKUSDT", "AKROUSDT", "SUSHIUSDT", "KEEPUSDT")
_GENERATED_START_MS: Final = 1_626_992_741_000
_GENERATED_CYCLE_MS: Final = 28_000
_GENERATED_TRADES: Final = 91
_TIMES: Final = ("E", "T")

Frame = tuple[int, dict[str, Any]]
"""When it was received (Unix ms), and the message."""


def simulated_tape(path: Path, *, seed: int, trades: int, rate: int, tokens: int) -> None:
    """A simulated market of about ``rate`` trades a second, played in its own time; some trades come late."""
    made = path.with_suffix(".made")
    command = ["simulate", "--rate", str(rate), "--limit", str(trades), "--seed", str(seed), "--tokens", str(tokens)]
    subprocess.run(
        [sys.executable, "-m", "tokenwire_server", *command, "-o", str(made), "--force", "--quiet"],
        check=True,
        capture_output=True,
    )
    delay = _Delay(random.Random(f"{seed}/late"))
    now_ms = 0
    with made.open(encoding="utf-8") as lines, path.open("w", encoding="utf-8") as out:
        for line in lines:
            received, _, text = line.partition(": ")
            now_ms = round(float(received) * 1_000)
            event = json.loads(text)
            if event["tokenwire"] != "trades":
                out.write(_event(now_ms - LEAD_MS, event))
                continue
            trades_now = delay.passed(event["trades"], now_ms)
            if trades_now:
                out.write(_event(now_ms, {**event, "trades": trades_now}))
        while delay.held:
            now_ms += CLOCK_MS
            if trades_now := delay.passed([], now_ms):
                out.write(_event(now_ms, {"tokenwire": "trades", "source": "simulator", "trades": trades_now}))
        out.write(_closing("simulator", now_ms))
    made.unlink()


class _Delay:
    """Holds back some trades of some tokens, so that they come after later ones and correct bars that have closed."""

    def __init__(self, chance: random.Random) -> None:
        self.held: list[tuple[int, int, dict[str, Any]]] = []
        self._chance = chance
        self._count = 0

    def passed(self, trades: Sequence[dict[str, Any]], now_ms: int) -> list[dict[str, Any]]:
        """What comes now: those that were held back long enough, and of ``trades`` what is not held back."""
        found = []
        while self.held and self.held[0][0] <= now_ms:
            found.append(heappop(self.held)[2])
        for trade in trades:
            self._count += 1
            if crc32(trade["address"].encode()) % LATE_TOKENS == 0 and self._chance.random() < LATE_SHARE:
                heappush(self.held, (now_ms + self._chance.randrange(*LATE_MS), self._count, trade))
            else:
                found.append(trade)
        return found


def captured_tape(path: Path, frames: Sequence[Frame], *, seconds: float) -> int:
    """Captured frames, over and over until ``seconds`` are full; how many trades that are.

    The first round is verbatim; of each further one ids and times go on where the one before ended.
    """
    first_ms, last_ms = frames[0][0], frames[-1][0]
    round_ms = last_ms - first_ms + CLOCK_MS
    counts: dict[str, int] = {}
    for _, message in frames:
        symbol = message["data"]["s"]
        counts[symbol] = counts.get(symbol, 0) + 1
    trades = 0
    clock_ms = first_ms
    with path.open("w", encoding="utf-8") as out:
        names = [{"address": f"binance:{symbol}", "symbol": symbol, "name": symbol} for symbol in counts]
        lead_ms = first_ms - LEAD_MS
        out.write(_event(lead_ms, {"tokenwire": "recording", "version": 1, "sources": ["captured"]}))
        out.write(_event(lead_ms, {"tokenwire": "frames", "source": "captured", "format": "binance"}))
        out.write(_event(lead_ms, {"tokenwire": "tokens", "source": "captured", "tokens": names}))
        for turn in range(max(1, round(seconds * 1_000 / round_ms))):
            for received_ms, message in frames:
                now_ms = received_ms + turn * round_ms
                while clock_ms + CLOCK_MS <= now_ms:
                    clock_ms += CLOCK_MS
                    out.write(_event(clock_ms, {"tokenwire": "clock", "source": "captured", "time_ms": clock_ms}))
                out.write(_line(now_ms + PLAY_AFTER_MS, json.dumps(_moved(message, turn, round_ms, counts))))
                trades += 1
        out.write(_closing("captured", max(now_ms, clock_ms)))
    return trades


def trade_frames(folder: Path | None, seed: int) -> list[Frame]:
    """Frames of Binance that hold trades: those captured in ``folder``, or generated ones where there are none."""
    found = [frame for path in sorted(folder.glob("binance-*.txt")) for frame in _read(path)] if folder else []
    if not found:
        return list(_generated(random.Random(seed)))
    # Of several captures one is played: that with most trades.
    days: dict[int, list[Frame]] = {}
    for frame in found:
        days.setdefault(frame[0] // 86_400_000, []).append(frame)
    return max(days.values(), key=len)


def _read(path: Path) -> Iterator[Frame]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            received, _, text = line.partition(": ")
            message = json.loads(text)
            data = message.get("data")
            if isinstance(data, dict) and data.get("e") == "aggTrade":
                yield round(float(received) * 1_000), message


def _generated(chance: random.Random) -> Iterator[Frame]:
    ids = {symbol: chance.randrange(1_000_000, 90_000_000) for symbol in _GENERATED}
    times = sorted(_GENERATED_START_MS + chance.randrange(_GENERATED_CYCLE_MS) for _ in range(_GENERATED_TRADES))
    for time_ms in times:
        symbol = chance.choice(_GENERATED)
        ids[symbol] += 1
        data = {
            "e": "aggTrade", "E": time_ms, "s": symbol, "a": ids[symbol],
            "p": f"{chance.randrange(1, 99_999) / 1e4:.4f}", "q": str(chance.randrange(1, 9_999)), "f": 1, "l": 1,
            "T": time_ms, "m": chance.random() < 0.5,
        }  # fmt: skip
        yield time_ms, {"stream": f"{symbol.lower()}@aggTrade", "data": data}


def _moved(message: dict[str, Any], turn: int, round_ms: int, counts: dict[str, int]) -> dict[str, Any]:
    if not turn:
        return message
    data = dict(message["data"])
    for name in _TIMES:
        data[name] += turn * round_ms
    data["a"] += turn * counts[data["s"]]
    return {**message, "data": data}


def _closing(source: str, last_ms: int) -> str:
    closed_ms = last_ms + CLOSING_MS
    text = json.dumps({"tokenwire": "clock", "source": source, "time_ms": closed_ms}, separators=(",", ":"))
    return _line(last_ms + PLAY_AFTER_MS + CLOCK_MS, text)


def _event(time_ms: int, event: dict[str, Any]) -> str:
    return _line(time_ms + PLAY_AFTER_MS, json.dumps(event, separators=(",", ":")))


def _line(time_ms: int, text: str) -> str:
    return f"{time_ms // 1_000}.{time_ms % 1_000:03d}: {text}\n"
