"""DC: the numbers of messages, and what the client makes of them."""

import asyncio
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import (
    RETURN_S,
    again,
    dropped,
    gap_numbers,
    goes_on,
    hears,
    mark,
    notices,
    order_heard,
    shown,
)
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.model import NotTestableError

__all__: list[str] = []

_NOTICE_S: Final = 10.0
_QUIET_S: Final = 4.0
_MISSING: Final = 3


@CLIENT.case(
    "C-DC-01", "core", "DC.sequence-tracking",
    sends="ten updates with the numbers that follow, 0.1 s apart",
    expects="each value reaches the application once, in order",
    why="Everything else about the numbers is for this.",
)  # fmt: skip
async def in_order(bench: ClientBench) -> None:
    """What comes in order reaches the application once and in order."""
    bench.need_events("update")
    await bench.start()
    link = await bench.session()
    sent = [bench.fresh_price() for _ in range(10)]
    for price in sent:
        await link.update(bench.wanted[0], price)
        await asyncio.sleep(0.1)
    heard = await order_heard(bench, sent)
    text = f"of {', '.join(sent)} the application heard {', '.join(heard) or 'nothing'}"
    bench.require(heard == sent, "DC.sequence-tracking", text, link.number)


@CLIENT.case(
    "C-DC-02", "core", "DC.sequence-tracking",
    sends="updates, warnings and an update again, numbered without a hole over all types",
    expects="no gap event, no request to repair anything and no reconnecting within 4 s",
    why="The numbers count all messages of a connection, whatever their type.",
)  # fmt: skip
async def no_false_gap(bench: ClientBench) -> None:
    """Messages of several types, numbered without a hole, are no gap."""
    await bench.start()
    link = await bench.session()
    await asyncio.sleep(0.5)
    since = mark(bench, link)
    for _ in range(2):
        await link.update(bench.wanted[0])
        await link.error("UPSTREAM_STALE", "warning")
    await link.update(bench.wanted[0])
    how = await notices(bench, link, since, _QUIET_S)
    bench.require(how is None, "DC.sequence-tracking", f"nothing was missing, but {how}", link.number)


async def _hole(bench: ClientBench, link: Link, count: int = _MISSING) -> tuple[int, int]:
    """Leave out ``count`` numbers before the next message; the first and the last of them."""
    first = link.sequence + 1
    link.sequence += count
    return first, link.sequence


@CLIENT.case(
    "C-DC-03", "core", "DC.gap-detection",
    sends="an update whose number is higher by 4 than the one before, then updates that follow it",
    expects="within 10 s the client prints a gap event, or repairs the loss: by a request, or by reconnecting",
    why="A lost update is a price that stays wrong.",
)  # fmt: skip
async def gap_noticed(bench: ClientBench) -> None:
    """Missing numbers are noticed."""
    await _gap_noticed(bench, in_error=False)


@CLIENT.case(
    "C-DC-04", "core", "DC.gap-detection",
    sends="a warning whose number is higher by 4 than that of the update before it",
    expects="within 10 s the client prints a gap event, or repairs the loss: by a request, or by reconnecting",
    why="The numbers count all types: the message that shows the loss need not be an update.",
)  # fmt: skip
async def gap_noticed_by_error(bench: ClientBench) -> None:
    """Missing numbers are noticed at a message of any type."""
    await _gap_noticed(bench, in_error=True)


async def _gap_noticed(bench: ClientBench, *, in_error: bool) -> None:
    await bench.start()
    link = await bench.session()
    await asyncio.sleep(0.5)
    since = mark(bench, link)
    first, last = await _hole(bench, link)
    if in_error:
        await link.error("UPSTREAM_STALE", "warning")
    else:
        await link.update(bench.wanted[0])
        await link.update(bench.wanted[0])
    how = await notices(bench, link, since, _NOTICE_S)
    if how is None and not bench.facts.events:
        raise NotTestableError("the client repaired nothing, and prints no events that would tell whether it noticed")
    text = f"the numbers {first} to {last} were missing, and within {_NOTICE_S:g} s the client showed no sign of it"
    bench.require(how is not None, "DC.gap-detection", text, link.number)


@CLIENT.case(
    "C-DC-05", "core", "DC.gap-detection",
    sends="an update whose number is higher by 4 than the one before",
    expects="the gap events of a client that prints any name the three missing numbers, and no others; from or to may "
    "be null",
    why="Who fetches what is missing has to know what that is.",
)  # fmt: skip
async def gap_exact(bench: ClientBench) -> None:
    """A gap event names exactly the missing numbers."""
    bench.need_events("gap")
    await bench.start()
    link = await bench.session()
    await asyncio.sleep(0.5)
    since = mark(bench, link)
    first, last = await _hole(bench, link)
    await link.update(bench.wanted[0])
    if await notices(bench, link, since, _NOTICE_S) is None:
        bench.fail("DC.gap-detection", f"the numbers {first} to {last} were missing, and no gap was told", link.number)
    await asyncio.sleep(2)
    told = bench.of("gap")[since.gaps :]
    if not told:
        raise NotTestableError("the client repaired the loss without a gap event")
    named = [gap_numbers(fields) for fields in told]
    if None in named:
        raise NotTestableError("the gap event leaves an end open")
    numbers = sorted({number for one in named for number in one or ()})
    text = f"the numbers {first} to {last} were missing, and the numbers told were {numbers[:20]}"
    bench.require(numbers == list(range(first, last + 1)), "DC.gap-detection", text, link.number)


@CLIENT.case(
    "C-DC-06", "core", "DC.sequence-tracking",
    sends="an update behind three missing numbers, and 3 s later updates that follow it; if the client reconnects, an "
    "update on the new connection",
    expects="updates reach the application again",
    why="A loss that was noticed must not end the flow of values.",
)  # fmt: skip
async def flows_after_gap(bench: ClientBench) -> None:
    """Values reach the application after a gap."""
    await bench.start()
    link = await bench.session()
    await asyncio.sleep(0.5)
    await _hole(bench, link)
    await link.update(bench.wanted[0])
    await asyncio.sleep(3)
    await goes_on(bench, link, "DC.sequence-tracking", "missing numbers")


@CLIENT.case(
    "C-DC-07", "core", "DC.out-of-order",
    sends="an update twice, byte by byte the same, then one that follows",
    expects="the first value reaches the application once, and the connection is of use after it",
    why="A message that comes twice is one message.",
)  # fmt: skip
async def duplicate(bench: ClientBench) -> None:
    """A message that comes twice is delivered once."""
    bench.need_events("update")
    await bench.start()
    link = await bench.session()
    price = bench.fresh_price()
    message = await link.update(bench.wanted[0], price)
    if not await hears(bench, price):
        bench.fail("DC.out-of-order", "an update in order did not reach the application", link.number)
    await link.send_json(message)
    heard = await order_heard(bench, [price], 1.0)
    await asyncio.sleep(1)
    heard = await order_heard(bench, [price], 1.0)
    text = f"an update that came twice reached the application {len(heard)} times"
    bench.require(len(heard) == 1, "DC.out-of-order", text, link.number)
    await goes_on(bench, link, "DC.out-of-order", "a message that came twice")


@CLIENT.case(
    "C-DC-08", "core", "DC.out-of-order",
    sends="the numbers n+1, n+3, n+2, n+4 with an update each, at once",
    expects="the application never hears n+2 after n+3: the client holds n+3 back until n+2 is there, or drops n+2",
    why="The older price would look like the present one.",
)  # fmt: skip
async def reordered(bench: ClientBench) -> None:
    """Messages that change places are not delivered in the wrong order."""
    bench.need_events("update")
    await bench.start()
    link = await bench.session()
    await asyncio.sleep(0.5)
    sent = [bench.fresh_price() for _ in range(4)]
    base = link.sequence
    link.sequence += 4
    for step in (0, 2, 1, 3):
        await link.update(bench.wanted[0], sent[step], base + 1 + step)
    first = await hears(bench, sent[0])
    bench.require(first, "DC.out-of-order", "an update in order did not reach the application", link.number)
    heard = await order_heard(bench, sent)
    text = f"of {', '.join(sent)} the application heard {', '.join(heard)}"
    bench.require(heard == sorted(set(heard)), "DC.out-of-order", text, link.number)


@CLIENT.case(
    "C-DC-09", "core", "DC.out-of-order",
    sends="three updates in order, then an update of the same token with another price and the number of the first",
    expects="the last value does not reach the application",
    why="A number at or below the last one is not new, whatever it brings.",
)  # fmt: skip
async def old_number(bench: ClientBench) -> None:
    """A message with an old number is not delivered as new."""
    bench.need_events("update")
    await bench.start()
    link = await bench.session()
    sent = [bench.fresh_price() for _ in range(3)]
    first = 0
    for price in sent:
        first = first or link.sequence + 1
        await link.update(bench.wanted[0], price)
    if not await hears(bench, sent[-1]):
        bench.fail("DC.out-of-order", "an update in order did not reach the application", link.number)
    late = bench.fresh_price()
    await link.update(bench.wanted[0], late, first)
    heard = await hears(bench, late, 3.0)
    text = f"an update with the number {first} after {first + 2} reached the application"
    bench.require(not heard, "DC.out-of-order", text, link.number)


@CLIENT.case(
    "C-DC-10", "core", "DC.client-new-count",
    sends="a connection that gets as far as number 30, its end, and a connection that starts at 1 again",
    expects="the values of the second connection reach the application, no gap with two ends is told, and the client "
    "stays",
    why="Each connection is numbered for itself.",
)  # fmt: skip
async def new_count(bench: ClientBench) -> None:
    """A new connection counts from 1."""
    clause = "DC.client-new-count"
    await bench.start()
    link = await bench.session()
    while link.sequence < 30:
        await link.update(bench.wanted[0])
    await asyncio.sleep(0.5)
    gaps = len(bench.of("gap"))
    await dropped(link)
    link = await again(bench, RETURN_S)
    price = bench.fresh_price()
    await link.update(bench.wanted[0], price)
    if "update" in bench.facts.events:
        text = "an update of the second connection did not reach the application"
        bench.require(await hears(bench, price), clause, text, link.number)
    await asyncio.sleep(3)
    bench.require(link.ended_s is None, clause, f"the client left the second connection: {link.ending()}", link.number)
    told = [fields for fields in bench.of("gap")[gaps:] if gap_numbers(fields) is not None]
    bench.require(not told, clause, f"nothing was missing on the second connection, but a gap was told: {shown(told)}")
