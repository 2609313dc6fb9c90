"""How a processor comes to know what is known of a partition: from its newest snapshots and from the log, which holds
everything that became of raw records since. Raw records themselves are gone after an hour; these are not needed."""

from contextlib import aclosing
from typing import Final, NamedTuple

from tokenwire_server.bus.port import Bus, Place
from tokenwire_server.stream.fold import Fold
from tokenwire_server.stream.records import Cut, PoisonError, read_logged
from tokenwire_server.stream.replica import LogHoleError
from tokenwire_server.stream.state_topic import load_state, read_state
from tokenwire_server.stream.topics import Topics

__all__ = ["Beginning", "Missing", "NewerDataError", "UnusableStateError", "take_over"]


_MARKS: Final = 1  # behind the last record that was read stands the mark of its transaction, which is no record


class NewerDataError(Exception):
    """A newer version of this program wrote what is to be read; it must be updated, and nothing was skipped."""


class UnusableStateError(Exception):
    """What was kept of a partition can't be gone on from; the message says why, and what to do."""


class Missing(NamedTuple):
    """Raw records that nobody processed are gone. ``records``: how many at most, since nobody sees any more whether
    they were committed; 0, if not even that can be known."""

    records: int
    reason: str


class Beginning(NamedTuple):
    """Where a partition goes on: at the raw record at ``offset``, of the topic of that ``lineage``, behind what is
    ``missing``; its next log record stands at ``log_offset`` or later. The newest cut is at the raw record at
    ``cut_offset``, and so many records of the log, ``again``, were folded behind that."""

    offset: int
    lineage: str
    log_offset: int
    cut_offset: int
    again: int
    missing: Missing | None


async def take_over(bus: Bus, topics: Topics, number: int, committed: int | None, fold: Fold) -> Beginning:
    """Make a new ``fold`` be what the partition ``number`` came to; ``committed`` is what the group says of it.

    Raises:
        BusError: try again, with another fold.
        NewerDataError: see there.
        UnusableStateError: see there.
    """
    log = Place(topics.log, number)
    where = f"{topics.tokens}/{number}"
    try:
        state = await read_state(bus, Place(topics.tokens, number))
        cut = state.cut
        await load_state(state, fold)
        where = f"{topics.log}/{number}"
        first, end = await bus.bounds(log)
        again = 0
        async with aclosing(bus.pieces(log, max(first, cut.log_offset), end)) as pieces:
            async for piece in pieces:
                for record in piece:
                    fold.again(read_logged(record.value))
                again += len(piece)
        if first > cut.log_offset and not again:
            _check_nothing_lost(cut, end, committed)
        known = fold.taken_over()
    except LogHoleError as error:
        raise UnusableStateError(
            f"{where}: {error}; if they were deleted, only new topics (TOKENWIRE_KAFKA_TOPICS) and a new "
            "TIMESCALE_SCHEMA help: what came of them can't be known any more"
        ) from None
    except PoisonError as error:
        if error.is_newer:
            raise NewerDataError(f"{where}: {error}") from None
        raise UnusableStateError(f"{where} can't be read: {error}") from None
    except ValueError as error:
        raise UnusableStateError(
            f"{where}: {error}; TOKENWIRE_BAR_INTERVALS has to stay as it was and be the same in all roles, and "
            "TOKENWIRE_MAX_TOKENS may not be less than there are tokens"
        ) from None
    lineage = await bus.lineage(topics.raw)
    is_same = cut.lineage in ("", lineage)
    offset, missing = await _beginning(bus, Place(topics.raw, number), committed, known if is_same else None)
    return Beginning(offset, lineage, end, cut.raw_offset, again, missing)


def _check_nothing_lost(cut: Cut, end: int, committed: int | None) -> None:
    """All records behind the cut have expired: were there any that are not in it?"""
    is_newest = committed is not None and committed == cut.raw_offset
    if end - cut.log_offset > _MARKS and not is_newest:
        raise LogHoleError(f"records behind {cut.seq} of the log are missing")


async def _beginning(bus: Bus, raw: Place, committed: int | None, known: int | None) -> tuple[int, Missing | None]:
    """Where to begin with raw records. ``known``: how far the log knows of them, if this is the topic that it knows;
    that counts where the group has forgotten what it committed, which it does after some days without members."""
    first, end = (await bus.firsts([raw]))[raw], (await bus.ends([raw]))[raw]
    name = f"{raw.topic}/{raw.partition}"
    offset = known if committed is None else committed
    if offset is None:
        return first, Missing(0, f"{name} was made anew, and may have held records that nobody processed")
    if offset > end:
        return end, Missing(0, f"{name} ends at {end}, and was processed up to {offset}: records behind that are lost")
    if first - offset > _MARKS:
        count = first - offset
        return first, Missing(count, f"{name}: up to {count} records ({offset} to {first - 1}) are gone unprocessed")
    return max(first, offset), None
