"""XZ: binary messages, where ``zstd`` is granted."""

import json
from dataclasses import replace

from tokenwire_conformance.figures import COMPRESSION_THRESHOLD_BYTES, REPLY_S
from tokenwire_conformance.server.bench import SERVER, Bench, made_up_name
from tokenwire_conformance.server.extension import gathered, resume, resumed, secret_of
from tokenwire_conformance.server.peer import Peer, tokens_of
from tokenwire_conformance.server.zstd import BEGINS, Parts, ZstdError, ZstdReader
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received

__all__: list[str] = []

_NAMES = 30
"""Made-up names in a request: 30 of 43 characters make an answer of more than 1024 bytes, refused or not."""


_TICKS = 2
"""Update intervals in which batches may come."""


def _read(bench: Bench, peer: Peer) -> list[tuple[Received, Parts | None]]:
    """Every message of the connection as text, and the parts of those that were binary."""
    reader = ZstdReader()
    found: list[tuple[Received, Parts | None]] = []
    for message in peer.messages:
        if message.opcode is not Opcode.BINARY:
            found.append((message, None))
            continue
        try:
            parts = reader.read(message.payload)
        except ZstdError as error:
            bench.fail("XZ.stream" if error.of_stream else "XZ.layout", str(error), peer)
        found.append((replace(message, opcode=Opcode.TEXT, payload=parts.text), parts))
    return found


async def _provoke(bench: Bench, peer: Peer, count: int) -> list[tuple[Received, Parts | None]]:
    """Make the server send ``count`` long answers, one after the other; everything that the connection has read."""
    for _ in range(count):
        names = [made_up_name("Long") for _ in range(_NAMES)]
        await peer.send_json(peer.subscription("unsubscribe", names))
        wanted = set(names)

        def complete(_: list[Received], wanted: set[str] = wanted) -> bool:
            answers = [m for m, _ in _read(bench, peer) if m.type == "subscription"]
            return any(wanted & set(map(str, tokens_of(m))) for m in answers)

        await gathered(peer, len(peer.messages), complete, REPLY_S)
    return _read(bench, peer)


def _binary(bench: Bench, peer: Peer, read: list[tuple[Received, Parts | None]]) -> list[Parts]:
    found = [parts for _, parts in read if parts]
    bench.require(found, "XZ.binary-large", "no binary message came", peer)
    return found


@SERVER.case(
    "S-XZ-01", "ext.zstd", "XZ.no-deflate",
    sends="an upgrade request that offers permessage-deflate and asks for zstd",
    expects="Sec-WebSocket-Extensions is absent from the answer, and a long message comes without RSV1",
    why="Data that is compressed already would be compressed again.",
)  # fmt: skip
async def no_deflate(bench: Bench) -> None:
    """permessage-deflate is declined where zstd is granted."""
    peer = await bench.extended("zstd")
    accepted = peer.response.header("sec-websocket-extensions") or ""
    bench.require("permessage-deflate" not in accepted, "XZ.no-deflate", f"it was accepted: {accepted}", peer)
    await _provoke(bench, peer, 1)
    bench.require(len(peer.messages) > 1, "XZ.binary-large", "a request was not answered", peer)


@SERVER.case(
    "S-XZ-02", "ext.zstd", "XZ.binary-large",
    sends=f"an unsubscribe from {_NAMES} made-up names (a long answer), and a subscribe to a token (short messages)",
    expects="messages of more than 1024 bytes, decoded, are binary; all others are text",
    why="Short messages do not gain by compression, and stay readable.",
)  # fmt: skip
async def binary_large(bench: Bench) -> None:
    """Messages of more than 1024 bytes are binary, all others text."""
    peer = await bench.extended("zstd")
    await peer.subscribe(bench.live_tokens(1))
    read = await _provoke(bench, peer, 2)
    for message, parts in read:
        size = len(message.payload)
        large = size > COMPRESSION_THRESHOLD_BYTES
        kind = "binary" if parts else "text"
        bench.require(large == bool(parts), "XZ.binary-large", f"a message of {size} bytes came as {kind}", peer)
    _binary(bench, peer, read)


@SERVER.case(
    "S-XZ-03", "ext.zstd", "XZ.layout",
    sends=f"three times an unsubscribe from {_NAMES} made-up names",
    expects='each binary message is a flag of 0x00 or 0x01, the lengths of head and body, the head in clear, which '
    'ends with "data":, and the body as Zstandard data of that length; together they are a JSON object with type, '
    "sequence, timestamp and data",
    why="The lengths let a reader stop a bomb; the split lets one compression serve all readers.",
)  # fmt: skip
async def layout(bench: Bench) -> None:
    """A binary message is a flag, two lengths, a head and a body, and decodes to a message."""
    peer = await bench.extended("zstd")
    read = await _provoke(bench, peer, 3)
    _binary(bench, peer, read)
    for message, parts in read:
        if parts is None:
            continue
        keys = {"type", "sequence", "timestamp", "data"}
        bench.require(set(message.envelope) == keys, "XZ.layout", f"it decodes to {message.brief()}", peer)
        try:
            data = json.loads(parts.body.removesuffix(b"}"))
        except ValueError:
            data = None
        bench.require(data == message.data, "XZ.layout", "the body does not begin with the { that opens data", peer)


@SERVER.case(
    "S-XZ-04", "ext.zstd", "XZ.stream",
    sends=f"four times an unsubscribe from {_NAMES} made-up names, and where batch is granted a subscribe to 50 "
    "tokens before, with two update intervals of time",
    expects="the first binary message begins a stream (0x00); each other begins one too, or continues the Zstandard "
    "frame of the binary message before it (0x01), and decodes to its length without the message after it",
    why="A message that continues anything else cannot be read, and one that is not flushed comes too late.",
    deadline_s=60.0,
)  # fmt: skip
async def stream(bench: Bench) -> None:
    """The first binary message begins a stream, and the others continue it."""
    extra = sorted({"batch"} & bench.facts.granted)
    peer = await bench.extended("zstd", *extra)
    count = min(50, peer.limit, len(bench.facts.tokens))
    await peer.send_json(peer.subscription("subscribe", bench.tokens(count)))
    # Ticks of batches are where streams pay; without batch the answers have to do.
    if extra:
        await gathered(
            peer, 1, lambda ms: any(m.payload[:1] == b"\x01" for m in ms), _TICKS * bench.facts.update_interval_s
        )
    read = await _provoke(bench, peer, 4)
    found = _binary(bench, peer, read)
    bench.require(found[0].flag == BEGINS, "XZ.stream", "the first binary message continues a stream", peer)
    bench.require(len(found) >= 4, "XZ.stream", f"only {len(found)} of 4 long answers came binary", peer)
    for message, parts in read:
        bench.require(not parts or message.type, "XZ.stream", f"one decodes to {message.brief()}", peer)
    continued = sum(parts.flag != BEGINS for parts in found)
    bench.note(f"{continued} of {len(found)} binary messages continued a stream")


@SERVER.case(
    "S-XZ-05", "ext.zstd", "XZ.stream",
    sends=f"twice an unsubscribe from {_NAMES} made-up names in a session; then a resume from seq=1",
    expects="the first binary message of the second socket begins a stream; the replayed messages decode to what "
    "they were",
    why="The reader of a new socket has no stream yet that could be continued.",
)  # fmt: skip
async def resumed_begins_anew(bench: Bench) -> None:
    """A resumed socket begins with a new stream."""
    old = await bench.extended("zstd", "resume")
    before = {m.sequence: m.envelope for m, _ in await _provoke(bench, old, 2)}
    await old.abort()
    peer = await resume(bench, secret_of(bench, old), seq=1, caps=("zstd", "resume"))
    bench.require(resumed(peer), "XR.resumed", "the session was not resumed", peer)
    highest = max(number or 0 for number in before)
    await gathered(peer, 1, lambda _: any((m.sequence or 0) >= highest for m, _ in _read(bench, peer)[1:]))
    read = _read(bench, peer)[1:]
    found = _binary(bench, peer, read)
    bench.require(found[0].flag == BEGINS, "XZ.stream", "the first binary message continues a stream", peer)
    for message, _ in read:
        same = before.get(message.sequence, message.envelope) == message.envelope
        bench.require(same, "XR.replay-exact", f"{message.sequence} has changed: {message.brief()}", peer)
    answers = [message for message, _ in read if message.type == "subscription"]
    bench.require(len(answers) >= 2, "XR.replay-exact", f"{len(answers)} of 2 answers were replayed", peer)
