"""EP: where the client connects."""

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import shown
from tokenwire_conformance.figures import PATH

__all__: list[str] = []


@CLIENT.case(
    "C-EP-01", "core", "EP.client-path",
    sends="nothing: the URL that the client is given ends in /api/v1/ws/token-data",
    expects="a WebSocket upgrade request for exactly that path; a query may follow",
    why="A server serves no other path.",
)  # fmt: skip
async def opens_the_path(bench: ClientBench) -> None:
    """The client opens the path of the specification."""
    await bench.start()
    request = await (await bench.attempt()).request()
    bench.require(request.path == PATH, "EP.client-path", f"the client asked for {request.path[:200]}", 1)
    upgrade = (request.header("upgrade") or "").lower()
    bench.require(upgrade == "websocket", "EP.client-path", f"the request's Upgrade header is {shown(upgrade)}", 1)
