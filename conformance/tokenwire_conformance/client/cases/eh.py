"""EH: invalid messages, which a client has to survive: with its connection or with the next one."""

import json
from collections.abc import Awaitable, Callable
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import goes_on, hears
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.wire.frames import Opcode

__all__: list[str] = []

_CLAUSE: Final = "EH.client-invalid-survived"
_WHY: Final = "A server with a defect, or a newer one, must not be able to end its clients."
_EXPECTS: Final = (
    "the client goes on: an update reaches its application, on this connection or on the next one; without update "
    "events, it stays or comes back"
)


def _survived(number: int, title: str, sends: str, act: Callable[[Link], Awaitable[None]]) -> None:
    async def case(bench: ClientBench) -> None:
        await bench.start()
        link = await bench.session()
        await act(link)
        await goes_on(bench, link, _CLAUSE, sends.removesuffix(", then an update"))

    case.__doc__ = title
    CLIENT.case(
        f"C-EH-{number:02}", "core", _CLAUSE, sends=sends, expects=_EXPECTS, why=_WHY, deadline_s=150,
    )(case)  # fmt: skip


async def _bad_json(link: Link) -> None:
    for text in ("{not json", "", '{"type":"token_update"', '{"a":1}{"b":2}', '{"price":NaN}'):
        await link.send_text(text)


async def _no_object(link: Link) -> None:
    for text in ("[1,2,3]", "null", "17", '"token_update"', "true"):
        await link.send_text(text)


async def _no_keys(link: Link) -> None:
    whole = {"type": "token_update", "sequence": link.sequence, "timestamp": 1, "data": {}}
    for key in whole:
        await link.send_json({name: value for name, value in whole.items() if name != key})
    await link.send("token_update", {"address": "CONFORMANCE-A"})
    await link.send("error", {})
    await link.send("subscription", {"action": "subscribe"})


async def _wrong_types(link: Link) -> None:
    await link.send("token_update", {"address": 5, "price": 1.5, "marketCap": None, "volume": []})
    await link.send("error", {"code": 1, "message": [], "level": {}})
    await link.send("subscription", {"action": "subscribe", "tokens": "CONFORMANCE-A", "status": "success"})
    await link.send_json({"type": 5, "sequence": "five", "timestamp": "now", "data": []})
    await link.send_json({"type": "token_update", "sequence": -1, "timestamp": -1, "data": None})


async def _unknown_type(link: Link) -> None:
    await link.send("conformance_news", {"text": "a type that nobody has heard of"})
    await link.send("conformance_more", {})


async def _binary(link: Link) -> None:
    message = link.envelope("token_update", link.update_data("CONFORMANCE-A"))
    await link.send_frame(Opcode.BINARY, json.dumps(message).encode())


async def _no_utf8(link: Link) -> None:
    await link.send_frame(Opcode.TEXT, b'{"type":"\xff\xfe"}')


async def _reserved_bits(link: Link) -> None:
    await link.send_frame(Opcode.TEXT, b"{}", rsv=3)


async def _unknown_opcode(link: Link) -> None:
    await link.send_frame(0x5, b"{}")


async def _deep(link: Link) -> None:
    await link.send_text("[" * 100_000 + "]" * 100_000)
    await link.send_text('{"a":' * 50_000 + "1" + "}" * 50_000)


async def _long_number(link: Link) -> None:
    await link.send_text('{"type":"token_update","sequence":' + "9" * 5_000 + ',"timestamp":1e999,"data":{}}')


_survived(
    1, "Text that is not JSON is survived.",
    "five text messages that are not JSON (cut off, empty, two objects, NaN), then an update", _bad_json,
)  # fmt: skip
_survived(
    2, "JSON that is no object is survived.",
    "text messages with a list, null, a number, a string and true, then an update", _no_object,
)  # fmt: skip
_survived(
    3, "Messages that lack a key are survived.",
    "messages without type, sequence, timestamp or data, or without their fields in data, then an update", _no_keys,
)  # fmt: skip
_survived(
    4, "Fields of the wrong type are survived.",
    "messages whose fields have the wrong types, then an update", _wrong_types,
)  # fmt: skip
_survived(
    5, "An unknown message type is survived.",
    "two messages of types that nobody has heard of, then an update", _unknown_type,
)  # fmt: skip
_survived(6, "A binary message is survived.", "a binary message, then an update", _binary)
_survived(7, "Text that is not UTF-8 is survived.", "a text message that is not UTF-8, then an update", _no_utf8)
_survived(
    8, "Reserved bits are survived.", "a frame with RSV2 and RSV3 set, then an update", _reserved_bits,
)  # fmt: skip
_survived(9, "An unknown opcode is survived.", "a frame with the opcode 5, then an update", _unknown_opcode)
_survived(
    10, "Deep nesting is survived.",
    "a list nested 100,000 deep and an object nested 50,000 deep, then an update", _deep,
)  # fmt: skip
_survived(
    11, "A number of 5000 digits is survived.",
    "a message whose sequence has 5000 digits and whose timestamp is 1e999, then an update", _long_number,
)  # fmt: skip


@CLIENT.case(
    "C-EH-12", "core", _CLAUSE, deadline_s=150,
    sends="an update with fields that nobody has heard of, in the message and in its data, then an update",
    expects=_EXPECTS,
    why=_WHY,
)  # fmt: skip
async def unknown_fields(bench: ClientBench) -> None:
    """Unknown fields are survived."""
    await bench.start()
    link = await bench.session()
    message = link.envelope("token_update", link.update_data(bench.wanted[0]) | {"conformance": {"a": [1]}})
    await link.send_json(message | {"conformance": "a field that nobody has heard of"})
    await goes_on(bench, link, _CLAUSE, "an update with unknown fields")


@CLIENT.case(
    "C-EH-13", "core", _CLAUSE, deadline_s=150,
    sends="the first of three tokens is refused: a subscription message with status success for two, one with status "
    "error for the first, the error TOKEN_NOT_FOUND, then an update of another",
    expects="the update of a token that was accepted reaches the application, and the client goes on",
    why="Partial failure handling: a name that one server does not know must not cost the others.",
)  # fmt: skip
async def partial_failure(bench: ClientBench) -> None:
    """A refused token does not cost the others."""
    await bench.start()
    attempt = await bench.attempt()
    link = await attempt.accept(answers=False)
    await link.greet()
    await link.first_request()
    await link.subscribed(bench.wanted)
    names = list(link.held)
    bench.require(names, _CLAUSE, "the client did not subscribe to anything", link.number)
    for request in link.requests:
        named = request.data.get("tokens")
        tokens = [name for name in named if name in names] if isinstance(named, list) else []
        accepted = [name for name in tokens if name != names[0]]
        if accepted:
            await link.send("subscription", {"action": "subscribe", "tokens": accepted, "status": "success"})
        if names[0] in tokens:
            await link.send("subscription", {"action": "subscribe", "tokens": [names[0]], "status": "error"})
            await link.error("TOKEN_NOT_FOUND", "error", f"no token has this address or symbol: {names[0]}")
    price = bench.fresh_price()
    await link.update(names[-1], price)
    if "update" in bench.facts.events and len(names) > 1:
        text = "an update of an accepted token did not reach the application"
        bench.require(await hears(bench, price), _CLAUSE, text, link.number)
    link.answers = True
    bench.wanted = tuple(names[1:]) or bench.wanted
    await goes_on(bench, link, _CLAUSE, "a refused token")
