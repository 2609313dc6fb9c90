"""MC: the connection message."""

from tokenwire_conformance.server import checkers
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.checkers import distinct_ids
from tokenwire_conformance.server.over_run import evidence, judge_run, report
from tokenwire_conformance.wire.messages import shown

__all__: list[str] = []

_SENDS = "what every case sends; run alone: a subscribe, a text that is not JSON, an unsubscribe"


@SERVER.case(
    "S-MC-01", "core", "MC.first", "MC.connected",
    sends="nothing but the upgrade request",
    expects="the first message has the type connection and the status connected",
    why="A client has to know its connection's id and limits before anything else happens.",
)  # fmt: skip
async def first_message(bench: Bench) -> None:
    """The first message is connection, with the status connected."""
    peer = await bench.connect()
    await bench.greet(peer)
    assert peer.greeting is not None
    bench.require(peer.greeting.type == "connection", "MC.first", f"came first: {peer.greeting.brief()}", peer)
    status = peer.greeting.data.get("status")
    bench.require(status == "connected", "MC.connected", f"its status is {shown(status)}", peer)


@SERVER.case(
    "S-MC-02", "core", "MC.fields", "MC.status", "MC.connection-id", "MC.max-subscriptions",
    sends=_SENDS,
    expects="data of every connection message holds status (connected, disconnected or error), connectionId (a UUID of "
    "36 characters), maxSubscriptions (a whole number), and nothing else",
    why="A client reads its limits from here, and may be as strict as the specification's format.",
    over_run=True,
)  # fmt: skip
async def fields(bench: Bench) -> None:
    """Connection messages hold exactly the three fields, in their types."""
    await judge_run(bench, "MC.fields", checkers.connection_data, kind="connection")


@SERVER.case(
    "S-MC-03", "core", "MC.fresh-id",
    sends="three upgrade requests at once, and two more once these connections are closed",
    expects="five different values of connectionId",
    why="The id is what a problem is reported with; two connections with one id cannot be told apart.",
)  # fmt: skip
async def fresh_ids(bench: Bench) -> None:
    """Every connection has an id of its own."""
    peers = [await bench.strict() for _ in range(3)]
    for peer in peers:
        await peer.close()
    peers += [await bench.strict() for _ in range(2)]
    named = [peer for peer in peers if isinstance(peer.messages[0].data.get("connectionId"), str)]
    told = f"only {len(named)} of 5 connections were given a connectionId"
    bench.require(len(named) == 5, "MC.fresh-id", told)
    for finding in distinct_ids([peer.messages for peer in peers]):
        bench.expect(False, finding.clause, finding.message, peers[finding.index])


@SERVER.case(
    "S-MC-04", "core", "MC.id-lower-case",
    sends="nothing but the upgrade request", expects="connectionId holds no upper-case letter",
    why="Ids are compared as text, in logs and in reports.",
)  # fmt: skip
async def lower_case(bench: Bench) -> None:
    """connectionId is in lower case."""
    for _ in range(2):  # a UUID without any letter is rare, two of them are rarer
        peer = await bench.strict()
        name = peer.messages[0].data.get("connectionId")
        bench.need(isinstance(name, str), f"connectionId is {shown(name)}")
        bench.expect(name == str(name).lower(), "MC.id-lower-case", f"connectionId is {name}", peer)


@SERVER.case(
    "S-MC-05", "core", "MC.end-status",
    sends=_SENDS,
    expects="nothing comes behind a connection message with the status disconnected or error",
    why="A client takes it for the end and stops reading.",
    over_run=True,
)  # fmt: skip
async def end_status(bench: Bench) -> None:
    """Another status than connected comes only right before the end."""
    found = await evidence(bench, "MC.end-status", "connection")
    ends = (m for history in found for m in history.peer.messages if m.type == "connection")
    seen = any(message.data.get("status") in ("disconnected", "error") for message in ends)
    bench.need(seen, "no connection message with the status disconnected or error came on any connection")
    report(bench, ((h, finding) for h in found for finding in checkers.end_status(h.peer.messages)))


@SERVER.case(
    "S-MC-06", "core", "MC.limit-counts-tokens",
    sends="a subscribe to as many tokens as maxSubscriptions says, an unsubscribe of all of them, the subscribe again",
    expects="the second subscribe is accepted as the first was",
    why="A client that looks at some tokens at a time must not run out of places.",
)  # fmt: skip
async def room_again(bench: Bench) -> None:
    """An unsubscribe makes room again."""
    peer = await bench.strict()
    bench.need(0 < peer.limit <= 1000, f"maxSubscriptions is {peer.limit}, not what one message may name")
    tokens = bench.tokens(peer.limit)
    full = await peer.subscribe(tokens)
    # Whether the limit is kept is up to other cases.
    bench.need(len(full.accepted()) == peer.limit, f"{len(full.accepted())} of {peer.limit} tokens were accepted")
    await peer.unsubscribe(tokens)
    again = len((await peer.subscribe(tokens)).accepted())
    told = f"after an unsubscribe of all {peer.limit} tokens, {again} of them were accepted again"
    bench.expect(again == peer.limit, "MC.limit-counts-tokens", told, peer)
