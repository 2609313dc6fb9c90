"""MC: the connection message."""

from tokenwire_conformance.server.bench import SERVER, Bench

__all__: list[str] = []


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
    bench.require(status == "connected", "MC.connected", f"its status is {status!r}", peer)
