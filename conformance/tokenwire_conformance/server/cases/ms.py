"""MS: subscribing and unsubscribing, in the limits of a strict client."""

from collections.abc import Iterable

from tokenwire_conformance.figures import MAX_SUBSCRIPTIONS, QUIET_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench, made_up_name
from tokenwire_conformance.server.checkers import subscription_data
from tokenwire_conformance.server.over_run import evidence, report
from tokenwire_conformance.server.peer import Answer
from tokenwire_conformance.wire.messages import Received, shown

__all__: list[str] = []

_AT_ONCE_S = 1.0
_NOT_A_NAME = 17


# --- what a subscription is answered with ------------------------------------------------------------------
@SERVER.case(
    "S-MS-01", "core", "MS.answered", "MS.subscribe",
    sends="a subscribe with one token",
    expects="a subscription message with the action subscribe and the status success",
    why="Without an answer a client cannot know whether its values will come.",
)  # fmt: skip
async def subscribe_answered(bench: Bench) -> None:
    """A subscribe is answered with success."""
    peer = await bench.strict()
    answer = await peer.subscribe(bench.tokens(1))
    bench.require(answer.of("subscription"), "MS.answered", f"no subscription message came, but {_told(answer)}", peer)
    fits = answer.of("subscription", action="subscribe", status="success")
    bench.require(fits, "MS.subscribe", f"the answer was {_told(answer)}", peer)


@SERVER.case(
    "S-MS-02", "core", "MS.answered", "MS.unsubscribe",
    sends="a subscribe with one token, then an unsubscribe with the same",
    expects="the second is answered by a subscription message with the action unsubscribe and the status success",
    why="Only an answer tells a client that values still to come are none of its business.",
)  # fmt: skip
async def unsubscribe_answered(bench: Bench) -> None:
    """An unsubscribe is answered with success."""
    peer = await bench.strict()
    tokens = bench.tokens(1)
    await peer.subscribe(tokens)
    answer = await peer.unsubscribe(tokens)
    bench.require(answer.of("subscription"), "MS.answered", f"no subscription message came, but {_told(answer)}", peer)
    fits = answer.of("subscription", action="unsubscribe", status="success")
    bench.require(fits, "MS.unsubscribe", f"the answer was {_told(answer)}", peer)


@SERVER.case(
    "S-MS-03", "core", "PF.batching", "MS.subscribe",
    sends="one subscribe with three tokens",
    expects="all three are named in subscription messages with the status success",
    why="tokens is a list: a client need not send a message for each.",
)  # fmt: skip
async def several_tokens(bench: Bench) -> None:
    """Several tokens in one message are all taken."""
    await _all_taken(bench, 3)


@SERVER.case(
    "S-MS-04", "core", "PF.batching", "MS.subscribe",
    sends=f"one subscribe with {MAX_SUBSCRIPTIONS} tokens, where maxSubscriptions allows as many",
    expects="all of them are named in subscription messages with the status success",
    why="A client that reconnects asks for everything it had at once.",
)  # fmt: skip
async def hundred_tokens(bench: Bench) -> None:
    """A hundred tokens in one message are all taken."""
    await _all_taken(bench, MAX_SUBSCRIPTIONS)


async def _all_taken(bench: Bench, count: int) -> None:
    peer = await bench.strict()
    bench.need(peer.limit >= count, f"maxSubscriptions is {peer.limit}, and the case needs {count}")
    answer = await peer.subscribe(bench.tokens(count))
    bench.require(answer.accepted(), "MS.subscribe", f"the answer was {_told(answer)}", peer)
    taken = len(set(map(repr, answer.accepted())))
    bench.require(taken >= count, "PF.batching", f"{taken} of {count} tokens were accepted", peer)


@SERVER.case(
    "S-MS-05", "core", "MS.again",
    sends="the same subscribe with one token twice",
    expects="both are answered with success",
    why="A client repairs a doubtful state by asking again; that must not be an error.",
)  # fmt: skip
async def again_succeeds(bench: Bench) -> None:
    """Subscribing again succeeds."""
    peer = await bench.strict()
    tokens = bench.tokens(1)
    await peer.subscribe(tokens)
    answer = await peer.subscribe(tokens)
    bench.require(answer.accepted(), "MS.again", f"the second subscribe was answered with {_told(answer)}", peer)


@SERVER.case(
    "S-MS-23", "core", "MS.again",
    sends="a subscribe with a token that has a value, then three times the same again, a second apart",
    expects="each is followed by a token_update of it within a second",
    why="So a client repairs a value that it lost, whatever the token does meanwhile.",
)  # fmt: skip
async def again_sends_value(bench: Bench) -> None:
    """Subscribing again sends the value again."""
    peer = await bench.strict()
    tokens = bench.live_tokens(1)
    await peer.subscribe(tokens)
    bench.need(
        _updated([*peer.messages, *await peer.collect(_AT_ONCE_S)]), "the first subscribe brought no value", peer
    )
    # A tick may come by chance in one of the three waits, not in all.
    for _ in range(3):
        answer = await peer.subscribe(tokens)
        came = [*answer.messages, *await peer.collect(_AT_ONCE_S - QUIET_S)]
        bench.require(_updated(came), "MS.again", "no value followed another subscribe", peer)
        await peer.collect(0.3)


@SERVER.case(
    "S-MS-07", "core", "MS.repetitions",
    sends="one subscribe that names a token three times and another once",
    expects="the answer names each of the two exactly once",
    why="Subscriptions are a set; a list with repetitions means the same set.",
)  # fmt: skip
async def repetitions(bench: Bench) -> None:
    """A token named several times is answered once."""
    peer = await bench.strict()
    one, two = bench.tokens(2)
    answer = await peer.subscribe([one, two, one, one])
    told = f"the answer was {_told(answer)}"
    bench.require(len(answer.accepted()) == 2 and not answer.refused(), "MS.repetitions", told, peer)
    bench.require(len(set(map(repr, answer.accepted()))) == 2, "MS.repetitions", told, peer)


@SERVER.case(
    "S-MS-08", "core", "MS.not-held",
    sends="an unsubscribe of a token that was not subscribed to",
    expects="a subscription message with the status success that names it",
    why="The state asked for is reached, so there is nothing to refuse.",
)  # fmt: skip
async def unsubscribe_not_held(bench: Bench) -> None:
    """Unsubscribing what is not held succeeds."""
    peer = await bench.strict()
    answer = await peer.unsubscribe(bench.tokens(1))
    fits = len(answer.accepted()) == 1 and answer.of("subscription", action="unsubscribe", status="success")
    bench.require(fits, "MS.not-held", f"it was answered with {_told(answer)}", peer)


@SERVER.case(
    "S-MS-09", "core", "MS.not-held",
    sends="an unsubscribe of a made-up name",
    expects="a subscription message with the status success that holds the name as it was given",
    why="A token that the server has dropped must not make a client's clean-up fail.",
)  # fmt: skip
async def unsubscribe_unknown(bench: Bench) -> None:
    """Unsubscribing an unknown name succeeds."""
    peer = await bench.strict()
    name = made_up_name("Unknown")
    answer = await peer.unsubscribe([name])
    bench.require(answer.accepted() == [name], "MS.not-held", f"it was answered with {_told(answer)}", peer)


# --- refusals ----------------------------------------------------------------------------------------------
@SERVER.case(
    "S-MS-10", "core", "MS.unknown-token",
    sends="a subscribe with a made-up name",
    expects="a subscription message with the status error that holds the name, and an error message",
    why="A mistyped token that is taken in silence would never have a value. A server may accept any name, though: "
    "against one that does the case is skipped.",
)  # fmt: skip
async def unknown_token(bench: Bench) -> None:
    """An unknown token is refused and told."""
    peer = await bench.strict()
    name = bench.unknown()
    answer = await peer.subscribe([name])
    told = f"it was answered with {_told(answer)}"
    bench.require(answer.refused() == [name] and not answer.accepted(), "MS.unknown-token", told, peer)
    bench.require(answer.of("error"), "MS.unknown-token", f"no error message came, but {_told(answer)}", peer)


@SERVER.case(
    "S-MS-11", "core", "EH.partial-failure", "EH.bad-name-alone", "MS.answered",
    sends="one subscribe with a token that can be had and a made-up name, then a subscribe with another token",
    expects="the first is answered and has the good token in a success; the second is answered as well",
    why="One delisted token must not cost a client all the others.",
)  # fmt: skip
async def good_and_unknown(bench: Bench) -> None:
    """A good and an unknown token in one message: the good one is taken."""
    await _partial(bench, bench.unknown())


@SERVER.case(
    "S-MS-12", "core", "EH.partial-failure", "MS.invalid-token", "MS.answered",
    sends=f"one subscribe with a token that can be had and the number {_NOT_A_NAME}, then one with another token",
    expects="the first is answered, has the good token in a success, and an error message with the code "
    "INVALID_TOKEN; the second is answered as well",
    why="An entry that is not a name is refused by itself and not together with its message.",
)  # fmt: skip
async def good_and_no_name(bench: Bench) -> None:
    """A good token and a number in one message: the good one is taken."""
    answer = await _partial(bench, _NOT_A_NAME, "MS.invalid-token")
    codes = answer.codes()
    bench.expect("INVALID_TOKEN" in codes, "MS.invalid-token", f"the codes of the error messages were {shown(codes)}")


async def _partial(bench: Bench, bad: object, clause: str = "EH.bad-name-alone") -> Answer:
    peer = await bench.strict()
    good, other = bench.tokens(2)
    answer = await peer.subscribe([good, bad])
    told = [m for m in answer.messages if m.type in {"subscription", "error"}]
    bench.require(told, "EH.partial-failure", f"a good and a bad name were not answered: {_told(answer)}", peer)
    bench.expect(len(answer.accepted()) == 1, clause, f"good and bad were answered with {_told(answer)}", peer)
    after = await peer.subscribe([other])
    told_end = f"after a good and a bad name: {peer.ending()}"
    bench.require(peer.ended_s is None, "EH.partial-failure", told_end, peer)
    bench.require(after.of("subscription"), "MS.answered", "the request behind was not answered", peer)
    return answer


@SERVER.case(
    "S-MS-13", "core", "MS.no-tokens",
    sends="a subscribe whose tokens are an empty list",
    expects="an error message with the code INVALID_MESSAGE, and no subscription message",
    why="An empty request is a mistake of the program that sent it, which should learn of it.",
)  # fmt: skip
async def no_tokens(bench: Bench) -> None:
    """A request without any token is INVALID_MESSAGE."""
    peer = await bench.strict()
    await peer.send_json(peer.subscription("subscribe", []))
    answer = await peer.answer(lambda answer: bool(answer.messages))
    fits = answer.codes() == ["INVALID_MESSAGE"] and not answer.of("subscription")
    bench.require(fits, "MS.no-tokens", f"it was answered with {_told(answer)}", peer)


@SERVER.case(
    "S-MS-14", "core", "MS.refused-echo",
    sends=f"one subscribe with the number {_NOT_A_NAME}, null, and a string of 300 characters",
    expects=f'the refused names come back as "{_NOT_A_NAME}", "null" and the first 256 of the characters',
    why="A client finds what was refused by comparing, so the form has to be known.",
)  # fmt: skip
async def refused_echo(bench: Bench) -> None:
    """A refused name comes back as it was given."""
    peer = await bench.strict()
    long = "x" * 300
    answer = await peer.subscribe([_NOT_A_NAME, None, long])
    wanted = [str(_NOT_A_NAME), "null", long[:256]]
    bench.require(answer.refused() == wanted, "MS.refused-echo", f"it was answered with {_told(answer)}", peer)


# --- the form of answers -----------------------------------------------------------------------------------
@SERVER.case(
    "S-MS-18", "core", "MS.answer-order",
    sends=f"a subscribe with a token and the number {_NOT_A_NAME}, then one with the token alone",
    expects="to the first success, error, one error message, then values; to the second success and then values",
    why="A client that knows the order can tell where an answer ends.",
)  # fmt: skip
async def answer_order(bench: Bench) -> None:
    """An answer comes in the order success, error, error messages, values."""
    peer = await bench.strict()
    good = bench.tokens(1)
    for tokens, wanted in (
        ([_NOT_A_NAME, *good], ["subscription success", "subscription error", "error"]),
        (good, ["subscription success"]),
    ):
        # What is held already may have a value at any time, so only a first subscribe shows where values begin.
        answer = await peer.subscribe(tokens)
        kinds = [f"{m.type} {m.data.get('status')}" if m.type == "subscription" else m.type for m in answer.messages]
        replies = [kind for kind in kinds if kind != "token_update"]
        bench.require(replies == wanted, "MS.answer-order", f"{shown(tokens)} was answered with {shown(replies)}", peer)
        early = tokens is not good and "token_update" in kinds[: len(wanted)]
        bench.require(
            not early, "MS.answer-order", f"a value came before the end of the answer: {shown(kinds[:9])}", peer
        )


@SERVER.case(
    "S-MS-19", "core", "MS.answer-addresses",
    sends="one subscribe with five tokens",
    expects="one success whose tokens are the same five, in the order of the request",
    why="By the order a client learns which address stands for which of its names.",
)  # fmt: skip
async def answer_addresses(bench: Bench) -> None:
    """success lists the tokens in the order of the request."""
    peer = await bench.strict()
    count = 5
    bench.need(peer.limit >= count, f"maxSubscriptions is {peer.limit}, and the case needs {count}")
    names = bench.tokens(count)
    tokens = [names[index] for index in (3, 0, 4, 1, 2)]
    answer = await peer.subscribe(tokens)
    listed = [m.data.get("tokens") for m in answer.of("subscription", status="success")]
    bench.require(listed == [tokens], "MS.answer-addresses", f"{shown(tokens)} was answered with {shown(listed)}", peer)


@SERVER.case(
    "S-MS-20", "core", "MS.starts-empty",
    sends="a subscribe with tokens that have values, and a close; on a new connection nothing for an update interval, "
    "then a subscribe",
    expects="on the new connection no token_update before its own subscribe, which is answered",
    why="A client keeps its list and asks again; values of what it no longer wants would only confuse it.",
    deadline_s=45,
)  # fmt: skip
async def starts_empty(bench: Bench) -> None:
    """A new connection has no subscriptions."""
    tokens = bench.live_tokens(max(1, min(5, len(bench.facts.live))))
    first = await bench.strict()
    await first.subscribe(tokens)
    await first.close()
    peer = await bench.strict()
    came = [m for m in await peer.collect(bench.facts.update_interval_s + SLACK_S) if m.type == "token_update"]
    bench.require(not came, "MS.starts-empty", f"unasked came {came[0].brief() if came else ''}", peer)
    answer = await peer.subscribe(tokens[:1])
    bench.require(answer.of("subscription"), "MS.starts-empty", "the connection serves no subscribe", peer)


# --- the whole run -----------------------------------------------------------------------------------------
@SERVER.case(
    "S-MS-22", "core", "MS.action", "MS.tokens", "MS.status", "MS.fields",
    sends="nothing of its own, unless no other case was run",
    expects="the data of every subscription message of the run holds exactly action (subscribe or unsubscribe), "
    "tokens (a list of strings) and status (success or error)",
    why="A client that checks what it reads against the specification must not stumble.",
    deadline_s=30, over_run=True,
)  # fmt: skip
async def answers_well_formed(bench: Bench) -> None:
    """Every answer to a subscription has the fields of the specification."""
    clauses = {"MS.action", "MS.tokens", "MS.status", "MS.fields"}
    found = await evidence(bench, "MS.action")
    some = any(m.type == "subscription" for history in found for m in history.peer.messages)
    bench.require(some, "MS.action", "no subscription message came on any connection")
    report(bench, ((h, f) for h in found for f in subscription_data(h.peer.messages) if f.clause in clauses))


# --- helpers -----------------------------------------------------------------------------------------------
def _updated(messages: Iterable[Received]) -> bool:
    return any(message.type == "token_update" for message in messages)


def _told(answer: Answer) -> str:
    """What came, for a report; values are left out."""
    texts = [message.brief() for message in answer.messages if message.type != "token_update"]
    return "; ".join(texts[:4]) or answer.ending or "silence"
