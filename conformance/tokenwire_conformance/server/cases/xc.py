"""XC: trades and candlesticks, where ``channels`` is granted."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from tokenwire_conformance.figures import QUIET_S, REPLY_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.extension import codes, gathered, updates_of
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.server.shapes import expect_shapes
from tokenwire_conformance.wire.messages import Received, shown

__all__ = ["kline_problem", "klines_of", "trade_problem", "trades_of"]

_WAIT_S = 30.0
"""For a trade or a bar of busy tokens."""
_BAR_S = 65.0
"""In which a bar of a minute ends."""
_BAR_MS = 250
_SLACK_MS = 50
_CLOCKS_MS = 100
"""By which the clocks of a server and of its source may differ."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
_DECIMAL = re.compile(r"\d+(\.\d+)?")
_BAR_PRICES = ("open", "high", "low", "close")


def trades_of(messages: Iterable[Received]) -> list[dict[str, Any]]:
    """The trades in ``messages``, single ones and those in batches."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message.type == "transaction":
            found.append(message.data)
        elif message.type == "transaction_batch" and isinstance(rows := message.data.get("transactions"), list):
            found.extend(row for row in rows if isinstance(row, dict))
    return found


def klines_of(messages: Iterable[Received]) -> list[tuple[int, dict[str, Any]]]:
    """The bars in ``messages``, each with the timestamp of its message."""
    return [(message.timestamp or 0, message.data) for message in messages if message.type == "kline"]


def trade_problem(trades: Sequence[dict[str, Any]]) -> str | None:
    """What is wrong with the trades of one connection, in the order in which they came, or ``None``."""
    versions: dict[str, list[int]] = {}
    for trade in trades:
        if trade.get("side") not in ("Buy", "Sell"):
            return f"side is {shown(trade.get('side'))}"
        for name in ("price", "volume"):
            if not isinstance(value := trade.get(name), str) or not _DECIMAL.fullmatch(value):
                return f"{name} is {shown(value)}"
        if not isinstance(time := trade.get("timestamp"), str) or not _TIME.fullmatch(time):
            return f"timestamp is {shown(time)}, not ISO 8601 in UTC"
        if isinstance(version := trade.get("version"), int):
            versions.setdefault(str(trade.get("address")), []).append(version)
    for address, numbers in versions.items():
        if any(later - earlier != 1 for earlier, later in pairwise(numbers)):
            return f"the versions of {address} are {shown(numbers[:20])}"
    return None


def kline_problem(bars: Sequence[tuple[int, dict[str, Any]]]) -> str | None:
    """What is wrong with the bars of one connection, each with the timestamp (ms) of its message, or ``None``."""
    newest: dict[tuple[Any, ...], tuple[int, Any]] = {}
    closed: set[tuple[Any, ...]] = set()
    latest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    ends: dict[tuple[Any, ...], float] = {}
    for at_ms, bar in bars:
        for name in (*_BAR_PRICES, "volume"):
            if not isinstance(value := bar.get(name), str) or not _DECIMAL.fullmatch(value):
                return f"{name} is {shown(value)}"
        low, high = float(bar["low"]), float(bar["high"])
        if not all(low <= float(bar[name]) <= high for name in ("open", "close")):
            return f"open {bar['open']} or close {bar['close']} is outside of {bar['low']} to {bar['high']}"
        times = [bar.get("open_time"), bar.get("close_time")]
        if not all(isinstance(time, str) and _TIME.fullmatch(time) for time in times) or str(times[0]) >= str(times[1]):
            return f"open_time and close_time are {times}"
        series = (str(bar.get("address")), str(bar.get("interval")))
        key = (*series, times[0])
        if key in newest:
            before_ms, version = newest[key]
            if isinstance(version, int) and isinstance(bar.get("version"), int) and bar["version"] <= version:
                return f"the version of the bar {times[0]} went from {version} to {bar['version']}"
            if at_ms - before_ms < _BAR_MS - _SLACK_MS and key not in closed:
                closed.add(key)  # once the bar may come sooner: when it closes
            elif at_ms - before_ms < _BAR_MS - _SLACK_MS:
                return f"the bar {times[0]} came again after {at_ms - before_ms} ms"
        before = latest.get(series, key)
        if before[2] > key[2]:
            if key not in newest:
                return f"the bar {times[0]} came behind a later one"
            newest[key] = (at_ms, bar.get("version"))  # a late trade corrected it
            continue
        if before != key and newest[before][0] < ends[before] - _CLOCKS_MS:
            return f"the bar {before[2]} never came closed"
        ends[key] = _unix_ms(str(times[1]))
        latest[series] = key
        newest[key] = (at_ms, bar.get("version"))
    return None


def _unix_ms(text: str) -> float:
    # Python reads at most six digits of a second's fraction.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp() * 1000


async def _asked(bench: Bench, peer: Peer, action: str, tokens: list[str], *channels: str) -> list[Received]:
    """Send the request, which has to succeed; what comes until a moment after the answer."""
    extra: dict[str, Any] = {"channels": list(channels)} if channels else {}
    answer = await peer.request(action, tokens, **extra)
    bench.require(answer.accepted(), "XC.default", f"no success for {action}; errors: {answer.codes()}", peer)
    return answer.messages


async def _granted(bench: Bench) -> Peer:
    """A connection with channels, and with details for the versions where the server has both."""
    return await bench.extended("channels", *sorted({"details"} & bench.facts.granted))


@SERVER.case(
    "S-XC-01", "ext.channels", "XC.default",
    sends="a subscribe to 5 tokens without channels, one with trades in addition, an unsubscribe without channels",
    expects="first values and no trade or bar, then trades, then (behind the answer) nothing of the tokens any more",
    why="A request of v1.0 has no channels and means what it always meant.", deadline_s=60.0,
)  # fmt: skip
async def default_channels(bench: Bench) -> None:
    """A subscribe without channels means token, an unsubscribe without them all."""
    peer = await _granted(bench)
    tokens = bench.live_tokens(5)
    await _asked(bench, peer, "subscribe", tokens)
    messages = await gathered(peer, 1, updates_of, REPLY_S + bench.facts.update_interval_s)
    bench.require(updates_of(messages), "XC.default", "no update came of a subscribe without channels", peer)
    other = [message for message in messages if message.type in {"transaction", "transaction_batch", "kline"}]
    bench.require(not other, "XC.default", f"a subscribe without channels brought {len(other)} others", peer)
    await _asked(bench, peer, "subscribe", tokens, "trades")
    messages = await gathered(peer, 1, trades_of, _WAIT_S)
    bench.need(trades_of(messages), f"none of 5 tokens was traded within {_WAIT_S:g} s: name busier ones")
    await _asked(bench, peer, "unsubscribe", tokens)
    answer = max(index for index, message in enumerate(peer.messages) if message.type == "subscription")
    await peer.collect(bench.facts.update_interval_s + QUIET_S)
    late = [message.type for message in peer.messages[answer + 1 :] if message.type not in {"heartbeat", "error"}]
    bench.require(not late, "XC.default", f"{len(late)} messages came behind the unsubscribe ({shown(late[:3])})", peer)


@SERVER.case(
    "S-XC-02", "ext.channels", "XC.trades",
    sends="a subscribe to 5 tokens with the channel trades; then nothing for 10 s behind the first trade",
    expects="each trade has side Buy or Sell, decimal strings, and a timestamp in ISO 8601 ending in Z; with details, "
    "the versions of a token have no holes",
    why="Trades are counted: one that is missing changes every sum made of them.", deadline_s=60.0,
)  # fmt: skip
async def trades(bench: Bench) -> None:
    """Trades have their fields, and a token's versions have no holes."""
    peer = await _granted(bench)
    await _asked(bench, peer, "subscribe", bench.live_tokens(5), "trades")
    messages = await gathered(peer, 1, trades_of, _WAIT_S)
    bench.need(trades_of(messages), f"none of 5 tokens was traded within {_WAIT_S:g} s: name busier ones")
    await peer.collect(10.0)
    problem = trade_problem(trades_of(peer.messages))
    bench.require(problem is None, "XC.trades", problem or "", peer)


@SERVER.case(
    "S-XC-03", "ext.channels", "XC.klines",
    sends="a subscribe to 5 tokens with the channel klines:1m; then nothing until one bar follows another",
    expects="each bar has the interval 1m, times in UTC and prices within low and high; the same bar comes at most "
    "every 250 ms (once sooner, when it closes), with rising versions where details is granted; before the next bar "
    "of a token comes the last one closed, sent behind its close_time",
    why="A chart draws each revision, and keeps the last: it has to be the final one.", deadline_s=150.0,
)  # fmt: skip
async def klines(bench: Bench) -> None:
    """Bars have their fields, come at most every 250 ms, and their versions rise."""
    peer = await _granted(bench)
    await _asked(bench, peer, "subscribe", bench.live_tokens(5), "klines:1m")
    messages = await gathered(peer, 1, klines_of, _WAIT_S)
    bench.need(klines_of(messages), f"none of 5 tokens had a bar within {_WAIT_S:g} s: name busier ones")
    await gathered(peer, 1, lambda ms: len({bar.get("open_time") for _, bar in klines_of(ms)}) > 1, _BAR_S)
    await peer.collect(SLACK_S)
    bars = klines_of(peer.messages)
    intervals = {str(bar.get("interval")) for _, bar in bars}
    bench.require(intervals == {"1m"}, "XC.klines", f"bars of {intervals} came, not of 1m", peer)
    problem = kline_problem(bars)
    bench.require(problem is None, "XC.klines", problem or "", peer)


@SERVER.case(
    "S-XC-04", "ext.channels", "XC.counted",
    sends="subscribes with two channels to as many tokens as leave one place free, then with two channels to one more, "
    "then with one channel to it, then with a further channel to a token that is held",
    expects="the first are accepted, the next is refused whole with SUBSCRIPTION_LIMIT, the one after it takes the "
    "last place, and the last is refused",
    why="Half a token would leave the client with a stream that it did not ask for in that form.", deadline_s=30.0,
)  # fmt: skip
async def counted(bench: Bench) -> None:
    """Each pair of token and channel counts once; a token is taken whole or not at all."""
    peer = await _granted(bench)
    pairs = (peer.limit - 1) // 2
    first, *rest = bench.tokens(pairs + 2)
    full, more = rest[:pairs], rest[pairs]
    if peer.limit - 2 * pairs == 2:  # an even limit: one place is to stay
        await _asked(bench, peer, "subscribe", [first])
    accepted = (await peer.subscribe(full, channels=["token", "trades"])).accepted()
    bench.require(len(accepted) == pairs, "XC.counted", f"{len(accepted)} of {pairs} tokens were accepted", peer)
    answer = await peer.subscribe([more], channels=["token", "trades"])
    bench.require(not answer.accepted(), "XC.counted", "two channels were accepted with one place left", peer)
    seen = answer.codes()
    bench.require("SUBSCRIPTION_LIMIT" in seen, "XC.counted", f"the refusal has the codes {shown(seen)}", peer)
    accepted = (await peer.subscribe([more], channels=["token"])).accepted()
    bench.require(len(accepted) == 1, "XC.counted", "the last place is taken, though nothing was accepted", peer)
    answer = await peer.subscribe([more], channels=["trades"])
    bench.require(not answer.accepted(), "XC.counted", "a further channel of a token held was not counted", peer)


@SERVER.case(
    "S-XC-05", "ext.channels", "EH.invalid-message", "XC.default",
    sends='a subscribe with the channels ["nonsense"], one with channels as a string; then one without channels',
    expects="twice an error and no success; the last is answered with success",
    why="A misspelt channel that is ignored leaves a client waiting for data that never comes.",
)  # fmt: skip
async def wrong_channel(bench: Bench) -> None:
    """A channel that does not exist is refused."""
    peer = await _granted(bench)
    tokens = bench.tokens(1)
    for wrong in (["nonsense"], "trades"):
        mark = len(peer.messages)
        answer = await peer.subscribe(tokens, REPLY_S / 2, channels=wrong)
        bench.require(not answer.accepted(), "EH.invalid-message", f"channels {shown(wrong)} was accepted", peer)
        found = codes(peer.messages[mark:])
        bench.require(found, "EH.invalid-message", f"channels {shown(wrong)} was not answered with an error", peer)
    bench.require((await peer.subscribe(tokens)).accepted(), "XC.default", "no success any more", peer)


@SERVER.case(
    "S-XC-06", "ext.channels", "XC.trades", "XC.klines",
    sends="a subscribe to 5 tokens with token, trades and klines:1m; what other cases received is looked at as well",
    expects="every transaction, transaction_batch and kline is valid by its schema in extended/server",
    why="A client reads them by their schema.", over_run=True, deadline_s=60.0,
)  # fmt: skip
async def shape(bench: Bench) -> None:
    """Every trade and every bar has the shape of its schema."""
    peer = await _granted(bench)
    await _asked(bench, peer, "subscribe", bench.live_tokens(5), "token", "trades", "klines:1m")
    await gathered(peer, 1, lambda ms: trades_of(ms) and klines_of(ms), _WAIT_S)
    judged = expect_shapes(
        bench, [*bench.histories, *bench.run_histories], "channels",
        {"transaction": "XC.trades", "transaction_batch": "XC.trades", "kline": "XC.klines"},
    )  # fmt: skip
    bench.need(judged, f"no trade and no bar came within {_WAIT_S:g} s: name busier tokens")
