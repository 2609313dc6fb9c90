"""MS: how many subscriptions a connection may hold, and how many a message."""

import asyncio

from tokenwire_conformance.figures import MAX_BATCH, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench, made_up_name
from tokenwire_conformance.server.peer import Answer, Peer
from tokenwire_conformance.wire.messages import shown

__all__: list[str] = []

_PART = 100  # names in one message
_FILL_S = 20.0  # of the cases' 40 s; the specification does not say how long an answer may take


@SERVER.case(
    "S-MS-06", "core", "MS.again",
    sends="subscribes until maxSubscriptions tokens are held, then one of them again",
    expects="the last one is answered with success",
    why="What is held already takes no further place, so a full connection can still be repaired.",
    deadline_s=40,
)  # fmt: skip
async def again_takes_no_place(bench: Bench) -> None:
    """Subscribing again takes no further place."""
    peer = await bench.strict()
    tokens = bench.tokens(_limit(bench, peer))
    await _fill(bench, peer, tokens)
    answer = await peer.subscribe(tokens[:1])
    bench.require(answer.accepted(), "MS.again", f"on a full connection it was answered with {_told(answer)}", peer)


@SERVER.case(
    "S-MS-15", "core", "MS.limit-enforced",
    sends="subscribes until maxSubscriptions tokens are held, then one with a further token",
    expects="the successes of the connection name no more tokens than maxSubscriptions",
    why="What the server announces it has to keep, or the number is worthless to both sides.",
    deadline_s=40,
)  # fmt: skip
async def limit_enforced(bench: Bench) -> None:
    """No more subscriptions are held than were announced."""
    peer = await bench.strict()
    limit = _limit(bench, peer)
    tokens = bench.tokens(limit + 1)
    held = set(map(repr, await _fill(bench, peer, tokens[:limit])))
    answer = await peer.subscribe(tokens[limit:])
    held |= set(map(repr, answer.accepted()))
    told = f"{len(held)} tokens are held where maxSubscriptions is {limit}"
    bench.require(len(held) <= limit, "MS.limit-enforced", told, peer)


@SERVER.case(
    "S-MS-16", "core", "MS.limit-told",
    sends="one subscribe with one token more than maxSubscriptions",
    expects="all but the last in a success, in order; the last refused, with one error message SUBSCRIPTION_LIMIT",
    why="A client that is over the limit should get what there is room for, and know which tokens it lacks.",
)  # fmt: skip
async def limit_told(bench: Bench) -> None:
    """Beyond the limit tokens are refused with SUBSCRIPTION_LIMIT."""
    peer = await bench.strict()
    limit = _limit(bench, peer)
    bench.need(limit < MAX_BATCH, f"maxSubscriptions is {limit}: more than fit into one message")
    tokens = bench.tokens(limit + 1)
    answer = await peer.subscribe(tokens)
    told = f"{len(answer.accepted())} of {limit + 1} were accepted, refused were {shown(answer.refused())}"
    fits = len(answer.accepted()) == limit and answer.refused() == tokens[limit:]
    bench.require(fits, "MS.limit-told", told, peer)
    bench.require(
        answer.codes() == ["SUBSCRIPTION_LIMIT"], "MS.limit-told", f"the codes were {shown(answer.codes())}", peer
    )


@SERVER.case(
    "S-MS-17", "core", "MC.limit-counts-tokens", "MS.limit-told",
    sends="subscribes until maxSubscriptions tokens are held and one with a further token; an unsubscribe of a token "
    "that is held; the further one again",
    expects="the further token is refused at first, and accepted after the unsubscribe",
    why="maxSubscriptions counts what is held now, not what was ever asked for.",
    deadline_s=40,
)  # fmt: skip
async def room_again(bench: Bench) -> None:
    """An unsubscribe makes room for another token."""
    peer = await bench.strict()
    limit = _limit(bench, peer)
    tokens = bench.tokens(limit + 1)
    await _fill(bench, peer, tokens[:limit])
    full = await peer.subscribe(tokens[limit:])
    bench.require(not full.accepted(), "MS.limit-told", f"a full connection answered with {_told(full)}", peer)
    await peer.unsubscribe(tokens[:1])
    answer = await peer.subscribe(tokens[limit:])
    told = f"after an unsubscribe a further token was answered with {_told(answer)}"
    bench.require(answer.accepted(), "MC.limit-counts-tokens", told, peer)


@SERVER.case(
    "S-MS-21", "limits", "MS.batch-limit",
    sends=f"one subscribe with {MAX_BATCH + 1} names, tokens with values among the first; then one with a single token",
    expects="an error message BATCH_LIMIT, no subscription message, and no value within an update interval; the "
    "second request is answered",
    why="A request that is too large is refused as a whole, so that its sender need not guess what was applied.",
    deadline_s=45,
)  # fmt: skip
async def batch_limit(bench: Bench) -> None:
    """More than 1000 tokens are BATCH_LIMIT, and nothing is applied."""
    peer = await bench.strict()
    tokens = bench.live_tokens(max(1, min(5, len(bench.facts.live))))
    answer = await peer.subscribe([*tokens, *(made_up_name("Batch") for _ in range(MAX_BATCH + 1 - len(tokens)))])
    told = f"{len(answer.accepted())} accepted, {len(answer.refused())} refused, the codes {shown(answer.codes())}"
    fits = answer.codes() == ["BATCH_LIMIT"] and not answer.of("subscription")
    bench.require(fits, "MS.batch-limit", f"{MAX_BATCH + 1} names were answered with {told}", peer)
    came = [*answer.messages, *await peer.collect(bench.facts.update_interval_s + SLACK_S)]
    applied = [m for m in came if m.type == "token_update"]
    bench.require(not applied, "MS.batch-limit", f"{len(applied)} updates came of the refused request", peer)
    after = await peer.subscribe(tokens[:1])
    bench.require(after.of("subscription"), "MS.batch-limit", "the connection serves no further request", peer)


# --- helpers -----------------------------------------------------------------------------------------------
def _limit(bench: Bench, peer: Peer) -> int:
    bench.need(1 <= peer.limit <= MAX_BATCH, f"maxSubscriptions is {peer.limit}: not to be reached in this case")
    return peer.limit


async def _fill(bench: Bench, peer: Peer, tokens: list[str]) -> list[object]:
    """Subscribe to ``tokens`` in parts and return what was accepted.

    Raises:
        NotTestableError: Not all of them.
    """
    held: list[object] = []
    begun_s = peer.opened_s
    for begin in range(0, len(tokens), _PART):
        spent_s = asyncio.get_running_loop().time() - begun_s
        told = f"after {spent_s:.0f} s {len(held)} of {len(tokens)} tokens are accepted: too slow to judge"
        bench.need(spent_s < _FILL_S, told)
        held += (await peer.subscribe(tokens[begin : begin + _PART])).accepted()
    told = f"of {len(tokens)} tokens, no more than maxSubscriptions, {len(held)} were accepted"
    bench.need(len(set(map(repr, held))) >= len(tokens), told, peer)
    return held


def _told(answer: Answer) -> str:
    """What came, for a report; values are left out."""
    texts = [message.brief() for message in answer.messages if message.type != "token_update"]
    return "; ".join(texts[:4]) or answer.ending or "silence"
