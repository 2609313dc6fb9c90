"""XC: channels whose newest state counts: open bars, pushed values, books."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from tokenwire_conformance.figures import REPLY_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.channel_checkers import (
    Stamped,
    book_problem,
    push_problem,
    stamped,
    trades_of,
)
from tokenwire_conformance.server.channel_steps import WAIT_S, asked, granted
from tokenwire_conformance.server.extension import gathered, updates_of
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.messages import Received, shown

__all__: list[str] = []

_WATCHED: Final = 20
_WATCH_S: Final = 5.0
_LEFT_MS: Final = 4_000
"""How long a bar has still to go, lest it close while the case asks for it."""
_BAR_MS: Final = 60_000
_GAPS_MS: Final = (250, 2_000)
_SLACK_MS: Final = round(SLACK_S * 1000)
_DEPTH: Final = 5
_BOOKS_S: Final = 5.0


# --- open bars ---------------------------------------------------------------------------------------------
@SERVER.case(
    "S-XC-13", "ext.channels", "XC.kline-first",
    sends=f"on one connection a subscribe to {_WATCHED} tokens with klines:1m; when some have an open bar, on another "
    "a subscribe to these",
    expects=f"the open bar of each comes within {SLACK_S:g} s of the answer",
    why="A chart shows the bar that is under way, not only from the next trade on: that may be long in coming.",
    deadline_s=60.0,
)  # fmt: skip
async def open_bar_first(bench: Bench) -> None:
    """An open bar is sent on subscribing."""
    watching = await granted(bench)
    await asked(bench, watching, "subscribe", bench.tokens(_WATCHED), "klines:1m")
    await gathered(watching, 1, lambda ms: stamped(ms, "kline"), WAIT_S)
    await watching.collect(_WATCH_S)
    bars = stamped(watching.messages, "kline")
    bench.need(bars, f"none of {_WATCHED} tokens had a bar within {WAIT_S:g} s: name busier ones", watching)
    if _BAR_MS - bars[-1][0] % _BAR_MS < _LEFT_MS:
        await watching.collect(_LEFT_MS / 1000 + _WATCH_S)
        bars = stamped(watching.messages, "kline")
    minute = bars[-1][0] // _BAR_MS
    opened = sorted({str(bar.get("address")) for at, bar in bars if at // _BAR_MS == minute and not bar.get("closed")})
    bench.need(opened, "no token had an open bar: name busier ones", watching)
    peer = await granted(bench)
    await peer.send_json(peer.subscription("subscribe", opened, channels=["klines:1m"]))
    await gathered(peer, 1, lambda ms: any(m.type == "subscription" for m in ms))
    await peer.collect(SLACK_S)
    missing = set(opened) - {str(bar.get("address")) for _, bar in stamped(peer.messages, "kline")}
    told = f"of {len(opened)} tokens with an open bar {len(missing)} sent none on subscribing: {shown(sorted(missing))}"
    bench.require(not missing, "XC.kline-first", told, peer)


# --- pushed values -----------------------------------------------------------------------------------------
@SERVER.case(
    "S-XC-14", "ext.channels", "XC.push",
    sends=f"on one connection a subscribe to 3 tokens with token:{_GAPS_MS[0]} and trades, and to 3 others with "
    f"token:{_GAPS_MS[1]} and trades; on another a subscribe to all with token; then nothing for two update intervals",
    expects="values of a token come as token_update, with at least the gap that was asked for between them, and "
    "versions that never fall; what the other connection has with an update interval, this one has within the gap and "
    f"{SLACK_S:g} s; where prices follow the trades, a trade at another price is followed by a value as fast",
    why="Who asks for a push wants the newest value at once, and no more messages than were asked for.",
    deadline_s=75.0,
)  # fmt: skip
async def push(bench: Bench) -> None:
    """A pushed value comes within its gap, not sooner, and the newest is never left out."""
    pushed, ticked = await granted(bench), await granted(bench)
    tokens = bench.live_tokens(6)
    groups = dict(zip(_GAPS_MS, (tokens[:3], tokens[3:]), strict=True))
    for gap_ms, names in groups.items():
        await asked(bench, pushed, "subscribe", names, f"token:{gap_ms}", "trades", clause="XC.push")
    await asked(bench, ticked, "subscribe", tokens, "token")
    seconds = 2 * bench.facts.update_interval_s + SLACK_S
    await asyncio.gather(pushed.collect(seconds), ticked.collect(seconds))
    values = stamped(pushed.messages, "token_update")
    bench.require(values, "XC.push", "no value came on a channel token:…", pushed)
    changes = [(at, value) for at, value in _ticks(ticked.messages) if isinstance(value.get("version"), int)]
    newer = {(value["address"], value["version"]) for _, value in changes}
    bench.need(len(newer) > len(tokens), "no value changed within two update intervals: name busier tokens", ticked)
    end_ms = max(at for at, _ in values + changes)
    for gap_ms, names in groups.items():
        mine = [(at, value) for at, value in values if value.get("address") in names]
        problem = push_problem(mine, gap_ms)
        bench.require(problem is None, *(problem or ("", "")), pushed)
        until_ms = end_ms - gap_ms - _SLACK_MS
        for at, value in changes:
            if value["address"] in names and at <= until_ms:
                _require_newest(bench, pushed, mine, at + gap_ms + _SLACK_MS, value)
        for name in names:
            _require_at_once(bench, pushed, [each for each in mine if each[1].get("address") == name], name, gap_ms)


def _ticks(messages: Sequence[Received]) -> list[Stamped]:
    return [(message.timestamp or 0, value) for message in messages for value in updates_of([message])]


def _require_newest(bench: Bench, peer: Peer, mine: Sequence[Stamped], by_ms: int, value: dict[str, object]) -> None:
    found = [v.get("version") for at, v in mine if v.get("address") == value["address"] and at <= by_ms]
    version = value["version"]
    newest = max((each for each in found if isinstance(each, int)), default=0)
    told = f"an update interval brought version {version} of {value['address']}; the push was at {newest} still"
    bench.require(isinstance(version, int) and newest >= version, "XC.push", told, peer)


def _require_at_once(bench: Bench, peer: Peer, mine: Sequence[Stamped], name: str, gap_ms: int) -> None:
    """Where each new price is one at which the token was just traded, a trade at another price changes the value."""
    trades = [
        (message.timestamp or 0, trade.get("price"))
        for message in peer.messages
        for trade in trades_of([message])
        if trade.get("address") == name
    ]
    prices = [(at, value.get("price")) for at, value in mine]
    changed = [new for old, new in pairwise(prices) if old[1] != new[1]]
    follows = all(any(p == price and at - 2_000 <= t <= at + 1_000 for t, p in trades) for at, price in changed)
    if not (changed and follows and trades):
        return
    until_ms = trades[-1][0] - gap_ms - _SLACK_MS
    for at, price in trades:
        before = [v.get("price") for t, v in mine if t < at - _SLACK_MS]
        if not before or at > until_ms or price == before[-1]:
            continue
        is_told = any(at - _SLACK_MS <= t <= at + gap_ms + _SLACK_MS for t, _ in mine)
        told = f"{name} was traded at {price}, and no value of it came within {gap_ms + _SLACK_MS} ms on token:{gap_ms}"
        bench.require(is_told, "XC.push", told, peer)


@SERVER.case(
    "S-XC-15", "ext.channels", "XC.push-beside",
    sends="with batch, a subscribe to 3 tokens with token and token:250; then nothing for two update intervals",
    expects="behind the first values the tokens come both as token_update and, with the update interval, in a "
    "token_batch",
    why="The two are told apart by that, and each keeps its promise.", deadline_s=60.0,
)  # fmt: skip
async def push_beside_token(bench: Bench) -> None:
    """A pushed value is a message of its own, and token goes on beside it."""
    peer = await bench.extended("channels", "batch")
    await asked(bench, peer, "subscribe", bench.live_tokens(3), "token", "token:250", clause="XC.push-beside")
    await peer.collect(SLACK_S)
    mark = len(peer.messages)
    await peer.collect(2 * bench.facts.update_interval_s + SLACK_S)
    kinds = {message.type for message in peer.messages[mark:]} & {"token_update", "token_batch"}
    bench.need(kinds, "none of 3 tokens changed within two update intervals: name busier ones", peer)
    told = f"of token and token:250 together came only {shown(sorted(map(str, kinds)))}"
    bench.require(len(kinds) == 2, "XC.push-beside", told, peer)


# --- books -------------------------------------------------------------------------------------------------
@SERVER.case(
    "S-XC-16", "ext.channels", "XC.book", "XC.unknown",
    sends=f"a subscribe to 5 tokens with the channel book:{_DEPTH}; then nothing for {_BOOKS_S:g} s behind the first",
    expects=f"a token without a book is refused with UNKNOWN_CHANNEL; a book has at most {_DEPTH} levels on a side, "
    "the best first, the best bid below the best ask; it comes at most every 250 ms, with rising versions where "
    "details is granted; skipped where no token has one",
    why="The first line of a book is what one trades at.", deadline_s=75.0,
)  # fmt: skip
async def book(bench: Bench) -> None:
    """A book is sorted, not crossed, as deep as asked for, and comes at most every 250 ms."""
    peer = await granted(bench)
    answer = await peer.subscribe(bench.live_tokens(5), channels=[f"book:{_DEPTH}"])
    if answer.refused():
        seen = answer.codes()
        bench.require(set(seen) == {"UNKNOWN_CHANNEL"}, "XC.unknown", f"a book is refused with {shown(seen)}", peer)
    bench.need(answer.accepted(), "none of 5 tokens has a book: name some that have", peer)
    await gathered(peer, 1, lambda ms: stamped(ms, "book"), WAIT_S - REPLY_S)
    await peer.collect(_BOOKS_S)
    books = stamped(peer.messages, "book")
    bench.need(books, f"no book came within {WAIT_S - REPLY_S:g} s: name busier tokens", peer)
    problem = book_problem(books, _DEPTH)
    bench.require(problem is None, *(problem or ("", "")), peer)
