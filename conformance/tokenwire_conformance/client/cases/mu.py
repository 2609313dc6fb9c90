"""MU: the values that reach the application."""

from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import HEAR_S, shown
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_LONG: Final = "12345678901234567.890123456789123"
_TINY: Final = "0.000000000000000000000123456789"


async def _exact(bench: ClientBench, price: str) -> None:
    bench.need_events("update")
    await bench.start()
    link = await bench.session()
    before = len(bench.events)
    await link.update(bench.wanted[0], price)
    near = float(price)

    def is_meant(fields: dict[str, object]) -> bool:
        try:
            return abs(float(str(fields.get("price"))) - near) <= near * 1e-3
        except ValueError:
            return False

    try:
        event = await bench.event("update", HEAR_S, is_meant, after=before)
    except SilenceError as error:
        bench.fail("MU.client-exact", f"a price of {price}: {error}", link.number)
    told = event.fields.get("price")
    bench.require(told == price, "MU.client-exact", f"the price {price} was told as {shown(told)}", link.number)


@CLIENT.case(
    "C-MU-01", "core", "MU.client-exact",
    sends=f"an update with the price {_LONG}",
    expects="the update event has exactly these digits, as a string",
    why="Prices are decimal strings because binary floating point would change them.",
)  # fmt: skip
async def many_digits(bench: ClientBench) -> None:
    """A price of 32 digits reaches the application unchanged."""
    await _exact(bench, _LONG)


@CLIENT.case(
    "C-MU-02", "core", "MU.client-exact",
    sends=f"an update with the price {_TINY}",
    expects="the update event has exactly these digits, as a string, not in exponential notation",
    why="Many tokens cost less than any display expects.",
)  # fmt: skip
async def tiny(bench: ClientBench) -> None:
    """A tiny price reaches the application unchanged."""
    await _exact(bench, _TINY)
