"""CM: which close codes a client comes back after (I-44)."""

import asyncio

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import RETURN_S, again, stays_away
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []


def _name(code: int | None) -> str:
    return "a close frame without a code" if code is None else f"a close with {code}"


def _transient(number: int, title: str, *codes: int | None) -> None:
    async def case(bench: ClientBench) -> None:
        await bench.start()
        link = await bench.session()
        for code in codes:
            await link.close(code, "made by the conformance suite")
            try:
                link = await again(bench, RETURN_S)
            except (SilenceError, EndedError) as error:
                bench.fail("CM.transient-codes", f"after {_name(code)}: {error}", link.number)

    case.__doc__ = title
    listed = ", ".join("no code (1005)" if code is None else str(code) for code in codes)
    CLIENT.case(
        f"C-CM-{number}", "core", "CM.transient-codes", deadline_s=150,
        sends=f"sessions that are closed with {listed}, one after the other",
        expects="after each of them a new connection within 35 s",
        why="The range of a close code decides on reconnecting, so that codes nobody knows yet work too.",
    )(case)  # fmt: skip


_transient(20, "The client comes back after 1001, 1011 and 1012.", 1001, 1011, 1012)
_transient(21, "The client comes back after 1013, 1014 and a close without a code.", 1013, 1014, None)
_transient(22, "The client comes back after 4000, an unknown 4321 and 4499.", 4000, 4321, 4499)


def _final(number: int, code: int, title: str) -> None:
    async def case(bench: ClientBench) -> None:
        await bench.start()
        link = await bench.session()
        await asyncio.sleep(0.3)
        await link.close(code, "made by the conformance suite")
        await stays_away(bench, "CM.final-codes", _name(code))

    case.__doc__ = title
    CLIENT.case(
        f"C-CM-{number}", "core", "CM.final-codes",
        sends=f"a session that is closed with {code}",
        expects="no further attempt within 6 s",
        why="The range of a close code decides on reconnecting: what will be refused again is not tried again.",
    )(case)  # fmt: skip


_final(23, 1000, "The client does not come back after 1000.")
_final(24, 1008, "The client does not come back after 1008.")
_final(25, 3000, "The client does not come back after 3000, which no range is transient for.")
_final(26, 4500, "The client does not come back after 4500.")
_final(27, 4999, "The client does not come back after 4999, which nobody has heard of.")
