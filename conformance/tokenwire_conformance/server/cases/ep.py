"""EP: the endpoint and what is negotiated while a connection opens."""

from tokenwire_conformance.figures import PATH
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.checkers import TYPES
from tokenwire_conformance.server.peer import ConnectFailedError
from tokenwire_conformance.server.refusal import is_answer, served
from tokenwire_conformance.wire.frames import Opcode, encode_frame
from tokenwire_conformance.wire.messages import shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []

_PROTOCOL = "Sec-WebSocket-Protocol"
_OURS = "token-data.v1"
_OTHER_PATHS = ("/api/v1/ws/token-dat", "/api/v1/ws/token-data/more", "/api/v2/ws/token-data", "/API/V1/WS/TOKEN-DATA")
_REFUSAL_S = 3.0


@SERVER.case(
    "S-EP-01", "core", "EP.path",
    sends=f"an upgrade request for the path {PATH} (behind the prefix of the URL, if it has one)",
    expects="HTTP 101 with the right Sec-WebSocket-Accept, and a first message of one of the specification's types",
    why="The path is the one thing that a client knows beforehand.",
)  # fmt: skip
async def path(bench: Bench) -> None:
    """The endpoint's path takes WebSocket connections."""
    target = bench.facts.target
    if not target.path.endswith(PATH):
        bench.fail("EP.path", f"the endpoint to test has the path {target.path} and not {PATH}")
    peer = await bench.strict()
    assert peer.greeting is not None
    bench.require(peer.greeting.type in TYPES, "EP.path", f"came first: {peer.greeting.brief()}", peer)


@SERVER.case(
    "S-EP-02", "core", "EP.path-exact",
    sends=f"upgrade requests for {', '.join(_OTHER_PATHS)}",
    expects="another answer than HTTP 101 to each, for example 404",
    why="A path of another version must not be answered by this one.",
)  # fmt: skip
async def other_paths(bench: Bench) -> None:
    """Other paths take no WebSocket connections."""
    target = bench.facts.target
    await bench.strict()  # so that a refusal of the others says something
    for other in _OTHER_PATHS:
        try:
            peer = await bench.connect(target=target.at(target.base + other), timeout_s=_REFUSAL_S)
        except ConnectFailedError:
            continue
        bench.expect(False, "EP.path-exact", f"{other} became a WebSocket connection", peer)


@SERVER.case(
    "S-EP-03", "core", "EP.query-ignored",
    sends="an upgrade request with the query unknown=1&caps=conformance-nonsense,,&caps2=x, then a subscribe",
    expects="a connection message without capabilities and an answer to the subscribe, as without the query",
    why="A client may ask a newer server and an older one for the same.",
)  # fmt: skip
async def query_ignored(bench: Bench) -> None:
    """Unknown query parameters and capabilities change nothing."""
    try:
        peer = await bench.strict(query="unknown=1&caps=conformance-nonsense,,&caps2=x")
    except ConnectFailedError as error:
        bench.fail("EP.query-ignored", f"with unknown query parameters: {error}")
    bench.expect(not peer.granted, "EP.query-ignored", f"granted unknown ones: {sorted(peer.granted)}", peer)
    await served(bench, peer, "EP.query-ignored", "with unknown query parameters")


@SERVER.case(
    "S-EP-04", "core", "EP.subprotocol",
    sends=f"an upgrade request that offers the subprotocols chat and {_OURS}",
    expects=f"HTTP 101 with {_PROTOCOL}: {_OURS}",
    why="A browser ends the connection when none of the subprotocols that it offered is taken.",
)  # fmt: skip
async def subprotocol(bench: Bench) -> None:
    """The subprotocol is echoed to a client that offers it."""
    peer = await bench.connect(headers=[(_PROTOCOL, f"chat, {_OURS}")])
    await bench.greet(peer)
    taken = peer.response.header(_PROTOCOL)
    bench.expect(taken == _OURS, "EP.subprotocol", f"{_PROTOCOL} of the answer is {shown(taken)}", peer)


@SERVER.case(
    "S-EP-05", "core", "EP.subprotocol",
    sends="an upgrade request that offers no subprotocol, then one that offers only chat",
    expects=f"HTTP 101 without {_PROTOCOL} to the first; if the second is taken, without {_PROTOCOL} as well",
    why="A client has to end a connection with a subprotocol that it did not offer.",
)  # fmt: skip
async def subprotocol_not_offered(bench: Bench) -> None:
    """A subprotocol that was not offered is not named."""
    headers: tuple[tuple[str, str], ...]
    for headers in ((), ((_PROTOCOL, "chat"),)):
        try:
            peer = await bench.connect(headers=headers)
        except ConnectFailedError as error:
            if headers and error.response is not None:
                bench.note(f"a client that offers another subprotocol is turned away: {error}")
                return
            raise
        await bench.greet(peer)
        taken = peer.response.header(_PROTOCOL)
        bench.expect(taken is None, "EP.subprotocol", f"{_PROTOCOL} of the answer is {shown(taken)}", peer)


@SERVER.case(
    "S-EP-06", "core", "EP.websocket", "MS.answered",
    sends="an upgrade request without Sec-WebSocket-Extensions, then a subscribe",
    expects="HTTP 101 without extensions, a connection message and an answer, all uncompressed",
    why="Compression is the client's choice; small clients have none.",
)  # fmt: skip
async def without_deflate(bench: Bench) -> None:
    """A client without compression is served."""
    peer = await bench.strict(offer_deflate=False)
    await served(bench, peer, "MS.answered", "without compression")


@SERVER.case(
    "S-EP-07", "core", "EP.caps-in-force",
    sends="an upgrade request that asks for nothing, then a subscribe",
    expects="a first message without data.capabilities, or with an empty list",
    why="A client that asked for nothing does not look there and would not understand what follows.",
)  # fmt: skip
async def nothing_unasked(bench: Bench) -> None:
    """Nothing is granted that was not asked for."""
    peer = await bench.strict()
    assert peer.greeting is not None
    listed = peer.greeting.data.get("capabilities")
    bench.expect(not listed, "EP.caps-in-force", f"data.capabilities is {shown(listed)}", peer)
    await served(bench, peer, "EP.caps-in-force", "with nothing asked for")


@SERVER.case(
    "S-EP-08", "core", "EP.caps-listed",
    sends="for each capability that the server grants, an upgrade request that asks for it and for an unknown one",
    expects="data.capabilities of the first message lists the capability and nothing else",
    why="The list is how a client knows what is in force.",
)  # fmt: skip
async def listed(bench: Bench) -> None:
    """What is granted of what was asked for is listed, and nothing else."""
    bench.need(bench.facts.granted, "the server grants no capability")
    for name in sorted(bench.facts.granted):
        peer = await bench.connect(caps=(name, "conformance-nonsense"))
        await bench.greet(peer)
        told = f"asked for {name}, and {sorted(peer.granted) or 'nothing'} is listed"
        bench.expect(peer.granted == {name}, "EP.caps-listed", told, peer)


@SERVER.case(
    "S-EP-09", "core", "EP.early-bytes",
    sends="an upgrade request with a masked text frame (a subscribe) right behind it, in one write",
    expects="HTTP 400",
    why="Bytes before the answer are how requests are smuggled past a proxy that takes the upgrade for refused.",
)  # fmt: skip
async def early_bytes(bench: Bench) -> None:
    """Bytes that come with the upgrade request are refused."""
    await bench.strict()
    frame = encode_frame(Opcode.TEXT, b'{"type":"subscription","data":{}}', mask=True)
    try:
        peer = await bench.connect(behind=frame)
    except ConnectFailedError as error:
        status = error.response.status if error.response else None
        bench.expect(status == 400, "EP.early-bytes", f"the answer is no HTTP 400: {error}")
        return
    bench.fail("EP.early-bytes", "an upgrade request with a frame behind it was answered with HTTP 101", peer)


@SERVER.case(
    "S-EP-10", "core", "EP.wss",
    sends="an upgrade request over TLS", expects="HTTP 101 and a connection message",
    why="In production the service is reached over TLS. It can be tested where the URL begins with wss://.",
)  # fmt: skip
async def over_tls(bench: Bench) -> None:
    """The endpoint is served over TLS."""
    bench.need(bench.facts.target.tls, "the URL begins with ws://; name a wss:// one to test TLS")
    peer = await bench.strict()
    await peer.send_json(peer.subscription("subscribe", bench.tokens(1)))
    try:
        await peer.until(is_answer)
    except (SilenceError, EndedError) as error:
        bench.fail("EP.wss", f"over TLS: {error}", peer)
