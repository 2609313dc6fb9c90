"""XC: sets of tokens, whose members the server keeps."""

from collections import Counter
from typing import Final

from tokenwire_conformance.figures import SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.channel_checkers import set_problem, stamped
from tokenwire_conformance.server.channel_steps import WAIT_S, asked, granted
from tokenwire_conformance.server.extension import gathered, updates_of
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.messages import shown

__all__: list[str] = []

_SET: Final = "set:new:5"
_OFTEN: Final = 3
"""Values within two update intervals, the first one included, of a token that changes all the time."""
_TOPS: Final = tuple(f"set:top:{key}:{count}" for key in ("volumeM5", "volume", "price") for count in (3, 10))
_MOST_TRADED: Final = 100


async def _members(bench: Bench, peer: Peer, name: str) -> list[str]:
    """Subscribe to a set; its members, as told at first."""
    answer = await peer.subscribe([name])
    seen = answer.codes()
    bench.require(answer.accepted() == [name], "XC.set-members", f"{name} was not accepted; codes: {seen}", peer)
    messages = await gathered(peer, 1, lambda ms: any(m.type == "set" for m in ms))
    changes = [data for _, data in stamped(messages, "set")]
    bench.require(changes, "XC.set-members", f"no set message came of a subscribe to {name}", peer)
    return [address for data in changes for address in data.get("added") or () if isinstance(address, str)]


@SERVER.case(
    "S-XC-17", "ext.channels", "XC.set-members", "XC.set-own",
    sends=f"a subscribe to {_SET}; one to one of its members by name; an unsubscribe of the set; an unsubscribe of the "
    "member",
    expects="set lists 5 addresses at most before the first value of any, and values of no others come; behind the "
    "unsubscribe of the set only those of the member that is subscribed by its name",
    why="The client learns from set whose values it is to expect.", deadline_s=75.0,
)  # fmt: skip
async def members(bench: Bench) -> None:
    """The members of a set are told before their first value; what has a subscription of its own stays."""
    peer = await granted(bench)
    interval_s = bench.facts.update_interval_s + SLACK_S
    names = await _members(bench, peer, _SET)
    bench.require(len(names) <= 5, "XC.set-members", f"{_SET} has {len(names)} members", peer)
    bench.need(names, f"{_SET} is empty", peer)
    await peer.collect(2 * interval_s)
    problem = set_problem(peer.messages)
    bench.require(problem is None, *(problem or ("", "")), peer)
    valued = Counter(str(value.get("address")) for value in updates_of(peer.messages))
    bench.need(valued, f"no member of {_SET} had a value: its tokens are too quiet", peer)
    ((own, count),) = valued.most_common(1)
    await asked(bench, peer, "subscribe", [own], clause="XC.set-own")
    await asked(bench, peer, "unsubscribe", [_SET], clause="XC.set-members")
    behind = max(index for index, message in enumerate(peer.messages) if message.type == "subscription")
    await peer.collect(2 * interval_s)
    late = {str(value.get("address")) for value in updates_of(peer.messages[behind:])}
    told = f"values of {shown(sorted(late - {own}))} came behind the unsubscribe of {_SET}"
    bench.require(late <= {own}, "XC.set-members", told, peer)
    if count >= _OFTEN:
        bench.require(late, "XC.set-own", f"{own}, subscribed by its name, got no value behind it", peer)


@SERVER.case(
    "S-XC-18", "ext.channels", "XC.set-members",
    sends=f"a subscribe to {', '.join(_TOPS[:3])} and the like, and to one token by name; then nothing until members "
    "came and went, and an update interval more",
    expects="over all messages: members come once, only members go, size is how many there are, and values come only "
    "of tokens that are members then, or are subscribed by name; skipped where nothing changed",
    why="A ranking that changes unannounced leaves the client with rows that nobody updates any more.",
    deadline_s=75.0,
)  # fmt: skip
async def changes(bench: Bench) -> None:
    """A member that comes is told before its first value, one that goes after its last."""
    peer = await granted(bench)
    (own,) = bench.live_tokens(1)
    await asked(bench, peer, "subscribe", [own])
    await asked(bench, peer, "subscribe", list(_TOPS), clause="XC.set-members")
    interval_s = bench.facts.update_interval_s + SLACK_S
    messages = await gathered(peer, 1, lambda ms: any(data.get("removed") for _, data in stamped(ms, "set")), WAIT_S)
    await peer.collect(2 * interval_s)
    problem = set_problem(peer.messages, [own])
    bench.require(problem is None, *(problem or ("", "")), peer)
    moved = any(data.get("removed") for _, data in stamped(messages, "set"))
    bench.need(moved, f"no member of a set went within {WAIT_S:g} s", peer)


@SERVER.case(
    "S-XC-19", "ext.channels", "XC.set-counted", "XC.set-unknown",
    sends="a subscribe to as many tokens as leave one place free, one to set:all with trades, one to set:nonsense, one "
    f"to {_SET}, and one to a further token",
    expects=f"set:all is refused if it has more than {_MOST_TRADED} members, set:nonsense is refused with an error, "
    f"{_SET} takes the last place, and the further token is refused with SUBSCRIPTION_LIMIT",
    why="A set is one subscription, however many members it has; a misspelt one must not look like an empty one.",
    deadline_s=45.0,
)  # fmt: skip
async def set_counted(bench: Bench) -> None:
    """A set counts once, a set that does not exist is refused, and so are the trades of a large one."""
    peer = await granted(bench)
    *most, further = bench.tokens(peer.limit)
    accepted = (await peer.subscribe(most)).accepted()
    bench.require(len(accepted) == len(most), "XC.set-counted", f"of {len(most)} tokens {len(accepted)} came", peer)
    if len(set(bench.facts.tokens)) > _MOST_TRADED:
        answer = await peer.subscribe(["set:all"], channels=["trades"])
        is_refused = not answer.accepted() and answer.codes()
        bench.require(is_refused, "XC.set-unknown", "the trades of a set of more than 100 were accepted", peer)
    for wrong in ("set:nonsense", "set:top:nonsense:5"):
        answer = await peer.subscribe([wrong])
        bench.require(not answer.accepted(), "XC.set-unknown", f"{wrong} was accepted", peer)
        bench.require(answer.codes(), "XC.set-unknown", f"{wrong} was not answered with an error", peer)
    answer = await peer.subscribe([_SET])
    told = f"{_SET} was refused with one place left: {shown(answer.codes())}"
    bench.require(answer.accepted(), "XC.set-counted", told, peer)
    answer = await peer.subscribe([further])
    seen = answer.codes()
    bench.require(not answer.accepted(), "XC.set-counted", "more was accepted than there are places", peer)
    bench.require("SUBSCRIPTION_LIMIT" in seen, "XC.set-counted", f"the refusal has the codes {shown(seen)}", peer)
