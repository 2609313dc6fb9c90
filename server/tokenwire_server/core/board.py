"""The board: a row per token with its newest value. Whatever is sent is read from here at the moment of sending."""

from typing import Protocol

from tokenwire_schemas.codec import encode_data
from tokenwire_schemas.messages import TokenUpdateData

__all__ = ["Board", "Row", "Value"]


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
    def has_value(self) -> bool:
        """False until the token has a price; nothing is sent before."""

    def data(self) -> TokenUpdateData: ...


class Row:
    """One token: ``changed_tick`` is the tick that carries (or will carry) its newest change."""

    __slots__ = (
        "_payload",
        "_payload_version",
        "changed_ms",
        "changed_tick",
        "holders",
        "index",
        "sent_version",
        "value",
    )

    def __init__(self, index: int, value: Value) -> None:
        self.index = index
        self.value = value
        self.changed_tick = 0
        self.changed_ms = 0
        self.holders = 0  # token sets that contain it
        self.sent_version = value.version
        self._payload = b""
        self._payload_version = -1

    def payload(self) -> bytes:
        """The encoded ``data`` of the newest value; encoded once per version, whoever asks."""
        value = self.value
        if self._payload_version != value.version:
            self._payload = encode_data(value.data())
            self._payload_version = value.version
        return self._payload


class Board:
    """All rows, and which of them changed since the last tick."""

    __slots__ = ("_by_address", "_changed", "rows", "tick")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.tick = 0
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

    def changed(self, row: Row, now_ms: int) -> None:
        """The row's value has a new version; the next tick carries it."""
        row.changed_ms = now_ms
        if row.changed_tick <= self.tick:
            row.changed_tick = self.tick + 1
            self._changed.append(row)

    def commit(self) -> list[Row]:
        """Begin the next tick; the rows it carries."""
        self.tick += 1
        rows, self._changed = self._changed, []
        return rows
