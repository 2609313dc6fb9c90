"""MO: what the client tells its application of its state."""

from typing import Final

from tokenwire_conformance.client.bench import CLIENT, START_S, ClientBench
from tokenwire_conformance.client.cases.steps import RETURN_S, dropped, shown

__all__: list[str] = []

_STATES: Final = ("CONNECTING", "CONNECTED", "RECONNECTING", "FAILED")


@CLIENT.case(
    "C-MO-01", "core", "MO.client-state-changes",
    sends="a session, its reset, one reset in place of the next handshake, and a session again",
    expects="a state event for each change, and none with another state than CONNECTING, CONNECTED, RECONNECTING and "
    "FAILED",
    why="An application that knows the four states of the specification knows them all.",
    deadline_s=150,
)  # fmt: skip
async def only_the_four(bench: ClientBench) -> None:
    """No state but the four is told."""
    clause = "MO.client-state-changes"
    bench.need_events("state")
    await bench.start()
    link = await bench.session()
    seen = len(bench.events)
    await dropped(link)
    await (await bench.attempt(RETURN_S)).drop()
    await bench.link(RETURN_S)
    await bench.event("state", START_S, lambda fields: fields.get("state") == "CONNECTED", after=seen)
    told = [fields.get("state") for fields in bench.of("state")]
    strange = [state for state in told if state not in _STATES]
    bench.require(not strange, clause, f"the states told were {', '.join(map(shown, told))}")
