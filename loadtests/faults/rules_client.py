"""Invariants of what an application sees: nothing twice, nothing silently left out, the newest in the end."""

from collections.abc import Callable, Iterator, Set
from typing import Final

from loadtests.faults.history import Checkpointed, Delivered, Sent
from loadtests.faults.index import Index, Life, Stretch, Violation

__all__ = ["CLIENT_RULES"]

_BACKOFF_CAP_MS: Final = 30_000
_BACKOFF_BASE_MS: Final = 1_000
_NEVER_AT_ONCE: Final = frozenset({1012, 1013, 4001, 4005})
_STEPS: Final = frozenset(
    {
        ("CONNECTING", "CONNECTED"),
        ("CONNECTING", "RECONNECTING"),
        ("CONNECTING", "FAILED"),
        ("CONNECTED", "RECONNECTING"),
        ("CONNECTED", "FAILED"),
        ("RECONNECTING", "CONNECTED"),
        ("RECONNECTING", "FAILED"),
    }
)


def _of(rule: str, life: Life, stretch: Stretch | None, numbers: tuple[int, ...], text: str, t: int = 0) -> Violation:
    session = (stretch.session or "") if stretch is not None else ""
    return Violation(rule, f"{life.client}/{life.run}", session, numbers, text, t)


def order(index: Index) -> Iterator[Violation]:
    """Within a session the numbers of delivered values rise, and nothing is delivered more often than it was sent."""
    for life in index.lives.values():
        for stretch in life.stretches:
            last = stretch.base
            seen: dict[tuple[int, str, str], int] = {}
            for event in stretch.delivered:
                key = (event.sequence, event.address, event.price)
                times = seen[key] = seen.get(key, 0) + 1
                if event.sequence < last or event.sequence <= stretch.base:
                    text = f"{event.address} with {event.sequence} after {last}"
                    yield _of("order", life, stretch, (last, event.sequence), text, event.t)
                elif times > 1 and times > _times_sent(index, stretch, event):
                    text = f"{event.address} at {event.price} {times} times"
                    yield _of("order", life, stretch, (event.sequence,), text, event.t)
                last = max(last, event.sequence)


def _times_sent(index: Index, stretch: Stretch, event: Delivered) -> int:
    """How often the value stands in the message; a subscribe may repeat one that waits in the same batch."""
    frame = index.first_sent.get(stretch.session or "", {}).get(event.sequence)
    updates = frame.updates if frame is not None else ()
    return sum(1 for address, _, price in updates if (address, price) == (event.address, event.price))


def invented(index: Index) -> Iterator[Violation]:
    """What is delivered was sent in that session under that number."""
    for life in index.lives.values():
        for event in life.strays:
            yield _of("invented", life, None, (event.sequence,), f"{event.address} before any connection", event.t)
        for stretch in life.stretches:
            frames = index.first_sent.get(stretch.session or "", {})
            for event in stretch.delivered:
                frame = frames.get(event.sequence)
                values = frame.updates if frame is not None else ()
                if not any(event.address == address and event.price == price for address, _, price in values):
                    text = f"{event.address} at {event.price} is not in that message"
                    yield _of("invented", life, stretch, (event.sequence,), text, event.t)


def complete(index: Index) -> Iterator[Violation]:
    """No silent hole: each numbered value is delivered, or announced as a gap, or overtaken where that is allowed.

    Overtaken are values older than one delivered before (a repair), values of tokens the application gave up, the
    rest of a session after which a new one was announced, and, no more than were counted, what newer values
    replaced in the queue of a client whose application does not read.
    """
    for life in index.lives.values():
        replaced: dict[tuple[str, str], str] = {}
        newest = dict(life.inherited)
        for position, stretch in enumerate(life.stretches):
            is_last = position + 1 == len(life.stretches)
            until = _end_of(index, life, stretch, is_last)
            later = {event.address for part in life.stretches[position + 1 :] for event in part.delivered}
            if life.converged is None and life.overflowed:
                later.update(*(_waiting(index, part) for part in life.stretches[position:]))
            for number, missing in _missing(index, life, stretch, until, newest, later):
                frame, address, price, may_be_replaced = missing
                if may_be_replaced:
                    replaced[address, price] = f"{address} at {price} (#{number} of {stretch.session})"
                    continue
                text = f"{address} at {price} was sent, and neither delivered nor announced as missing"
                yield _of("complete", life, stretch, (number,), text, frame.t)
        for event in (event for stretch in life.stretches for event in stretch.delivered):
            replaced.pop((event.address, event.price), None)  # sent again under another number
        if len(replaced) > life.overflowed:
            text = (
                f"{len(replaced)} values were left out, but only {life.overflowed} counted as replaced in the queue; "
                f"the last ones: {', '.join([*replaced.values()][-3:])}"
            )
            yield _of("complete", life, None, (len(replaced), life.overflowed), text)


def _waiting(index: Index, stretch: Stretch) -> set[str]:
    """Tokens whose newest value was still in the client's queue when its process ended, as far as that can be."""
    taken: dict[str, int] = {}
    for event in stretch.delivered:
        taken[event.address] = event.sequence
    frames = index.first_sent.get(stretch.session or "", {})
    return {
        address
        for number, frame in frames.items()
        for address, _, _ in frame.updates
        if number > taken.get(address, stretch.base)
    }


def _end_of(index: Index, life: Life, stretch: Stretch, is_last: bool) -> int:
    """Up to which number the life must account for the session."""
    if is_last and index.quiet and life.stopped is None and life.converged is not None:
        return max(index.first_sent.get(stretch.session or "", {0: None}))
    last = max((event.sequence for event in stretch.delivered), default=stretch.base)
    if is_last and last > stretch.base:
        last -= 1  # the process may have ended in the middle of a batch
    return max([last, *(gap.last for gap in stretch.gaps if gap.last is not None)])


def _missing(
    index: Index,
    life: Life,
    stretch: Stretch,
    until: int,
    newest: dict[str, int],
    later: Set[str] = frozenset(),
) -> Iterator[tuple[int, tuple[Sent, str, str, bool]]]:
    """Values up to number ``until`` that nothing excuses, or at most (then True) a replacement in the queue.

    ``newest`` is the age of the newest value delivered of each token, ``later`` what further sessions delivered.
    """
    frames = index.first_sent.get(stretch.session or "", {})
    delivered: dict[int, list[Delivered]] = {}
    last_of: dict[str, int] = {}
    begun: set[str] = set()  # tokens with a value delivered in this session
    for event in stretch.delivered:
        delivered.setdefault(event.sequence, []).append(event)
        last_of[event.address] = event.sequence
    for number in range(stretch.base + 1, until + 1):
        frame = frames.get(number)
        if frame is None or not frame.updates:
            continue
        announced = any(
            gap.first is not None and gap.last is not None and gap.first <= number <= gap.last for gap in stretch.gaps
        )
        # What was announced lost, and the session's beginning, are followed by current values.
        repairing = any(gap.first is not None and gap.first <= number for gap in stretch.gaps)
        for address, _, price in frame.updates:
            age = index.order.get(address, {}).get(price)
            if any(event.address == address and event.price == price for event in delivered.get(number, ())):
                begun.add(address)
                newest[address] = age if age is not None else -1
            elif (
                announced
                or (age is not None and age <= newest.get(address, -1))
                or ((repairing or address not in begun) and _next_is_snapshot(stretch, address, number))
                or _given_up(life, address, frame.t)
            ):
                continue
            elif last_of.get(address, -1) >= number or address in later:
                yield number, (frame, address, price, True)
            else:
                yield number, (frame, address, price, False)


def _next_is_snapshot(stretch: Stretch, address: str, number: int) -> bool:
    following = (event for event in stretch.delivered if event.address == address and event.sequence > number)
    event = next(following, None)
    return event is not None and event.snapshot


def _given_up(life: Life, address: str, t: int) -> bool:
    """Whether the application did not want the token when it was sent, or gave it up later."""
    wanted = False
    for entry in life.wanted:
        if entry.address == address:
            if entry.t > t and not entry.wanted:
                return True
            if entry.t <= t:
                wanted = entry.wanted
    return not wanted


def gap_true(index: Index) -> Iterator[Violation]:
    """What a gap declares lost is not delivered."""
    for life in index.lives.values():
        for stretch in life.stretches:
            for gap in stretch.gaps:
                if gap.first is None or gap.last is None:
                    continue
                if gap.first > gap.last:
                    yield _of("gap_true", life, stretch, (gap.first, gap.last), "an empty gap", gap.t)
                hit = next((event for event in stretch.delivered if gap.first <= event.sequence <= gap.last), None)
                if hit is not None:
                    text = f"announced as lost ({gap.cause}), and delivered"
                    yield _of("gap_true", life, stretch, (hit.sequence,), text, gap.t)


def checkpoint(index: Index) -> Iterator[Violation]:
    """A checkpoint covers nothing that the application had not taken out of its client."""
    for life in index.lives.values():
        for entry, stretch, count in life.checkpoints:
            if stretch is None or entry.session is None:
                continue
            before = Stretch(stretch.session, stretch.base, delivered=stretch.delivered[:count],
                             gaps=[gap for gap in stretch.gaps if gap.t <= entry.t])  # fmt: skip
            later = {(event.sequence, event.address) for event in stretch.delivered[count:]}
            # Tokens with a newer value behind the checkpoint, which may have replaced others in the queue.
            waiting = _behind(index, life, entry) if life.overflowed else set()
            # A name that is not resolved yet is asked for again, and its value comes as a snapshot.
            waiting |= {event.address for event in stretch.delivered[count:] if event.snapshot}
            for number, missing in _missing(index, life, before, entry.sequence, index.newest_before(life, stretch, 0)):
                if (number, missing[1]) in later:
                    text = f"covers {missing[1]}, which was delivered only later"
                    yield _of("checkpoint", life, stretch, (number, entry.sequence), text, entry.t)
                elif not missing[3] and missing[1] not in waiting:
                    text = f"covers {missing[1]} at {missing[2]}, which was never delivered"
                    yield _of("checkpoint", life, stretch, (number, entry.sequence), text, entry.t)


def _behind(index: Index, life: Life, entry: Checkpointed) -> set[str]:
    """Tokens of which the client was sent something after the checkpoint's number, in its session or a later one."""
    begun = min((frame.t for frame in index.by_session.get(entry.session or "", ())), default=0)
    return {
        address
        for session, frames in index.by_session.items()
        for frame in frames
        if frame.client == life.client and begun < frame.t <= entry.t
        if session != entry.session or frame.sequence > entry.sequence
        for address, _, _ in frame.updates
    }


def rising(index: Index) -> Iterator[Violation]:
    """A token's values never go back in the life of a client, and only a snapshot repeats one."""
    for life in index.lives.values():
        newest: dict[str, int] = {}
        for stretch in life.stretches:
            for event in stretch.delivered:
                age = index.order.get(event.address, {}).get(event.price, event.version)
                if age is None:
                    continue
                last = newest.get(event.address)
                repeats = event.snapshot or event.version is None
                if last is not None and (age < last or (age == last and not repeats)):
                    text = f"{event.address} goes from its {last}. value to its {age}."
                    yield _of("rising", life, stretch, (event.sequence,), text, event.t)
                newest[event.address] = age


def missed(index: Index) -> Iterator[Violation]:
    """``missed`` is exactly the number of versions that were produced between two delivered ones."""
    for life in index.lives.values():
        last: dict[str, tuple[str | None, int]] = {}  # stream and version
        for stretch in life.stretches:
            stream = index.streams.get(stretch.session or "")
            for event in stretch.delivered:
                if event.version is None:
                    continue
                before = last.get(event.address)
                last[event.address] = (stream, event.version)
                if before is None or before[0] != stream or stream is None or not _never_given_up(life, event.address):
                    continue
                produced = index.produced.get((stream, event.address), {})
                between = sum(1 for version in range(before[1] + 1, event.version) if version in produced)
                if (event.missed or 0) != between:
                    text = f"{event.address}: {before[1]} to {event.version}, {between} between, told {event.missed}"
                    yield _of("missed", life, stretch, (event.sequence,), text, event.t)


def every_version(index: Index) -> Iterator[Violation]:
    """With ``delivery=every`` none is left out between two of one session, unless a gap says so."""
    for life in index.lives.values():
        if not life.every or life.overflowed:
            continue
        for stretch in life.stretches:
            if stretch.gaps:
                continue
            last: dict[str, int] = {}
            for event in stretch.delivered:
                age = index.order.get(event.address, {}).get(event.price)
                if age is None or not _never_given_up(life, event.address):
                    continue
                before = last.get(event.address, age - 1)
                if age > before + 1 and not _unsubscribed_between(index, stretch, event):
                    text = f"{event.address} jumps over {age - before - 1} versions"
                    yield _of("every_version", life, stretch, (event.sequence,), text, event.t)
                last[event.address] = age


def _unsubscribed_between(index: Index, stretch: Stretch, event: Delivered) -> bool:
    """Whether the session gave the token up before this value, perhaps for an earlier process of the client."""
    return any(
        frame.action == "unsubscribe" and event.address in frame.tokens and stretch.base < number < event.sequence
        for number, frame in index.first_sent.get(stretch.session or "", {}).items()
    )


def _never_given_up(life: Life, address: str) -> bool:
    """After a pause nobody counts what was not asked for meanwhile."""
    return not any(entry.address == address and not entry.wanted for entry in life.wanted)


def steps(index: Index) -> Iterator[Violation]:
    """The states go only where the specification lets them."""
    for life in index.lives.values():
        state = "CONNECTING"
        for step in life.steps:
            if step.before != state or (step.before, step.after) not in _STEPS:
                yield _of("steps", life, None, (), f"{step.before} -> {step.after} while {state}", step.t)
            state = step.after


def delays(index: Index) -> Iterator[Violation]:
    """No wait exceeds 30 s unless the server asked for it; none is below 1 s after a close for overload."""
    for life in index.lives.values():
        for retry in life.retries:
            if not 0 <= retry.delay_ms <= max(_BACKOFF_CAP_MS, retry.retry_after_ms or 0):
                yield _of("delays", life, None, (retry.delay_ms,), "a wait beyond the cap", retry.t)
            if retry.code in _NEVER_AT_ONCE and retry.delay_ms < _BACKOFF_BASE_MS:
                text = f"a wait below the base after close {retry.code}"
                yield _of("delays", life, None, (retry.delay_ms,), text, retry.t)
            if retry.retry_after_ms is not None and retry.delay_ms < retry.retry_after_ms:
                text = f"shorter than Retry-After ({retry.retry_after_ms} ms)"
                yield _of("delays", life, None, (retry.delay_ms,), text, retry.t)


def subscriptions(index: Index) -> Iterator[Violation]:
    """In the end the server sends a client exactly what its application wants."""
    for life in index.lives.values():
        end = life.converged
        if end is not None and end.served is not None and index.quiet and set(end.desired) != set(end.served):
            lacking = sorted(set(end.desired) - set(end.served))
            extra = sorted(set(end.served) - set(end.desired))
            yield _of("subscriptions", life, None, (), f"not served: {lacking}, not wanted: {extra}", end.t)


def values(index: Index) -> Iterator[Violation]:
    """In the end a client holds, and has delivered, the newest value of every token its application wants."""
    for life in index.lives.values():
        end = life.converged
        if end is None or not index.quiet:
            continue
        delivered: dict[str, str] = {}
        for stretch in life.stretches:
            for event in stretch.delivered:
                delivered[event.address] = event.price
        for address in end.desired:
            newest = index.newest.get(address)
            if newest is None:
                continue
            if end.latest.get(address) != newest.price:
                text = f"{address} stands at {end.latest.get(address)} instead of {newest.price}"
                yield _of("values", life, None, (), text, end.t)
            if delivered.get(address, newest.price) != newest.price:
                text = f"{address} was last delivered at {delivered[address]} instead of {newest.price}"
                yield _of("values", life, None, (), text, end.t)


CLIENT_RULES: Final[dict[str, Callable[[Index], Iterator[Violation]]]] = {
    rule.__name__: rule
    for rule in (
        order,
        invented,
        complete,
        gap_true,
        checkpoint,
        rising,
        missed,
        every_version,
        steps,
        delays,
        subscriptions,
        values,
    )
}
