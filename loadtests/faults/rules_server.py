"""Invariants of what a server sends: its numbers, its replays, who may get what. See ``invariants``."""

from collections.abc import Callable, Iterator
from typing import Final

from loadtests.faults.history import Asked, Sent
from loadtests.faults.index import Index, Violation

__all__ = ["SERVER_RULES"]


def _at(rule: str, frame: Sent, numbers: tuple[int, ...], text: str) -> Violation:
    return Violation(rule, frame.client, frame.session, numbers, text, frame.t)


def contiguous(index: Index) -> Iterator[Violation]:
    """The numbers of a session are 1, 2, 3 … in the order in which they are first sent."""
    for frames in index.by_session.values():
        high = 0
        for frame in frames:
            if frame.numbered and frame.sequence > high:
                if frame.sequence != high + 1 and index.exact:
                    yield _at("contiguous", frame, (high, frame.sequence), f"{frame.type} skips numbers on the wire")
                high = frame.sequence


def replay_equal(index: Index) -> Iterator[Violation]:
    """A frame that is sent again is what was sent the first time, byte for byte."""
    for session, frames in index.by_session.items():
        first_sent = index.first_sent[session]
        for frame in frames:
            if frame.numbered:
                first = first_sent[frame.sequence]
                if first.digest != frame.digest:
                    text = f"{frame.type} differs from its first sending at {first.t} ms ({first.updates})"
                    yield _at("replay_equal", frame, (frame.sequence,), text)


def socket_order(index: Index) -> Iterator[Violation]:
    """On a socket the numbers rise by one from where it begins: 1, or behind the position it resumed at.

    They go back only for a ``replay`` that was asked for, whose evicted beginning a ``gap`` announces.
    """
    for socket, entries in index.by_socket.items():
        expected: int | None = None
        asked: list[tuple[int, int]] = []
        gap_end = 0
        high = 0  # of this socket
        resume_high = 0
        for entry in entries:
            if isinstance(entry, Asked):
                if entry.type == "replay" and entry.first <= entry.last:
                    asked.append((entry.first, entry.last))
                continue
            if not entry.numbered:
                if entry.resumed:
                    opened = index.opened.get(socket)
                    expected = (opened.sequence if opened is not None and opened.sequence is not None else 0) + 1
                    resume_high = high = expected - 1
                elif entry.type == "gap" and entry.last is not None:
                    gap_end = max(gap_end, entry.last)
                continue
            number = entry.sequence
            wanted = 1 if expected is None else expected
            if number != wanted:
                begins = any(first <= number <= last and (number == first or number == gap_end + 1)
                             for first, last in asked)  # fmt: skip
                ends = number == high + 1 and wanted <= high + 1 and any(
                    wanted - 1 == min(last, high) for _, last in asked
                )  # fmt: skip
                if not begins and not ends:
                    text = f"{entry.type} where {wanted} belongs on socket {socket} (resumed behind {resume_high})"
                    yield _at("socket_order", entry, (wanted, number), text)
            expected = number + 1
            high = max(high, number)


def high_water(index: Index) -> Iterator[Violation]:
    """An unnumbered message carries the last number assigned. So nothing is numbered while nobody is connected."""
    if not index.exact:
        return
    for frames in index.by_session.values():
        high = 0
        for frame in frames:
            if frame.numbered:
                high = max(high, frame.sequence)
            elif frame.sequence != high:
                text = f"{frame.type} says that {frame.sequence} is the last number, but {high} is"
                yield _at("high_water", frame, (high, frame.sequence), text)


def one_socket(index: Index) -> Iterator[Violation]:
    """Once a socket has a session, no older one gets anything numbered of it."""
    if not index.exact:
        return  # a tap sees what was written before when it is read, however late
    for frames in index.by_session.values():
        newest = -1
        former: set[int] = set()
        for frame in frames:
            if frame.socket != newest and frame.socket not in former:  # its greeting
                former.add(newest)
                newest = frame.socket
            elif frame.socket in former and frame.numbered:
                text = f"{frame.type} on socket {frame.socket}, though socket {newest} has the session"
                yield _at("one_socket", frame, (frame.sequence,), text)


def live_sockets(index: Index) -> Iterator[Violation]:
    """In the end no client has two open sockets of one session."""
    if not index.quiet:
        return
    live: dict[str, list[int]] = {}
    for session, frames in index.by_session.items():
        for socket in {frame.socket for frame in frames}:
            if socket in index.opened and socket not in index.closed:
                live.setdefault(session, []).append(socket)
    for session, sockets in live.items():
        if len(sockets) > 1:
            client = index.opened[sockets[0]].client
            text = f"the sockets {sorted(sockets)} are all open in the end"
            yield Violation("live_sockets", client, session, tuple(sorted(sockets)), text)


def held(index: Index) -> Iterator[Violation]:
    """An update is of a token the session holds: acknowledged before, in the order of numbers, and not given up."""
    for session in index.by_session:
        holding: set[str] = set()
        for number, frame in sorted(index.first_sent[session].items()):
            if frame.type == "connection" or frame.action == "subscribe":
                holding.update(frame.tokens)
            elif frame.action == "unsubscribe":
                holding.difference_update(frame.tokens)
            for address, _, _ in frame.updates:
                if address not in holding:
                    yield _at("held", frame, (number,), f"an update of {address}, which the session does not hold")


def versions(index: Index) -> Iterator[Violation]:
    """The values of a token never go back within a session, in the order of numbers."""
    for session in index.by_session:
        newest: dict[str, int] = {}
        for number, frame in sorted(index.first_sent[session].items()):
            for address, version, price in frame.updates:
                position = index.order.get(address, {}).get(price) if version is None else version
                if position is None:
                    continue
                if position < newest.get(address, position):
                    text = f"{address} goes back from {newest[address]} to {position}"
                    yield _at("versions", frame, (number,), text)
                newest[address] = position


def truth(index: Index) -> Iterator[Violation]:
    """Every value that is sent was produced, under that version."""
    if not index.order:
        return
    for session in index.by_session:
        for number, frame in index.first_sent[session].items():
            for address, version, price in frame.updates:
                if price not in index.order.get(address, {}):
                    yield _at("truth", frame, (number,), f"{address} never cost {price}")
                elif version is not None and session in index.streams:
                    true_price = index.price_of(session, address, version)
                    if true_price != price:
                        text = f"version {version} of {address} cost {true_price}, not {price}"
                        yield _at("truth", frame, (number,), text)


def timestamps(index: Index) -> Iterator[Violation]:
    """The timestamps of a session never decrease, in the order of numbers."""
    for session in index.by_session:
        last = 0
        for number, frame in sorted(index.first_sent[session].items()):
            if frame.timestamp < last:
                yield _at("timestamps", frame, (number,), f"{frame.timestamp} after {last}")
            last = frame.timestamp


def acknowledged(index: Index) -> Iterator[Violation]:
    """An ack names what its client can have: not more than was sent to its session."""
    for entries in index.by_socket.values():
        high = 0
        session = ""
        for entry in entries:
            if isinstance(entry, Asked):
                if entry.type == "ack" and entry.last > high:
                    text = f"an ack of {entry.last}, but {high} is the last number sent"
                    yield Violation("acknowledged", entry.client, session, (entry.last,), text, entry.t)
            else:
                session = entry.session
                high = max(high, entry.sequence)


def resources(index: Index) -> Iterator[Violation]:
    """What a process holds is, in the last sample, no more than in the first."""
    for of, samples in index.samples.items():
        first, last = samples[0].counts, samples[-1].counts
        for name, count in last.items():
            if len(samples) > 1 and count > first.get(name, 0):
                text = f"{name}: {count}, at the beginning {first.get(name, 0)}"
                yield Violation("resources", of, "", (count,), text, samples[-1].t)


SERVER_RULES: Final[dict[str, Callable[[Index], Iterator[Violation]]]] = {
    rule.__name__: rule
    for rule in (
        contiguous,
        replay_equal,
        socket_order,
        high_water,
        one_socket,
        live_sockets,
        held,
        versions,
        truth,
        timestamps,
        acknowledged,
        resources,
    )
}
