"""MU: token updates: whether they come, of which tokens, and what is in them."""

import asyncio
from collections import Counter
from collections.abc import Iterable

from tokenwire_conformance.figures import SLACK_S
from tokenwire_conformance.server.beat import observe
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.checkers import only_subscribed, update_data
from tokenwire_conformance.server.over_run import evidence, report
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.messages import Received, shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []

_AT_ONCE_S = 1.0
_OFF_BEAT_S = 0.75
_LONGEST_S = 10.0  # update interval for which the deadlines of these cases are made


@SERVER.case(
    "S-MU-01", "core", "MU.first-value",
    sends="a subscribe with up to five tokens that have values",
    expects="a token_update of each within a second of the answer",
    why="A page that was just opened should not stay empty for an interval.",
)  # fmt: skip
async def first_value(bench: Bench) -> None:
    """The newest value follows a subscribe at once."""
    peer = await bench.strict()
    tokens = _live(bench, peer, 5)
    answer = await peer.subscribe(tokens)
    bench.require(answer.accepted(), "MU.first-value", "the subscribe was not answered with success", peer)
    # Whether the addresses are those of the answer is up to another case.
    came = {str(m.data.get("address")) for m in _updates([*answer.messages, *await peer.collect(_AT_ONCE_S)])}
    told = f"{len(came)} of {len(tokens)} tokens had a value within {_AT_ONCE_S:g} s"
    bench.require(len(came) >= len(tokens), "MU.first-value", told, peer)


@SERVER.case(
    "S-MU-02", "core", "MU.delivered",
    sends="a subscribe with up to twenty tokens that have values",
    expects="within three update intervals at least one of them has a second token_update",
    why="Fresh values are what the service is for. Tokens that the user named are taken to change; if they are not "
    "named and none changes, the case is skipped.",
    deadline_s=45,
)  # fmt: skip
async def updates_delivered(bench: Bench) -> None:
    """Updates of tokens that change are delivered."""
    peer = await bench.strict()
    interval_s = _interval(bench)
    tokens = _live(bench, peer, 20)
    answer = await peer.subscribe(tokens)
    # An answer may name a symbol where the updates name an address, so any address counts once it is there.
    if await _repeated(peer, None if answer.accepted() else tokens, 3 * interval_s + SLACK_S):
        return
    told = f"no token had a second update within three intervals of {interval_s:g} s"
    bench.need(bench.facts.given, f"{told}: name tokens that change with --tokens", peer)
    bench.fail("MU.delivered", told, peer)


@SERVER.case(
    "S-MU-03", "core", "MU.only-subscribed",
    sends="on one connection a subscribe with up to ten tokens, on another with one other token",
    expects="for an update interval no token_update on the second connection has an address of the first one's",
    why="A connection's subscriptions are its own: others' values cost bandwidth and are noise.",
    deadline_s=45,
)  # fmt: skip
async def own_subscriptions(bench: Bench) -> None:
    """A subscription on one connection sends nothing to another."""
    one, two = await bench.strict(), await bench.strict()
    tokens = _live(bench, one, 11)
    bench.need(len(tokens) > 1, "needs two tokens with values: name more with --tokens")
    own, others = tokens[0], tokens[1:]
    answer = await two.subscribe([own])
    bench.require(answer.of("subscription"), "MU.only-subscribed", "the subscribe was not answered", two)
    await one.subscribe(others)
    await one.collect(_interval(bench) + SLACK_S)
    bench.need(_updates(one.messages), "no value came on the connection that subscribed", one)
    # The token of the one is none of the other's, so they have no address in common, whatever its form.
    common = set(map(_address, _updates(two.messages))) & {
        *map(str.casefold, others),
        *map(_address, _updates(one.messages)),
    }
    told = f"with one token subscribed to there came updates of the other connection's: {shown(sorted(common))}"
    bench.require(not common, "MU.only-subscribed", told, two)


# --- what is in them, over the whole run -------------------------------------------------------------------
_OVER_RUN_SENDS = "nothing of its own, unless no other case was run"


@SERVER.case(
    "S-MU-04", "core", "MU.price", "MU.market-cap", "MU.address",
    sends=_OVER_RUN_SENDS,
    expects="in every token_update of the run address, price and marketCap are strings, the last two decimal numbers",
    why="A number of JSON would be read into a binary double and lose digits.",
    deadline_s=30, over_run=True,
)  # fmt: skip
async def price_and_market_cap(bench: Bench) -> None:
    """Price and market cap are decimal strings."""
    await _judge_updates(bench, "MU.price", "MU.market-cap", "MU.address")


@SERVER.case(
    "S-MU-05", "core", "MU.volume",
    sends=_OVER_RUN_SENDS,
    expects="in every token_update of the run volume is an object whose h24, h1 and m5 are strings",
    why="Volumes are decimal strings for the same reason as prices.",
    deadline_s=30, over_run=True,
)  # fmt: skip
async def volume(bench: Bench) -> None:
    """Volume is an object of strings."""
    await _judge_updates(bench, "MU.volume")


@SERVER.case(
    "S-MU-06", "core", "MU.fields",
    sends=_OVER_RUN_SENDS,
    expects="the data of every token_update of the run holds exactly address, price, marketCap and volume, and volume "
    "exactly h24, h1 and m5",
    why="A strict client refuses a message that lacks a field or has one more.",
    deadline_s=30, over_run=True,
)  # fmt: skip
async def exact_fields(bench: Bench) -> None:
    """An update has exactly the fields of the specification."""
    await _judge_updates(bench, "MU.fields")


@SERVER.case(
    "S-MU-07", "core", "MU.canonical", "MU.volume-decimal",
    sends=_OVER_RUN_SENDS,
    expects="the numbers of every token_update of the run are digits with at most one point: no sign, no exponent, no "
    "leading or trailing zeros; the volumes too",
    why="Equal numbers then have equal texts, and any decimal type reads them.",
    deadline_s=30, over_run=True,
)  # fmt: skip
async def canonical(bench: Bench) -> None:
    """Decimal strings are canonical."""
    await _judge_updates(bench, "MU.canonical", "MU.volume-decimal")


@SERVER.case(
    "S-MU-08", "core", "MU.only-subscribed",
    sends=_OVER_RUN_SENDS,
    expects="every token_update of the run is of a token that a request or an answer on its connection named",
    why="Values nobody asked for are noise, and a sign that connections are mixed up.",
    deadline_s=30, over_run=True,
)  # fmt: skip
async def nothing_unasked(bench: Bench) -> None:
    """No update comes of a token that was not subscribed to."""
    found = await evidence(bench, "MU.only-subscribed")
    bench.need(any(_updates(h.peer.messages) for h in found), "no token_update came on any connection")
    sent = {id(h): [value for _, value in h.peer.sent_json] for h in found}
    findings = ((h, f) for h in found for f in only_subscribed(h.peer.messages, sent[id(h)]))
    report(bench, ((h, f) for h, f in findings if f.clause == "MU.only-subscribed"))


async def _judge_updates(bench: Bench, *clauses: str) -> None:
    found = await evidence(bench, clauses[0])
    bench.need(any(_updates(h.peer.messages) for h in found), "no token_update came on any connection")
    report(bench, ((h, f) for h in found for f in update_data(h.peer.messages) if f.clause in clauses))


# --- unsubscribing, and time --------------------------------------------------------------------------------
@SERVER.case(
    "S-MU-09", "core", "MU.none-after-unsubscribe",
    sends="a subscribe with up to ten tokens that have values, then an unsubscribe of all of them",
    expects="behind the answer to the unsubscribe no token_update, for an update interval",
    why="After the confirmation a client may forget the token, and an update would be of something it does not know.",
    deadline_s=45,
)  # fmt: skip
async def none_after_unsubscribe(bench: Bench) -> None:
    """No update comes behind the confirmation of an unsubscribe."""
    peer, at = await _unsubscribed(bench, "MU.none-after-unsubscribe")
    await peer.collect(_interval(bench) + SLACK_S)
    late = _updates(peer.messages[at:])
    told = f"behind the confirmation came {late[0].brief() if late else ''}"
    bench.require(not late, "MU.none-after-unsubscribe", told, peer)


@SERVER.case(
    "S-MU-10", "core", "MU.unsubscribed-stops",
    sends="a subscribe with up to ten tokens that have values, then an unsubscribe of all of them",
    expects="from an update interval and a second after the answer on, no token_update for another interval",
    why="Whatever was under way has arrived by then; what still comes was not unsubscribed.",
    deadline_s=45,
)  # fmt: skip
async def unsubscribed_stops(bench: Bench) -> None:
    """The updates of an unsubscribed token stop."""
    peer, _ = await _unsubscribed(bench, "MU.unsubscribed-stops")
    span_s = _interval(bench) + SLACK_S
    await peer.collect(span_s)
    late = _updates(await peer.collect(span_s))
    told = f"more than {span_s:g} s after the unsubscribe came {late[0].brief() if late else ''}"
    bench.require(not late, "MU.unsubscribed-stops", told, peer)


async def _unsubscribed(bench: Bench, clause: str) -> tuple[Peer, int]:
    """A peer whose tokens had values and were all unsubscribed, so that any update is one too many, and the place of
    the confirmation in its messages."""
    peer = await bench.strict()
    tokens = _live(bench, peer, 10)
    await peer.subscribe(tokens)
    if not _updates(peer.messages):
        await peer.collect(_interval(bench) + SLACK_S)
    bench.need(_updates(peer.messages), "no value came before the unsubscribe", peer)
    answer = await peer.unsubscribe(tokens)
    bench.require(answer.of("subscription"), clause, "the unsubscribe was not answered", peer)
    place = peer.messages.index(answer.of("subscription")[-1])
    return peer, place + 1


@SERVER.case(
    "S-MU-11", "core", "MU.address-form",
    sends="a subscribe with up to five tokens that have values",
    expects="the addresses of the token_updates are among those in the answer",
    why="The answer is where a client learns under which address a token's values will come.",
    deadline_s=30,
)  # fmt: skip
async def address_form(bench: Bench) -> None:
    """An update names its token as the answer to the subscribe did."""
    peer = await bench.strict()
    answer = await peer.subscribe(_live(bench, peer, 5))
    bench.require(answer.accepted(), "MU.address-form", "the subscribe was not answered with success", peer)
    if not _updates(peer.messages):
        await peer.collect(_interval(bench) + SLACK_S)
    updates = _updates(peer.messages)
    bench.need(updates, "no value came", peer)
    other = [m for m in updates if m.data.get("address") not in answer.accepted()]
    told = f"the answer named {shown(answer.accepted()[:2])}, and then came {other[0].brief() if other else ''}"
    bench.require(not other, "MU.address-form", told, peer)


@SERVER.case(
    "S-MU-12", "core", "MU.delivered",
    sends="a subscribe with a token that has a value, one with up to nineteen more, then an unsubscribe of the first",
    expects="within three update intervals a token_update of one of the others",
    why="Giving up one token must not cost the others. As with the updates themselves, tokens that the user named "
    "are taken to change.",
    deadline_s=50,
)  # fmt: skip
async def others_stay(bench: Bench) -> None:
    """Unsubscribing one token keeps the others."""
    peer = await bench.strict()
    interval_s = _interval(bench)
    tokens = _live(bench, peer, 20)
    bench.need(len(tokens) > 1, "needs two tokens with values: name more with --tokens")
    await peer.subscribe(tokens[:1])
    await peer.collect(_AT_ONCE_S)
    # An answer may name a symbol where the updates name an address.
    first = {tokens[0].casefold(), *map(_address, _updates(peer.messages))}
    await peer.subscribe(tokens[1:])
    await peer.collect(_AT_ONCE_S)
    bench.need(_updates(peer.messages), "the subscribes brought no value", peer)
    answer = await peer.unsubscribe(tokens[:1])
    bench.need(answer.accepted(), "the unsubscribe was not answered", peer)
    peer.unread()
    # Only what comes from here on counts: the first values are not proof that the others stay.
    try:
        await peer.until(lambda m: m.type == "token_update" and _address(m) not in first, 3 * interval_s + SLACK_S)
        return
    except (SilenceError, EndedError):
        pass
    told = "after the unsubscribe of one token no update of the others came within three intervals"
    bench.need(bench.facts.given, f"{told}: name tokens that change with --tokens", peer)
    bench.fail("MU.delivered", told, peer)


@SERVER.case(
    "S-MU-13", "timing", "MU.changed-only",
    sends="a subscribe with up to fifty tokens",
    expects="over five update intervals no token has three equal token_updates in a row",
    why="A token that rests costs nothing. Twice is fine: the tick behind the first value may repeat it.",
    deadline_s=75,
)  # fmt: skip
async def changed_only(bench: Bench) -> None:
    """A token that did not change is not sent."""
    peer = await bench.strict()
    tokens = bench.tokens(max(1, min(50, peer.limit, len(bench.facts.tokens))))
    answer = await peer.subscribe(tokens)
    bench.require(answer.accepted(), "MU.changed-only", "the subscribe was not answered with success", peer)
    await peer.collect(5 * _interval(bench) + SLACK_S)
    history: dict[str, list[object]] = {}
    for message in _updates(peer.messages):
        values = history.setdefault(str(message.data.get("address")), [])
        values.append(message.data)
        told = f"three equal updates in a row: {message.brief()}"
        bench.require(len(values) < 3 or not values[-1] == values[-2] == values[-3], "MU.changed-only", told, peer)
    bench.need(history, "no value came", peer)


@SERVER.case(
    "S-MU-14", "timing", "MU.once-an-interval",
    sends="a subscribe with up to fifty tokens that have values",
    expects="over five intervals, the first value apart, the time between two token_updates of a token is a multiple "
    "of the update interval, give or take 0.75 s",
    why="One beat for all tokens lets a server share its work among all who wait for it.",
    deadline_s=75,
)  # fmt: skip
async def on_the_beat(bench: Bench) -> None:
    """Updates come on a common beat, one for each token."""
    beat = await observe(bench)
    bench.need(beat.gaps, "no token had three updates: name tokens that change with --tokens", beat.peer)
    interval_s = beat.interval_s
    # A tick that came late is off the beat as it came; the timestamps have to say so, too.
    off = [gap.come_s for gap in beat.gaps if _is_off(gap.come_s, interval_s) and _is_off(gap.stamped_s, interval_s)]
    told = f"updates of a token came {off[0]:.2f} s apart, {len(off)} of {len(beat.gaps)} off the beat" if off else ""
    bench.require(not off, "MU.once-an-interval", told, beat.peer)


# --- helpers -----------------------------------------------------------------------------------------------
def _is_off(gap_s: float, interval_s: float) -> bool:
    return abs(gap_s - max(1, round(gap_s / interval_s)) * interval_s) > _OFF_BEAT_S


def _interval(bench: Bench) -> float:
    interval_s = bench.facts.update_interval_s
    bench.need(interval_s <= _LONGEST_S, f"the update interval of {interval_s:g} s is too long for this case")
    return interval_s


def _live(bench: Bench, peer: Peer, most: int) -> list[str]:
    """Up to ``most`` names with values, as many as the connection may hold, at least one."""
    count = min(most, len(bench.facts.live) or (most if bench.facts.given else 1), peer.limit)
    return bench.live_tokens(max(1, min(count, len(bench.facts.tokens))))


def _updates(messages: Iterable[Received]) -> list[Received]:
    return [message for message in messages if message.type == "token_update"]


async def _repeated(peer: Peer, tokens: Iterable[str] | None, seconds: float) -> bool:
    """Wait until an address, of ``tokens`` if given, had two updates."""
    loop = asyncio.get_running_loop()
    wanted = None if tokens is None else {name.casefold() for name in tokens}
    count = Counter(map(_address, _updates(peer.messages)))
    peer.unread()
    deadline_s = loop.time() + seconds
    while max((number for name, number in count.items() if wanted is None or name in wanted), default=0) < 2:
        try:
            count[_address(await peer.until("token_update", deadline_s - loop.time()))] += 1
        except (SilenceError, EndedError):
            return False
    return True


def _address(message: Received) -> str:
    return str(message.data.get("address")).casefold()
