"""What happened, in one format for every level: the simulation, real sockets, several processes.

A history is a list of entries in the order of time; on disk it is JSON Lines, an object with ``kind`` per line.
``t`` is milliseconds of any one clock. ``client`` names a client, ``run`` counts the lives of its process, ``socket``
numbers the sockets of the whole history. ``session`` is an alias of the session's secret, never the secret itself,
and the connection id where there is no secret.
"""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

__all__ = [
    "Asked",
    "BarDelivered",
    "Began",
    "Checkpointed",
    "Closed",
    "Converged",
    "Delivered",
    "Entry",
    "Faulted",
    "Folded",
    "Followed",
    "Gapped",
    "HistoryError",
    "JsonlWriter",
    "Opened",
    "Overflowed",
    "Produced",
    "Retrying",
    "Sample",
    "Sent",
    "Started",
    "Stepped",
    "Stopped",
    "TradeDelivered",
    "Traded",
    "Wanted",
    "alias",
    "digest",
    "dump_entry",
    "read_history",
]

_MAX_LINE_BYTES = 1 << 22


class HistoryError(ValueError):
    """A history that cannot be judged: too long to be kept, or a line that is no entry."""


class _Entry(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True, array_like=False, gc=False):
    t: int


class _OfClient(_Entry, frozen=True, gc=False):
    client: str
    run: int


class Produced(_Entry, frozen=True, tag="produced", gc=False):
    """Ground truth: a token got a new version; ``price`` is unique among the versions of the token."""

    stream: str
    address: str
    version: int
    price: str


class Opened(_Entry, frozen=True, tag="opened", gc=False):
    """The server finished a handshake; ``session`` and ``sequence`` are what the client asked to resume, if it did."""

    client: str
    socket: int
    session: str | None = None
    sequence: int | None = None
    attempt: int | None = None


class Closed(_Entry, frozen=True, tag="closed", gc=False):
    """A socket ended for the server; ``code`` is that of its own close frame, if one was sent."""

    client: str
    socket: int
    code: int | None = None


class Sent(_Entry, frozen=True, tag="sent", gc=False):
    """The server wrote one message. ``high`` is the number in its envelope, ``numbered`` whether it took that number.

    ``updates`` holds (address, version if sent, price); ``action`` with ``tokens`` is a successful reply to a
    subscription (``tokens`` of a ``connection``: what the session already holds); ``first`` and ``last`` a gap.
    """

    client: str
    socket: int
    session: str
    type: str
    sequence: int
    digest: int
    timestamp: int
    numbered: bool = True
    updates: tuple[tuple[str, int | None, str], ...] = ()
    action: str | None = None
    tokens: tuple[str, ...] = ()
    connection_id: str | None = None
    resumed: bool = False
    reason: str | None = None
    stream: str | None = None
    first: int | None = None
    last: int | None = None


class Asked(_Entry, frozen=True, tag="asked", gc=False):
    """The server got a ``replay`` (``first`` to ``last``) or an ``ack`` (of ``last``)."""

    client: str
    socket: int
    type: str
    first: int
    last: int


class Started(_OfClient, frozen=True, tag="started", gc=False):
    """A client process began, from a checkpoint if ``session`` is set: it consumed everything up to ``sequence``.

    ``every``: it asks for each single version (``delivery=every``).
    """

    session: str | None = None
    sequence: int | None = None
    every: bool = False


class Stopped(_OfClient, frozen=True, tag="stopped", gc=False):
    """A client process ended before the history did: killed, or closed by its application."""


class Checkpointed(_OfClient, frozen=True, tag="checkpointed", gc=False):
    """The application saved a checkpoint."""

    session: str | None
    sequence: int


class Delivered(_OfClient, frozen=True, tag="delivered", gc=False):
    """The application took a value out of its client."""

    sequence: int
    address: str
    price: str
    version: int | None = None
    missed: int | None = None
    snapshot: bool = False


class Began(_OfClient, frozen=True, tag="began", gc=False):
    """The application was told of a socket: with a new session, or with its old one ``resumed``."""

    connection_id: str
    resumed: bool
    reason: str | None = None


class Gapped(_OfClient, frozen=True, tag="gapped", gc=False):
    """The application was told that numbers ``first`` to ``last`` will not come."""

    first: int | None
    last: int | None
    cause: str


class Retrying(_OfClient, frozen=True, tag="retrying", gc=False):
    """The application was told of a try in ``delay_ms``; ``retry_after_ms``: the server asked for that much."""

    delay_ms: int
    code: int | None = None
    status: int | None = None
    retry_after_ms: int | None = None


class Stepped(_OfClient, frozen=True, tag="stepped", gc=False):
    """The client's state changed."""

    before: str
    after: str


class Wanted(_OfClient, frozen=True, tag="wanted", gc=False):
    """The application subscribed to a token, or gave it up."""

    address: str
    wanted: bool


class Overflowed(_OfClient, frozen=True, tag="overflowed", gc=False):
    """So many values were replaced by newer ones in the client's own queue, which its application does not read."""

    count: int


class Converged(_OfClient, frozen=True, tag="converged", gc=False):
    """How a client stands after the quiet period: what it wants, what the server sends it, its values (the price)."""

    desired: tuple[str, ...]
    served: tuple[str, ...] | None
    latest: dict[str, str]


class Traded(_Entry, frozen=True, tag="traded", gc=False):
    """Ground truth: a trade of a token, and the number that it has among the token's trades."""

    address: str
    number: int
    trade_id: str


class Folded(_Entry, frozen=True, tag="folded", gc=False):
    """Ground truth: a bar that closed. ``figures`` are its prices, volumes and count, one text for each."""

    address: str
    interval_ms: int
    open_ms: int
    figures: tuple[str, ...]


class Followed(_OfClient, frozen=True, tag="followed", gc=False):
    """A reader was to get every trade of a token, or (``interval_ms``) every bar of this length that closed; ``whole``:
    from the very first one on, else from the first that it got."""

    address: str
    interval_ms: int = 0
    whole: bool = False


class TradeDelivered(_OfClient, frozen=True, tag="trade_delivered", gc=False):
    """A reader took a trade. ``missed``: so many before it could not be had, it was told; None: nobody knew."""

    address: str
    number: int
    trade_id: str
    missed: int | None = 0


class BarDelivered(_OfClient, frozen=True, tag="bar_delivered", gc=False):
    """A reader took a closed bar, or a newer form of it. ``missed``: it was told that others may be missing."""

    address: str
    interval_ms: int
    open_ms: int
    figures: tuple[str, ...]
    missed: bool = False


class Faulted(_Entry, frozen=True, tag="faulted", gc=False):
    """Somebody broke something on purpose: ``what`` was done to whom (``of``), for so long."""

    what: str
    of: str
    ms: int = 0


class Sample(_Entry, frozen=True, tag="sample", gc=False):
    """Resources of a process (``of``), by name: open files, tasks, sockets, held bytes."""

    of: str
    counts: dict[str, int]


Entry = (
    Produced
    | Opened
    | Closed
    | Sent
    | Asked
    | Started
    | Stopped
    | Checkpointed
    | Delivered
    | Began
    | Gapped
    | Retrying
    | Stepped
    | Wanted
    | Overflowed
    | Converged
    | Traded
    | Folded
    | Followed
    | TradeDelivered
    | BarDelivered
    | Faulted
    | Sample
)
"""Everything that a history holds."""

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def digest(content: bytes) -> int:
    """A short fingerprint of a message; equal messages have equal ones, in every process."""
    return zlib.crc32(content)


def alias(secret: str) -> str:
    """A name for a session that gives its secret away to nobody who reads the history."""
    return f"s{zlib.crc32(secret.encode()):08x}"


def dump_entry(entry: Entry) -> str:
    """One line of the file, without its end."""
    return _encoder.encode(entry).decode()


class JsonlWriter:
    """Appends entries to a file; refuses to grow beyond ``max_entries``, since a cut history would be judged wrongly.

    Use it as a context manager; it overwrites what the file held.
    """

    def __init__(self, path: Path, max_entries: int = 5_000_000) -> None:
        self.entries = 0
        self._left = max_entries
        self._file: IO[bytes] = path.open("wb")

    def add(self, entry: Entry) -> None:
        """Write one entry.

        Raises:
            HistoryError: the history is as long as it may be.
        """
        if self._left <= 0:
            raise HistoryError(f"the history already holds {self.entries} entries; raise max_entries or run shorter")
        self._left -= 1
        self.entries += 1
        self._file.write(_encoder.encode(entry) + b"\n")

    def extend(self, entries: Iterable[Entry]) -> None:
        """Write several."""
        for entry in entries:
            self.add(entry)

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_history(path: Path, max_entries: int = 5_000_000) -> Iterator[Entry]:
    """The entries of a file, one at a time.

    Raises:
        HistoryError: a line is no entry, or there are more than ``max_entries``.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if number > max_entries:
                raise HistoryError(f"{path.name} holds more than {max_entries} entries")
            try:
                yield _decoder.decode(line)
            except msgspec.DecodeError as error:
                raise HistoryError(f"{path.name}, line {number}: {error}") from None
