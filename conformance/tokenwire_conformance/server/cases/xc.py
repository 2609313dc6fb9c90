"""XC: channels of a token, where ``channels`` is granted: what a request means, and the data of trades and bars."""

from typing import Final

from tokenwire_conformance.figures import QUIET_S, REPLY_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.channel_checkers import kline_problem, stamped, trade_problem, trades_of
from tokenwire_conformance.server.channel_steps import WAIT_S, asked, granted, traded
from tokenwire_conformance.server.extension import codes, gathered, updates_of
from tokenwire_conformance.server.shapes import expect_shapes
from tokenwire_conformance.wire.messages import Received, shown

__all__: list[str] = []

_BAR_S: Final = 65.0
"""In which a bar of a minute ends."""
_OTHERS: Final = frozenset({"transaction", "transaction_batch", "kline", "book", "set"})
_NOBODYS: Final = (["trades", "book:101"], ["token", "klines:9999w"], ["token:1"])
"""Channels beyond what a server may have: levels, an interval of two centuries, a gap."""


def _open_times(messages: list[Received]) -> set[str]:
    return {str(bar.get("open_time")) for _, bar in stamped(messages, "kline")}


@SERVER.case(
    "S-XC-01", "ext.channels", "XC.default",
    sends="a subscribe to 5 tokens without channels, one with trades in addition, an unsubscribe without channels",
    expects="first values and no trade or bar, then trades, then (behind the answer) nothing of the tokens any more",
    why="A request of v1.0 has no channels and means what it always meant.", deadline_s=60.0,
)  # fmt: skip
async def default_channels(bench: Bench) -> None:
    """A subscribe without channels means token, an unsubscribe without them all."""
    peer = await granted(bench)
    tokens = bench.live_tokens(5)
    await asked(bench, peer, "subscribe", tokens)
    messages = await gathered(peer, 1, updates_of, REPLY_S + bench.facts.update_interval_s)
    bench.require(updates_of(messages), "XC.default", "no update came of a subscribe without channels", peer)
    other = [message for message in messages if message.type in _OTHERS]
    bench.require(not other, "XC.default", f"a subscribe without channels brought {len(other)} others", peer)
    await asked(bench, peer, "subscribe", tokens, "trades")
    await traded(bench, peer)
    await asked(bench, peer, "unsubscribe", tokens)
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
    peer = await granted(bench)
    await asked(bench, peer, "subscribe", bench.live_tokens(5), "trades")
    await traded(bench, peer)
    await peer.collect(10.0)
    problem = trade_problem(trades_of(peer.messages))
    bench.require(problem is None, *(problem or ("", "")), peer)


@SERVER.case(
    "S-XC-03", "ext.channels", "XC.klines", "XC.kline-closed",
    sends="a subscribe to 5 tokens with the channel klines:1m; then nothing until one bar follows another",
    expects="each bar has the interval 1m, times in UTC and prices within low and high; an open one comes at most "
    "every 250 ms; before the next bar of a token comes the last one with closed true, sent behind its close_time, "
    "and never open again; where details is granted the version rises each time, also with the closing, and when a "
    "late trade corrects a closed bar",
    why="A chart draws each revision, and keeps the last: it has to be the final one.", deadline_s=150.0,
)  # fmt: skip
async def klines(bench: Bench) -> None:
    """Bars have their fields, come at most every 250 ms, come closed before the next, and their versions rise."""
    peer = await granted(bench)
    await asked(bench, peer, "subscribe", bench.live_tokens(5), "klines:1m")
    messages = await gathered(peer, 1, lambda ms: stamped(ms, "kline"), WAIT_S)
    bench.need(stamped(messages, "kline"), f"none of 5 tokens had a bar within {WAIT_S:g} s: name busier ones")
    await gathered(peer, 1, lambda ms: len(_open_times(ms)) > 1, _BAR_S)
    await peer.collect(SLACK_S)
    bars = stamped(peer.messages, "kline")
    intervals = {str(bar.get("interval")) for _, bar in bars}
    bench.require(intervals == {"1m"}, "XC.klines", f"bars of {intervals} came, not of 1m", peer)
    problem = kline_problem(bars)
    bench.require(problem is None, *(problem or ("", "")), peer)


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
    peer = await granted(bench)
    pairs = (peer.limit - 1) // 2
    first, *rest = bench.tokens(pairs + 2)
    full, more = rest[:pairs], rest[pairs]
    if peer.limit - 2 * pairs == 2:  # an even limit: one place is to stay
        await asked(bench, peer, "subscribe", [first])
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
    peer = await granted(bench)
    tokens = bench.tokens(1)
    for wrong in (["nonsense"], "trades"):
        mark = len(peer.messages)
        answer = await peer.subscribe(tokens, REPLY_S / 2, channels=wrong)
        bench.require(not answer.accepted(), "EH.invalid-message", f"channels {shown(wrong)} was accepted", peer)
        found = codes(peer.messages[mark:])
        bench.require(found, "EH.invalid-message", f"channels {shown(wrong)} was not answered with an error", peer)
    bench.require((await peer.subscribe(tokens)).accepted(), "XC.default", "no success any more", peer)


@SERVER.case(
    "S-XC-06", "ext.channels", "XC.trades", "XC.klines", "XC.book", "XC.set-members",
    sends="a subscribe to 5 tokens with token, trades and klines:1m, one to them with book:5, one to set:new:5; what "
    "other cases received is looked at as well",
    expects="every transaction, transaction_batch, kline, book and set is valid by its schema in extended/server",
    why="A client reads them by their schema.", over_run=True, deadline_s=60.0,
)  # fmt: skip
async def shape(bench: Bench) -> None:
    """Every trade, bar, book and set has the shape of its schema."""
    peer = await granted(bench)
    tokens = bench.live_tokens(5)
    await asked(bench, peer, "subscribe", tokens, "token", "trades", "klines:1m")
    await peer.subscribe(tokens, channels=["book:5"])  # which some or all may not have
    await peer.subscribe(["set:new:5"])
    await gathered(peer, 1, lambda ms: trades_of(ms) and stamped(ms, "kline"), WAIT_S)
    judged = expect_shapes(
        bench, [*bench.histories, *bench.run_histories], "channels",
        {
            "transaction": "XC.trades", "transaction_batch": "XC.trades", "kline": "XC.klines", "book": "XC.book",
            "set": "XC.set-members",
        },
    )  # fmt: skip
    bench.need(judged, f"no trade, bar, book or set came within {WAIT_S:g} s: name busier tokens")


@SERVER.case(
    "S-XC-07", "ext.channels", "XC.unknown",
    sends='subscribes to 2 tokens with the channels ["trades", "book:101"], with ["token", "klines:9999w"] and with '
    '["token:1"]; then one to a third token',
    expects="both tokens are refused each time, whole, with UNKNOWN_CHANNEL; the third is accepted, and (where details "
    "is granted) active is 1",
    why="A client that gets the trades and never the book it asked for would wait for it.", deadline_s=30.0,
)  # fmt: skip
async def unknown_channel(bench: Bench) -> None:
    """A channel that a token has not is UNKNOWN_CHANNEL, and the token is refused whole."""
    peer = await granted(bench)
    *both, third = bench.tokens(3)
    for wrong in _NOBODYS:
        answer = await peer.subscribe(both, channels=wrong)
        bench.require(not answer.accepted(), "XC.unknown", f"{shown(wrong)} was accepted", peer)
        seen = answer.codes()
        bench.require(set(seen) == {"UNKNOWN_CHANNEL"}, "XC.unknown", f"{shown(wrong)} has {shown(seen)}", peer)
        refused = answer.refused()
        bench.require(set(refused) == set(both), "XC.unknown", f"of 2 tokens {shown(refused)} were refused", peer)
    answer = await peer.subscribe([third])
    bench.require(answer.accepted(), "XC.unknown", "a subscribe without channels was refused then", peer)
    active = [m.data.get("active") for m in answer.of("subscription")]
    bench.require("details" not in peer.granted or active == [1], "XC.unknown", f"active is {shown(active)}", peer)


@SERVER.case(
    "S-XC-08", "ext.channels", "XC.answered", "XC.counted",
    sends="a subscribe to 2 tokens with token, trades and klines:1m; an unsubscribe of one of them with trades",
    expects="the successes name the channels of their requests; active, where details is granted, is 6, then 5",
    why="A client with several requests under way reads from the answer what it holds.",
)  # fmt: skip
async def answered(bench: Bench) -> None:
    """A success names the channels of its request, and active counts pairs."""
    peer = await granted(bench)
    tokens = bench.tokens(2)
    for action, names, channels, held in (
        ("subscribe", tokens, ["token", "trades", "klines:1m"], 6),
        ("unsubscribe", tokens[:1], ["trades"], 5),
    ):
        answer = await peer.request(action, names, channels=channels)
        bench.require(answer.accepted(), "XC.answered", f"no success for {action}: {answer.codes()}", peer)
        for message in answer.of("subscription"):
            named = message.data.get("channels")
            is_same = isinstance(named, list) and set(map(str, named)) == set(channels)
            bench.require(is_same, "XC.answered", f"channels is {shown(named)}, not {shown(channels)}", peer)
            active = message.data.get("active")
            is_held = "details" not in peer.granted or active == held
            bench.require(is_held, "XC.counted", f"active is {shown(active)}, with {held} pairs held", peer)
