"""The board: a row per token with its newest value. Whatever is sent is read from here at the moment of sending."""

from typing import NamedTuple, Protocol

from tokenwire_schemas.codec import encode_data
from tokenwire_schemas.limits import MAX_STREAM_LOG_BYTES
from tokenwire_schemas.messages import TokenUpdateData

__all__ = ["Board", "Change", "Row", "Value"]


class Value(Protocol):
    """A token as its single writer keeps it; ``version`` rises by one with every change."""

    @property
    def address(self) -> str: ...
    @property
    def source(self) -> str:
        """Name of the source that writes it."""

    @property
    def version(self) -> int: ...
    @property
    def source_time_ms(self) -> int:
        """Event time of the newest change, Unix ms."""

    @property
    def has_value(self) -> bool:
        """False until the token has a price; nothing is sent before."""

    def data(self) -> TokenUpdateData: ...


class Row:
    """One token: ``changed_tick`` is the tick that carries (or will carry) its newest change."""

    kind = b"token_update"

    __slots__ = ("_detailed", "_payload", "_payload_version", "changed_ms", "changed_tick", "holders", "index",
                 "mark", "sent_version", "stream_holders", "value")  # fmt: skip

    def __init__(self, index: int, value: Value) -> None:
        self.index = index
        self.value = value
        self.changed_tick = 0
        self.changed_ms = 0
        self.holders = 0  # token sets that contain it …
        self.mark = 0  # … and their numbers, folded: equal for rows that the same sets contain
        self.stream_holders = 0  # of those, sets with a session that gets every version
        self.sent_version = value.version
        self._payload = b""
        self._detailed = b""
        self._payload_version = -1

    def payload(self, details: bool = False) -> bytes:
        """The encoded ``data`` of the newest value, with version and source time if ``details`` (I-52).

        Encoded once per version, whoever asks.
        """
        value = self.value
        if self._payload_version != value.version:
            self._payload = encode_data(value.data())
            self._payload_version = value.version
            self._detailed = b""
        if not details:
            return self._payload
        if not self._detailed:
            more = b',"version":%d,"sourceTime":%d}' % (value.version, value.source_time_ms)
            self._detailed = self._payload[:-1] + more
        return self._detailed


class Change(NamedTuple):
    """One version of a row, as clients with ``delivery=every`` get it."""

    row: Row
    payload: bytes
    detailed: bytes

    def data(self, details: bool) -> bytes:
        """The form that a session gets."""
        return self.detailed if details else self.payload


class Board:
    """All rows, and which of them changed since the last tick.

    ``stream`` logs every single change of rows that a session with ``delivery=every`` holds, until the hub takes
    it; ``torn`` are rows of which a change did not fit into it. ``logged`` counts all changes that were ever logged.
    """

    __slots__ = ("_by_address", "_changed", "_stream_bytes", "logged", "rows", "stream", "tick", "torn")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.tick = 0
        self.stream: list[Change] = []
        self.torn: set[Row] = set()
        self.logged = 0
        self._stream_bytes = 0
        self._by_address: dict[str, Row] = {}
        self._changed: list[Row] = []

    def row(self, value: Value) -> Row:
        """The row of ``value``, made at the first call for its address."""
        row = self._by_address.get(value.address)
        if row is None:
            row = Row(len(self.rows), value)
            self.rows.append(row)
            self._by_address[value.address] = row
        return row

    def at(self, address: str) -> Row | None:
        """The row of a token, if it has one."""
        return self._by_address.get(address)

    def changed(self, row: Row, now_ms: int) -> None:
        """The row's value has a new version; the next tick carries it."""
        row.changed_ms = now_ms
        self._mark(row)
        if row.stream_holders:
            self._log(row)

    def unsent(self, row: Row, version: int) -> None:
        """A tick could not send the row to everybody, who have at least ``version``; the next one carries it again."""
        row.sent_version = version
        self._mark(row)

    def _mark(self, row: Row) -> None:
        if row.changed_tick <= self.tick:
            row.changed_tick = self.tick + 1
            self._changed.append(row)

    def commit(self) -> list[Row]:
        """Begin the next tick; the rows it carries."""
        self.tick += 1
        rows, self._changed = self._changed, []
        return rows

    def take_stream(self) -> tuple[list[Change], set[Row]]:
        """The changes since the last call, in order, and the rows of which some are missing."""
        taken = self.stream, self.torn
        self.stream, self.torn, self._stream_bytes = [], set(), 0
        return taken

    def _log(self, row: Row) -> None:
        if not row.value.has_value:
            return
        try:
            change = Change(row, row.payload(), row.payload(details=True))
        except Exception:  # a defect of the token's writer, whom it must not reach
            self.torn.add(row)
            return
        self._stream_bytes += len(change.payload) + len(change.detailed)
        if self._stream_bytes > MAX_STREAM_LOG_BYTES:
            self.torn.add(row)
        else:
            self.stream.append(change)
            self.logged += 1
