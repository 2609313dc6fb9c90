"""The probe: what its prices tell."""

import asyncio
import contextlib
from decimal import Decimal

import pytest

from tokenwire_server.market.decimals import canonical
from tokenwire_server.ports import SourceState
from tokenwire_server.sources.probe import Probe, planned_price, probe_address

from .conftest import RecordingSink


@pytest.mark.parametrize(
    ("planned_s", "text"),
    [(12_345.678901, "12345.678901"), (12_345.6, "12345.6"), (0.1 + 0.2, "0.3"), (86_400.0, "86400")],
)
def test_a_price_is_the_planned_instant_to_the_microsecond(planned_s: float, text: str) -> None:
    price = planned_price(planned_s)
    assert canonical(price) == text
    assert int(Decimal(text) * 1_000_000) == round(planned_s * 1_000_000)


async def test_every_token_tells_every_tick(sink: RecordingSink) -> None:
    wall = iter([2_000, 1_000, 3_000])
    task = asyncio.create_task(Probe(3, wall_ms=lambda: next(wall)).run(sink))
    await sink.until(lambda: bool(sink.callbacks))
    assert [(info.symbol, info.address) for info in sink.infos] == [(f"PROBE{n}", probe_address(n)) for n in range(3)]
    assert sink.kinds == [SourceState.LIVE]
    assert not sink.stated
    (speak,) = sink.callbacks
    for planned_s in (5.0, 10.0, 15.000001):
        speak(planned_s)
    assert [str(value.price) for value in sink.stated[::3]] == ["5.000000", "10.000000", "15.000001"]
    assert [value.time_ms for value in sink.stated[::3]] == [2_000, 2_000, 3_000]  # a clock set back changes nothing
    assert {value.address for value in sink.stated} == {info.address for info in sink.infos}
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
