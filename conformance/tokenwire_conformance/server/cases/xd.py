"""XD: versions, limits and request ids, where ``details`` is granted."""

from typing import Any

from tokenwire_conformance.figures import (
    HEARTBEAT_S,
    MAX_BATCH,
    MAX_MESSAGE_BYTES,
    QUIET_S,
    REPLY_S,
    SLACK_S,
)
from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.extension import codes, gathered, updates_of
from tokenwire_conformance.server.peer import Answer, Peer, tokens_of
from tokenwire_conformance.server.shapes import expect_shapes
from tokenwire_conformance.wire.messages import Received, shown

__all__: list[str] = []

_ERROR_TOKENS_MAX = 100
_HIGHEST = 2**53 - 1
"""No version is higher."""
_TICK_S = 2.0
"""With a longer update interval, two of three tries of a second lie between ticks."""


def _refusable(bench: Bench) -> str:
    """A name that the server refuses: an unknown one, or where it accepts any, one that is empty."""
    try:
        return bench.unknown()
    except NotTestableError:
        return ""


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


async def _valued(bench: Bench, peer: Peer, tokens: list[str]) -> dict[str, dict[str, Any]]:
    """Subscribe; the newest update of each token that got one."""
    mark = len(peer.messages)
    await peer.send_json(peer.subscription("subscribe", tokens))
    messages = await gathered(
        peer, mark, lambda ms: set(tokens) <= {u.get("address") for u in updates_of(ms)},
        REPLY_S + bench.facts.update_interval_s,
    )  # fmt: skip
    found = {str(update.get("address")): update for update in updates_of(messages)}
    bench.require(found, "XD.version", "no update came", peer)
    return found


# --- the first message -------------------------------------------------------------------------------------
@SERVER.case(
    "S-XD-01", "ext.details", "XD.limits",
    sends="nothing but an upgrade request that asks for details",
    expects="the first message has subscriptions (empty), stream and the figures, those of the specification with its "
    "values: heartbeatMs 15000, maxMessageBytes 1048576, maxBatch 1000, updateIntervalMs as told to the suite, and an "
    "idleTimeoutMs above heartbeatMs",
    why="A client takes its time-outs from here; a figure that does not hold breaks its connection.",
)  # fmt: skip
async def limits(bench: Bench) -> None:
    """The first message carries subscriptions, stream and the server's figures."""
    peer = await bench.extended("details")
    assert peer.greeting is not None
    data = peer.greeting.data
    bench.require(
        data.get("subscriptions") == [], "XD.limits", f"subscriptions: {shown(data.get('subscriptions'))}", peer
    )
    stream = data.get("stream")
    bench.require(isinstance(stream, str) and stream, "XD.limits", f"stream is {shown(stream)}", peer)
    for name, value in (
        ("heartbeatMs", HEARTBEAT_S * 1000), ("maxMessageBytes", MAX_MESSAGE_BYTES), ("maxBatch", MAX_BATCH),
        ("updateIntervalMs", bench.facts.update_interval_s * 1000),
    ):  # fmt: skip
        bench.expect(data.get(name) == value, "XD.limits", f"{name} is {shown(data.get(name))}, not {value:g}", peer)
    idle = data.get("idleTimeoutMs")
    above = isinstance(idle, int) and idle > HEARTBEAT_S * 1000
    bench.expect(above, "XD.limits", f"idleTimeoutMs is {shown(idle)}, not above the heartbeat", peer)


# --- versions ----------------------------------------------------------------------------------------------
@SERVER.case(
    "S-XD-02", "ext.details", "XD.version",
    sends="a subscribe to 10 tokens that have values; then nothing for two update intervals",
    expects="each update has a version from 1 and a sourceTime in milliseconds; a token's versions never fall, and the "
    "same version has the same value",
    why="By the version a client sees which of two values is newer, and how many changes it skipped.", deadline_s=45.0,
)  # fmt: skip
async def versions(bench: Bench) -> None:
    """A token's version rises with its changes, and sourceTime is in milliseconds."""
    peer = await bench.extended("details")
    tokens = bench.live_tokens(10)
    await _valued(bench, peer, tokens)
    await peer.subscribe(tokens[:1])  # its value once more
    await peer.collect(2 * bench.facts.update_interval_s + SLACK_S)
    newest: dict[Any, dict[str, Any]] = {}
    risen = False
    for update in updates_of(peer.messages):
        address, version, source = (update.get(key) for key in ("address", "version", "sourceTime"))
        bench.require(_is_count(version), "XD.version", f"version is {shown(version)}", peer)
        in_ms = isinstance(source, int) and 10**12 <= source < 10**14
        bench.require(in_ms, "XD.version", f"sourceTime is {shown(source)}, no milliseconds of Unix time", peer)
        assert isinstance(version, int)
        before = newest.get(address, update)
        fell = f"the version of {address} fell from {before['version']} to {version}"
        bench.require(version >= before["version"], "XD.version", fell, peer)
        same = version > before["version"] or update == before
        bench.require(same, "XD.version", f"{address} changed within version {version}", peer)
        risen = risen or version > before["version"]
        newest[address] = update
    bench.need(risen, "none of 10 tokens changed within two update intervals: name busier ones")


# --- answers -----------------------------------------------------------------------------------------------
@SERVER.case(
    "S-XD-03", "ext.details", "XD.request-id",
    sends="a subscribe with requestId r-1 to a token and to a name that is refused, an unsubscribe with r-2, and one "
    "without requestId",
    expects="success, error reply and error message have r-1, the next answer r-2, the last none",
    why="With several requests under way the id tells which one an answer belongs to.",
)  # fmt: skip
async def request_id(bench: Bench) -> None:
    """requestId comes back with success, refusal and error."""
    peer = await bench.extended("details")
    (token,) = bench.tokens(1)
    bad = _refusable(bench)
    first = await peer.subscribe([token, bad], requestId="r-1")
    second = await peer.unsubscribe([token], requestId="r-2")
    third = await peer.unsubscribe([token])
    for answer, wanted, least in ((first, "r-1", 3), (second, "r-2", 1), (third, None, 1)):
        parts = [*answer.of("subscription"), *answer.of("error")]
        bench.require(len(parts) >= least, "XD.request-id", f"an answer has {len(parts)} of {least} parts", peer)
        for part in parts:
            seen = part.data.get("requestId")
            bench.require(seen == wanted, "XD.request-id", f"{part.type} has {shown(seen)}, not {shown(wanted)}", peer)


@SERVER.case(
    "S-XD-04", "ext.details", "XD.rejected",
    sends="a subscribe to a token and to two names that are refused, one of them unknown (or empty), one a number",
    expects="the error reply has rejected: each refused name once, with the code of an error message that came",
    why="In strict v1.0 several reasons in one answer cannot be told apart; here each name has its own.",
)  # fmt: skip
async def rejected(bench: Bench) -> None:
    """A refusal lists each name with its code."""
    peer = await bench.extended("details")
    bad = _refusable(bench)
    answer = await peer.subscribe([*bench.tokens(1), bad, 17])
    rows = [row for m in answer.of("subscription", status="error") for row in m.data.get("rejected") or ()]
    names = [row.get("token") for row in rows if isinstance(row, dict)]
    bench.require(names == [bad, "17"], "XD.rejected", f"rejected names {names}, not {[bad, '17']}", peer)
    given = [row.get("code") for row in rows]
    bench.require(given[1] == "INVALID_TOKEN", "XD.rejected", f"the number was refused with {shown(given[1])}", peer)
    strangers = [code for code in given if code not in answer.codes()]
    bench.require(not strangers, "XD.rejected", f"no error message has {strangers}", peer)


@SERVER.case(
    "S-XD-05", "ext.details", "XD.rejected",
    sends="a subscribe to 3 tokens, one to the first of them again, an unsubscribe from one",
    expects="active is 3, 3 and 2",
    why="A client sees by it whether its list and the server's agree.",
)  # fmt: skip
async def active(bench: Bench) -> None:
    """active is the number of tokens held."""
    peer = await bench.extended("details")
    tokens = bench.tokens(3)
    answers = [await peer.subscribe(tokens), await peer.subscribe(tokens[:1]), await peer.unsubscribe(tokens[:1])]
    for answer, wanted in zip(answers, (3, 3, 2), strict=True):
        seen = [message.data.get("active") for message in answer.of("subscription")]
        bench.require(seen == [wanted], "XD.rejected", f"active is {shown(seen)}, not {wanted}", peer)


@SERVER.case(
    "S-XD-06", "ext.details", "XD.error-fields",
    sends="a subscribe to a name that is refused, then a message that is not JSON",
    expects="each error has category and retryable; that of the subscribe is of the category subscription and lists "
    "the name in tokens, the other is of the category protocol and not retryable; retryAfterMs, where there is one, is "
    "a count of milliseconds",
    why="A program decides by them whether and when to try again, without a table of codes.",
)  # fmt: skip
async def error_fields(bench: Bench) -> None:
    """Errors carry category and retryable, and the names they concern."""
    peer = await bench.extended("details")
    bad = _refusable(bench)
    refusal = (await peer.subscribe([bad])).of("error")
    bench.require(refusal, "XD.error-fields", "no error message came for a refused name", peer)
    await peer.send_text("{")
    broken = (await peer.answer(lambda answer: bool(answer.of("error")))).of("error")
    bench.require(broken, "XD.error-fields", "no error message came for what is not JSON", peer)
    for message, category in ((refusal[0], "subscription"), (broken[0], "protocol")):
        seen = message.data.get("category")
        bench.require(seen == category, "XD.error-fields", f"category is {shown(seen)}, not {category}", peer)
        retryable = message.data.get("retryable")
        bench.require(isinstance(retryable, bool), "XD.error-fields", f"retryable is {shown(retryable)}", peer)
        after = message.data.get("retryAfterMs", 0)
        bench.require(_is_count(after, 0), "XD.error-fields", f"retryAfterMs is {shown(after)}", peer)
    bench.require(
        not broken[0].data.get("retryable"), "XD.error-fields", "what is not JSON is said to be retryable", peer
    )
    bench.require(tokens_of(refusal[0]) == [bad], "XD.error-fields", f"tokens: {tokens_of(refusal[0])}", peer)


# --- known values ------------------------------------------------------------------------------------------
async def _known(bench: Bench, peer: Peer, known: dict[str, Any], stream: Any) -> list[Received]:
    """Subscribe with these versions stated as known; what comes until a moment after the answer."""
    await peer.unsubscribe(list(known))
    mark = len(peer.messages)
    await peer.send_json(peer.subscription("subscribe", list(known), known=known, stream=stream))
    await peer.answer(lambda answer: bool(answer.of("subscription") or answer.of("error")), quiet_s=QUIET_S)
    return peer.messages[mark:]


def _stream(peer: Peer) -> Any:
    return peer.greeting.data.get("stream") if peer.greeting else None


@SERVER.case(
    "S-XD-07", "ext.details", "XD.known",
    sends="a subscribe to 10 tokens, an unsubscribe, then a subscribe with their versions as known, and the stream; up "
    "to three times the same with the highest possible versions",
    expects="success; of no token a version below the known one; at least once no value at all",
    why="A client that comes back with a hundred tokens need not be sent what it holds.",
)  # fmt: skip
async def known_not_sent(bench: Bench) -> None:
    """A value that is known is not sent again."""
    peer = await bench.extended("details")
    values = await _valued(bench, peer, bench.live_tokens(10))
    known = {address: update.get("version") for address, update in values.items()}
    messages = await _known(bench, peer, known, _stream(peer))
    bench.require(Answer(messages).accepted(), "XD.known", f"no success; errors: {shown(codes(messages))}", peer)
    for update in updates_of(messages):
        held = known.get(str(update.get("address"))) or 0
        # A tick in this very moment may repeat the known one (I-11); never an older one.
        fresh = isinstance(update.get("version"), int) and update["version"] >= held
        bench.require(fresh, "XD.known", f"version {update.get('version')} came, {held} is known", peer)
    # Busy tokens have changed by then. A version that is higher than the newest counts as held as well (I-74); a value
    # that comes all the same may be a tick's, but ticks do not come every time.
    came = 0
    for _ in range(3):
        came = len(updates_of(await _known(bench, peer, dict.fromkeys(known, _HIGHEST), _stream(peer))))
        if not came:
            return
    bench.need(bench.facts.update_interval_s > _TICK_S, "values come too often to tell answers from ticks")
    bench.fail("XD.known", f"{came} values came that are known", peer)


@SERVER.case(
    "S-XD-08", "ext.details", "XD.known",
    sends="a subscribe to 3 tokens, an unsubscribe, then a subscribe with versions as known that are one lower, and "
    "the stream",
    expects="success and the value of each token",
    why="Who holds an older value needs the newest at once.",
)  # fmt: skip
async def newer_than_known_sent(bench: Bench) -> None:
    """A value that is newer than the known one is sent."""
    await _require_sent(bench, "XD.known", other_stream=False)


@SERVER.case(
    "S-XD-09", "ext.details", "XD.known-stream",
    sends="a subscribe to 3 tokens, an unsubscribe, then a subscribe with the highest versions as known, and "
    "another stream",
    expects="success and the value of each token",
    why="Versions of another writer cannot be compared: taken for known, the value would never come.",
)  # fmt: skip
async def other_stream(bench: Bench) -> None:
    """Known values of another stream are ignored."""
    await _require_sent(bench, "XD.known-stream", other_stream=True)


async def _require_sent(bench: Bench, clause: str, *, other_stream: bool) -> None:
    """Known versions that are older, or of another stream and the highest, do not keep the values from being sent."""
    peer = await bench.extended("details")
    values = await _valued(bench, peer, bench.live_tokens(3))
    known = {
        address: _HIGHEST if other_stream else (update.get("version") or 2) - 1 for address, update in values.items()
    }
    messages = await _known(bench, peer, known, f"{_stream(peer)}x" if other_stream else _stream(peer))
    missing = set(known) - {str(update.get("address")) for update in updates_of(messages)}
    bench.require(not missing, clause, f"{len(missing)} of {len(known)} tokens got no value", peer)


@SERVER.case(
    "S-XD-10", "ext.details", "XD.known-type",
    sends='a subscribe whose known has the version "12", a string; then a valid one without known',
    expects="an error with the code INVALID_MESSAGE and no success; the second is answered with success",
    why="A version of the wrong type is a mistake of the client, which a guess would hide.",
)  # fmt: skip
async def known_type(bench: Bench) -> None:
    """An entry of known with the wrong type is INVALID_MESSAGE."""
    peer = await bench.extended("details")
    (token,) = bench.tokens(1)
    messages = await _known(bench, peer, {token: "12"}, _stream(peer))
    bench.require(codes(messages) == ["INVALID_MESSAGE"], "XD.known-type", f"errors: {shown(codes(messages))}", peer)
    bench.require(not Answer(messages).accepted(), "XD.known-type", "it was answered with success too", peer)
    answer = await peer.subscribe([token])
    bench.require(answer.accepted(), "XD.known-type", "the connection does not answer any more", peer)


# --- sizes and shapes --------------------------------------------------------------------------------------
@SERVER.case(
    "S-XD-11", "ext.details", "XD.long-answers",
    sends="a subscribe to 1000 unusable names of about 900 bytes each, together just below 1 MiB",
    expects="error replies of at most 1 MiB each that together list every name in tokens and in rejected; errors with "
    "at most 100 names in tokens",
    why="The answer is twice as long as the question, and a client may refuse what exceeds 1 MiB.", deadline_s=40.0,
)  # fmt: skip
async def long_answers(bench: Bench) -> None:
    """An answer beyond 1 MiB is split, and an error lists at most 100 names."""
    peer = await bench.extended("details")
    # A control character makes a name unusable; the rest makes it long.
    names = [f"\x01{number:04}" + "\U0001f600" * 225 for number in range(MAX_BATCH)]
    text = '{"type":"subscription","data":{"action":"subscribe","tokens":["' + '","'.join(names) + '"]}}'
    await peer.send_text(text.replace("\x01", "\\u0001"))
    answer = await peer.answer(
        lambda a: len(a.refused()) >= len(names) and bool(a.of("error")), 4 * REPLY_S, quiet_s=2 * QUIET_S
    )  # fmt: skip
    replies = answer.of("subscription", status="error")
    bench.require(replies, "XD.long-answers", f"no error reply came; errors: {answer.codes()}", peer)
    largest = max(len(message.payload) for message in answer.messages)
    bench.require(largest <= MAX_MESSAGE_BYTES, "XD.long-answers", f"a message has {largest} bytes", peer)
    rows = [row for m in replies for row in m.data.get("rejected") or () if isinstance(row, dict)]
    for what, told in (("tokens", answer.refused()), ("rejected", [row.get("token") for row in rows])):
        bench.require(told == names, "XD.long-answers", f"{what} has {len(told)} names, or others", peer)
    most = max((len(tokens_of(message)) for message in answer.of("error")), default=0)
    bench.require(1 <= most <= _ERROR_TOKENS_MAX, "XD.long-answers", f"an error has {most} names", peer)


@SERVER.case(
    "S-XD-12", "ext.details", "XD.rejected", "XD.error-fields", "XD.version", "XD.limits",
    sends="a subscribe to a token and to a name that is refused; what other cases received is looked at as well",
    expects="every connection, subscription, error and token_update message is valid by its schema in extended/server",
    why="Extension fields come after those of the specification, which stay as they are.", over_run=True,
)  # fmt: skip
async def shape(bench: Bench) -> None:
    """Every message of a connection with details has the shape of its schema."""
    peer = await bench.extended("details")
    answer = await peer.subscribe([*bench.live_tokens(1), _refusable(bench)])
    bench.require(answer.of("error"), "XD.rejected", "a subscribe that is refused in part brought no error", peer)
    expect_shapes(
        bench, [*bench.histories, *bench.run_histories], "details",
        {
            "connection": "XD.limits", "subscription": "XD.rejected", "error": "XD.error-fields",
            "token_update": "XD.version",
        },
    )  # fmt: skip
