"""MS: what the client asks for."""

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import shown
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []


@CLIENT.case(
    "C-MS-01", "core", "MS.client-request",
    sends="a connection message",
    expects="a message of the type subscription whose action is subscribe or unsubscribe and whose tokens is a list of "
    "at least one string; status, requestId and further fields do not matter",
    why="A server serves only what it can read.",
)  # fmt: skip
async def valid_request(bench: ClientBench) -> None:
    """The client's subscriptions have an action and a list of tokens."""
    clause = "MS.client-request"
    await bench.start()
    link = await bench.link()
    if not await link.first_request():
        sent = link.messages[0].brief() if link.messages else "nothing"
        raise SilenceError(f"no subscription message within 5 s of the connection message; the client sent {sent}")
    await link.subscribed(bench.wanted, 2.0)
    for message in link.requests:
        action, tokens = message.data.get("action"), message.data.get("tokens")
        known = action in ("subscribe", "unsubscribe")
        bench.require(known, clause, f"the action is {shown(action)}: {message.brief()}", link.number)
        listed = isinstance(tokens, list) and bool(tokens) and all(isinstance(name, str) for name in tokens)
        bench.require(listed, clause, f"tokens is no list of strings: {message.brief()}", link.number)


@CLIENT.case(
    "C-MS-02", "core", "MS.client-request",
    sends="a connection message",
    expects="the client subscribes to exactly the tokens that it was started with, in one message or several",
    why="What was not asked for is not sent.",
)  # fmt: skip
async def wanted_tokens(bench: ClientBench) -> None:
    """The client subscribes to what it was told to."""
    if not bench.facts.launcher.names_tokens:
        # Without {tokens} nobody knows what the client wants.
        await bench.start()
        link = await bench.link()
        if not await link.first_request():
            raise SilenceError("the client did not subscribe to anything within 5 s of the connection message")
        return
    await bench.start()
    link = await bench.link()
    complete = await link.subscribed(bench.wanted)
    held = ", ".join(sorted(link.held)[:10]) or "nothing"
    bench.require(complete, "MS.client-request", f"the client subscribed to {held}", link.number)
