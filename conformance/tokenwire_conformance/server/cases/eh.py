"""EH: what is refused, and that it is survived. The limits of rate and size have ``eh_limits``."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tokenwire_conformance.figures import PROTOCOL_ERRORS_MAX, REPLY_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.peer import NUMBER, TIME, Peer, tokens_of
from tokenwire_conformance.server.refusal import (
    fatal_end,
    is_answer,
    is_any_answer,
    is_fatal,
    is_refusal,
    refused,
    served,
    shown_text,
)
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bad:
    """Texts that one case sends, each of which is refused as a whole with one code."""

    case_id: str
    title: str
    texts: Callable[[str], list[str]]
    """Of a token that the server has. At most six, as the tenth refusal ends a connection."""
    code: str
    clause: str
    """Of the code."""
    answered: str = "EH.invalid-answered"
    """What silence violates: the code's clause, where only our reading takes the texts for invalid."""
    odd_numbers: bool = False
    """Whether a server may take one of the texts' numbers for the newest, and refuse every lower one."""
    sends: str
    why: str


def _message(**fields: Any) -> str:
    return json.dumps({"type": "subscription", "sequence": NUMBER, "timestamp": TIME, **fields}, separators=(",", ":"))


def _data(**fields: Any) -> str:
    return _message(data=fields)


_NO_STRINGS: Final[tuple[Any, ...]] = (7, None, ["subscribe"], {})
_BAD: Final = (
    _Bad(
        case_id="S-EH-01", title="Text that is not JSON is refused with INVALID_JSON",
        texts=lambda _: ["hello", "{", "{'type': 'subscription'}", '{"type":"subscription",}', '{"type" "x"}'],
        code="INVALID_JSON", clause="EH.invalid-json",
        sends="one after the other: a bare word, an opening brace, an object in single quotes, one with a comma too "
        "many, one without a colon",
        why="A client with a mistake has to learn of it, and keeps what it has.",
    ),
    _Bad(
        case_id="S-EH-02", title="An empty text is refused with INVALID_JSON",
        texts=lambda _: ["", "  \n "], code="INVALID_JSON", clause="EH.invalid-json", answered="EH.invalid-json",
        sends="a text message of no bytes, and one of white space only",
        why="No bytes are no JSON; some readers take them for the end of the connection.",
    ),
    _Bad(
        case_id="S-EH-03", title="NaN and Infinity are not JSON",
        texts=lambda token: [
            f'{{"type":"subscription","sequence":{number},"data":{{"action":"subscribe","tokens":["{token}"]}}}}'
            for number in ("NaN", "Infinity", "-Infinity")
        ],
        code="INVALID_JSON", clause="EH.invalid-json", answered="EH.invalid-json", odd_numbers=True,
        sends="subscribes with \"sequence\": NaN, Infinity and -Infinity",
        why="Python's reader takes them and others do not; the grammar of JSON has no such numbers.",
    ),
    _Bad(
        case_id="S-EH-04", title="Two objects in one message are refused",
        texts=lambda token: [
            f"{_data(action='subscribe', tokens=[token])}\n{_data(action='subscribe', tokens=[token])}",
            f"{_data(action='subscribe', tokens=[token])} and more",
        ],
        code="INVALID_JSON", clause="EH.invalid-json", answered="EH.invalid-json",
        sends="two good subscribes in one text message, then a good one with words behind it",
        why="A message is one object; a reader that stops at its end would lose the second without a word.",
    ),
    _Bad(
        case_id="S-EH-05", title="JSON that is no object is refused with INVALID_MESSAGE",
        texts=lambda token: ["[]", f"[{_data(action='subscribe', tokens=[token])}]", "42", '"subscription"', "null"],
        code="INVALID_MESSAGE", clause="EH.invalid-message",
        sends="an empty array, an array that holds a good subscribe, a number, a string, null",
        why="Code that takes an object for granted fails on the others, and takes its connection along.",
    ),
    _Bad(
        case_id="S-EH-06", title="A message without type, or whose type is no string, is refused with INVALID_MESSAGE",
        texts=lambda token: [
            "{}",
            json.dumps({"sequence": NUMBER, "timestamp": TIME, "data": {"action": "subscribe", "tokens": [token]}}),
            *(json.dumps({"type": kind, "data": {"action": "subscribe", "tokens": [token]}}) for kind in _NO_STRINGS),
        ],
        code="INVALID_MESSAGE", clause="EH.invalid-message",
        sends="an empty object, a subscribe without type, and ones whose type is a number, null, a list, an object",
        why="The type decides who reads the rest; a list or an object cannot even be looked up in a table.",
    ),
    _Bad(
        case_id="S-EH-07", title="A type that no client sends is refused with UNKNOWN_TYPE",
        texts=lambda _: [_message(type=kind, data={}) for kind in ("nonsense", "Subscription", "subscribe", "")],
        code="UNKNOWN_TYPE", clause="EH.unknown-type", answered="EH.unknown-type",
        sends="messages of the types nonsense, Subscription, subscribe and the empty string",
        why="Silence would leave a client that misspells the type waiting.",
    ),
    _Bad(
        case_id="S-EH-08", title="Types that only a server sends are refused with UNKNOWN_TYPE",
        texts=lambda token: [
            _message(type="connection", data={"status": "connected", "connectionId": "x", "maxSubscriptions": 100}),
            _message(type="token_update", data={"address": token, "price": "1", "marketCap": "1", "volume": {}}),
            _message(type="error", data={"code": "X", "message": "x", "level": "fatal"}),
        ],
        code="UNKNOWN_TYPE", clause="EH.unknown-type", answered="EH.unknown-type",
        sends="a connection, a token_update and an error message, as a server sends them",
        why="A client must not be able to feed prices to others, or to end something by an error of its own.",
    ),
    _Bad(
        case_id="S-EH-09", title="A subscription without data, or whose data is no object, is refused",
        texts=lambda token: [_message(), *(_message(data=data) for data in (None, [], [token], "x", 7))],
        code="INVALID_MESSAGE", clause="EH.invalid-message",
        sends="subscription messages without data, and with null, an empty list, a list, a string and a number there",
        why="Each is a field that is missing or of the wrong type.",
    ),
    _Bad(
        case_id="S-EH-10", title="An unknown action is refused with INVALID_ACTION",
        texts=lambda token: [_data(action=name, tokens=[token]) for name in ("resubscribe", "list", "")],
        code="INVALID_ACTION", clause="EH.invalid-action",
        sends="subscription messages with the actions resubscribe, list and the empty string",
        why="The specification knows subscribe and unsubscribe.",
    ),
    _Bad(
        case_id="S-EH-11", title="A missing action, or one that is no string, is refused",
        texts=lambda token: [
            _data(tokens=[token]), *(_data(action=action, tokens=[token]) for action in _NO_STRINGS)
        ],
        code="INVALID_MESSAGE", clause="EH.invalid-message",
        sends="subscription messages without action, and with a number, null, a list and an object there",
        why="Each is a field that is missing or of the wrong type.",
    ),
    _Bad(
        case_id="S-EH-12", title="Missing tokens, or ones that are no list, are refused",
        texts=lambda token: [
            _data(action="subscribe"), *(_data(action="subscribe", tokens=t) for t in (None, token, 7, {token: True}))
        ],
        code="INVALID_MESSAGE", clause="EH.invalid-message",
        sends="subscribes without tokens, and with null, a string, a number and an object there",
        why="A string in place of a list is the likely mistake: a reader that takes it subscribes to single letters.",
    ),
    _Bad(
        case_id="S-EH-13", title="A sequence or timestamp that is no whole number is refused",
        texts=lambda token: [
            _data(action="subscribe", tokens=[token]).replace(f'"{key}":"{old}"', f'"{key}":{value}')
            for key, old, value in (
                ("sequence", NUMBER, '"1"'), ("sequence", NUMBER, "-1"), ("sequence", NUMBER, "1.5"),
                ("timestamp", TIME, '"now"'),
            )
        ],
        code="INVALID_MESSAGE", clause="EH.invalid-message", answered="EH.invalid-message",
        sends="good subscribes but for their sequence (a string, -1, 1.5) or timestamp (a string)",
        why="They may be left out; what is there has to be right.",
    ),
    _Bad(
        case_id="S-EH-14", title="Deeply nested JSON is refused and survived",
        texts=lambda _: ["[" * 15_000, "[" * 7_000 + "]" * 7_000, '{"type":' * 1_500 + "1" + "}" * 1_500],
        code="", clause="",
        sends="15,000 opening brackets; 7,000 and as many closing ones; 1,500 objects, one within the other",
        why="A reader that calls itself for each level runs out of stack, and may take the whole server along.",
    ),
)  # fmt: skip


def _register(bad: _Bad) -> None:
    told = f", with the code {bad.code}" if bad.code else ""
    clauses = [*dict.fromkeys([bad.answered, "EH.invalid-survived", *([bad.clause] if bad.clause else [])])]

    async def run(bench: Bench) -> None:
        peer = await bench.strict()
        for text in bad.texts(bench.tokens(1)[0]):
            used = peer
            answer, peer = await refused(bench, used, text, clause=bad.answered)
            if not bad.code:
                continue
            code = answer.data.get("code")
            if answer.type == "subscription":
                # Told by the status alone, or by an error message behind it.
                code = await _code_behind(used)
            if answer.type == "error" and not isinstance(code, str):
                continue  # up to the case of the fields of errors
            message = f"{shown_text(text)} was refused with {shown(code)} in place of {bad.code}"
            bench.expect(code == bad.code, bad.clause, message, used)
        await served(bench, peer, "EH.invalid-survived", "after invalid messages", or_error=bad.odd_numbers)

    run.__doc__ = f"{bad.title}."
    SERVER.case(
        bad.case_id, "core", *clauses, sends=f"{bad.sends}; then a good subscribe",
        expects=f"an error message for each{told}, and an answer to the good one", why=bad.why, deadline_s=45,
    )(run)  # fmt: skip


async def _code_behind(peer: Peer) -> Any:
    try:
        return (await peer.until("error", 1.0)).data.get("code")
    except (SilenceError, EndedError):
        return None


for _bad in _BAD:
    _register(_bad)


@SERVER.case(
    "S-EH-15", "core", "EH.invalid-survived",
    sends="subscribes with a sequence of 1e400, of 400 digits and of 5,000 digits; then a good subscribe",
    expects="whatever answers the first three, an answer to the good one, if need be an error",
    why="Numbers that no machine number holds make readers fail in places where nobody looks for it.",
)  # fmt: skip
async def huge_numbers(bench: Bench) -> None:
    """Numbers beyond any machine number are survived."""
    peer = await bench.strict()
    tokens = json.dumps(bench.tokens(1))
    for number in ("1e400", "9" * 400, "9" * 5_000):
        await peer.send_text(
            peer.stamped(
                f'{{"type":"subscription","sequence":{number},"timestamp":"{TIME}",'
                f'"data":{{"action":"subscribe","tokens":{tokens}}}}}'
            )
        )
        try:
            await peer.until(lambda message: message.type in {"subscription", "error"}, 1.0)
        except SilenceError:
            bench.note(f"no answer to a sequence of {number[:8]}…")
        except EndedError as error:
            bench.fail("EH.invalid-survived", f"a sequence of {number[:8]}…: {error}", peer)
        if any(map(is_fatal, peer.messages)) and await fatal_end(bench, peer, f"a sequence of {number[:8]}…"):
            peer = await bench.strict()
    # A server that took one of them as the newest number may refuse every lower one.
    await served(bench, peer, "EH.invalid-survived", "after huge numbers", or_error=True)


@SERVER.case(
    "S-EH-16", "core", "EH.nothing-applied",
    sends="messages that are refused as a whole, each naming a token of its own: an unknown action, tokens as a "
    "string, data as a list; then a good subscribe to a fourth token",
    expects="for an update interval and a second, updates of the fourth token and none of the other three",
    why="A client that was told of an error takes it that nothing happened.",
    deadline_s=30,
)  # fmt: skip
async def nothing_applied(bench: Bench) -> None:
    """A message that is refused as a whole changes nothing."""
    good, *others = bench.live_tokens(4)
    peer = await bench.strict()
    bad = (
        {"action": "resubscribe", "tokens": others[:1]},
        {"action": "subscribe", "tokens": others[1]},
        [{"action": "subscribe", "tokens": others[2:]}],
    )
    untouched: list[str] = []
    for token, data in zip(others, bad, strict=True):
        await peer.send_text(peer.stamped(_message(data=data)))
        try:
            answer = await peer.until(lambda message: message.type == "subscription" or is_refusal(message), 1.0)
        except SilenceError:
            continue  # that it was not answered is up to other cases
        except EndedError as error:
            bench.need(False, f"a message was not survived: {error}")
            raise
        untouched += [token] if is_refusal(answer) else []
    bench.need(untouched, "none of the messages was refused")
    await served(bench, peer, "EH.nothing-applied", "after the refusals", peer.subscription("subscribe", [good]))
    await peer.collect(bench.facts.update_interval_s + SLACK_S)
    updated = [message.data.get("address") for message in peer.messages if message.type == "token_update"]
    bench.need(good in updated, "no value came of the token that was subscribed to in order", peer)
    applied = [token for token in untouched if token in updated]
    told = f"updates came of {', '.join(applied)}, which only refused messages named"
    bench.expect(not applied, "EH.nothing-applied", told, peer)


@SERVER.case(
    "S-EH-17", "core", "EH.partial-failure", "EH.bad-name-alone",
    sends="a subscribe to a token that the server has and one that it does not have; then a subscribe to another",
    expects="an answer, in which the good token has the status success, and an answer to the other subscribe",
    why="A list of a hundred tokens must not fail because one of them was delisted.",
)  # fmt: skip
async def partial_failure(bench: Bench) -> None:
    """A good token is subscribed beside an unknown one."""
    await _partly(bench, [bench.unknown()])


@SERVER.case(
    "S-EH-18", "core", "EH.partial-failure", "EH.bad-name-alone",
    sends="subscribes to a token that the server has, each on a connection of its own with one entry beside it that "
    "is no usable name: null, 7, {}, [], an empty string, a string with a lone surrogate escape; behind each a good "
    "subscribe",
    expects="an answer to each, in which the good token has the status success, and an answer to the good subscribe",
    why="One bad entry is one bad name. What cannot be written as UTF-8 breaks a server that echoes it untried.",
    deadline_s=45,
)  # fmt: skip
async def bad_entries(bench: Bench) -> None:
    """Entries that are no names do not spoil the others."""
    await _partly(bench, [None, 7, {}, [], "", "\ud800"])


async def _partly(bench: Bench, bad: list[Any]) -> None:
    good = bench.tokens(1)[0]
    for entry in bad:
        peer = await bench.strict()
        since = len(peer.messages)
        await peer.send_json(peer.subscription("subscribe", [good, entry]))
        bad_one = shown(entry)
        try:
            await peer.until(lambda message: message.type in {"subscription", "error"})
        except (SilenceError, EndedError) as error:
            bench.fail("EH.partial-failure", f"a good token and {bad_one}: {error}", peer)
        answer = await peer.answer(lambda _: True, quiet_s=0.2)
        messages = [*peer.messages[since:], *answer.messages]
        accepted = [
            token for m in messages if m.type == "subscription" and m.data.get("status") != "error"
            for token in tokens_of(m)
        ]  # fmt: skip
        told = f"a good token beside {bad_one} was not subscribed to"
        bench.expect(good in accepted, "EH.bad-name-alone", told, peer)
        await _lives(bench, peer)


async def _lives(bench: Bench, peer: Peer) -> None:
    """The connection answers one more request, by an error at least."""
    fresh = bench.facts.tokens[1:2] or bench.tokens(1)
    await peer.send_json(peer.subscription("subscribe", list(fresh)))
    try:
        await peer.until(is_any_answer)
    except (SilenceError, EndedError) as error:
        bench.fail("EH.partial-failure", f"after a request with a good and a bad token: {error}", peer)


@SERVER.case(
    "S-EH-19", "core", "EH.tenth-refusal",
    sends="nine texts that are not JSON, each once the one before is answered; a good subscribe; a tenth such text",
    expects="an answer to the subscribe; after the tenth text the close code 4502",
    why="A client in a loop of mistakes should stop, and one with a few of them must not be cut off.",
    deadline_s=60,
)  # fmt: skip
async def tenth_refusal(bench: Bench) -> None:
    """The tenth refusal closes with 4502, none before it."""
    peer = await bench.strict()
    for number in range(1, PROTOCOL_ERRORS_MAX):
        await peer.send_text(f"mistake {number}")
        try:
            await peer.until(is_refusal)
        except (SilenceError, EndedError) as error:
            bench.fail("EH.tenth-refusal", f"refusal {number} of {PROTOCOL_ERRORS_MAX}: {error}", peer)
    await served(bench, peer, "EH.tenth-refusal", f"after {PROTOCOL_ERRORS_MAX - 1} refusals")
    await peer.send_text("the last mistake")
    try:
        code = await peer.closing(REPLY_S)
    except SilenceError as error:
        bench.fail("EH.tenth-refusal", f"after the tenth refusal: {error}", peer)
    bench.expect(code == 4502, "EH.tenth-refusal", f"the close code after the tenth refusal is {code}", peer)


_ABUSE: Final = (
    ("text that is not UTF-8", Opcode.TEXT, b'{"type":"\xff\xfe"}'),
    ("a frame with an opcode that does not exist", 0xB, b"x"),
    ("a continuation of nothing", Opcode.CONTINUATION, b"x"),
    ("a close frame of one byte", Opcode.CLOSE, b"x"),
)


@SERVER.case(
    "S-EH-20", "core", "EH.invalid-survived",
    sends="on a connection of its own each: text that is not UTF-8, a frame of an unknown opcode, a continuation of "
    "nothing, a close frame of one byte, bytes at random; a good connection sends a request after each",
    expects="whatever becomes of the bad ones, an answer to each request on the good connection",
    why="One broken client must not take others along.",
    deadline_s=45,
)  # fmt: skip
async def others_undisturbed(bench: Bench) -> None:
    """Broken connections do not disturb another."""
    good = await bench.strict()
    await served(bench, good, "MS.answered", "on a good connection")
    for name, opcode, payload in _ABUSE:
        bad = await bench.strict()
        await bad.send_frame(opcode, payload)
        await served(bench, good, "EH.invalid-survived", f"while another connection sent {name}")
    bad = await bench.strict()
    await bad.send_raw(bytes(range(7, 256, 3)) * 20)
    await bad.abort()
    await served(bench, good, "EH.invalid-survived", "while another connection sent random bytes")


@SERVER.case(
    "S-EH-21", "core", "EH.invalid-answered",
    sends="text that is not UTF-8 (the bytes FF FE inside a string)",
    expects="an error message, or the end of the connection, within 5 s",
    why="A WebSocket whose text is not UTF-8 has failed (RFC 6455, section 8.1); to go on in silence hides the loss.",
)  # fmt: skip
async def not_utf8(bench: Bench) -> None:
    """Text that is not UTF-8 is noticed."""
    peer = await bench.strict()
    await served(bench, peer, "MS.answered", "on a good connection")
    await peer.send_frame(Opcode.TEXT, b'{"type":"subscription","data":{"action":"\xff\xfe","tokens":["x"]}}')
    try:
        await peer.until(is_refusal)
    except SilenceError as error:
        bench.fail("EH.invalid-answered", f"text that is not UTF-8: {error}", peer)
    except EndedError as error:
        bench.note(f"the connection ended: {error}")


@SERVER.case(
    "S-EH-22", "core", "EH.invalid-answered", "EH.invalid-survived",
    sends="a good subscribe, a text that is not JSON and another good one, in one go and without waiting",
    expects="an answer to both requests and an error message",
    why="Messages that arrive together are told apart, and a bad one between good ones is one bad one.",
)  # fmt: skip
async def in_one_go(bench: Bench) -> None:
    """A bad message between good ones spoils neither."""
    peer = await bench.strict()
    first, second = bench.tokens(2)
    await peer.send_json(peer.subscription("subscribe", [first]))
    await peer.send_text("this is not JSON")
    await peer.send_json(peer.subscription("subscribe", [second]))
    answer = await peer.answer(lambda a: sum(map(is_answer, a.messages)) >= 2 and bool(a.of("error")))
    bench.expect(answer.of("error"), "EH.invalid-answered", "no error message came", peer)
    if any(map(is_fatal, answer.messages)) and await fatal_end(bench, peer, "a text that is not JSON"):
        return
    answers = sum(map(is_answer, answer.messages))
    told = f"of two good requests {answers} were answered"
    bench.expect(answers >= 2, "EH.invalid-survived", told, peer)
