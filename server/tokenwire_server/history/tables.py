"""Tables of bars and trades in files: CSV, and Parquet through pyarrow."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final, Protocol

from tokenwire_server.errors import UserError
from tokenwire_server.market.decimals import canonical

__all__ = ["Column", "TableFormat", "TableWriter", "require_pyarrow", "writing"]

DECIMAL_DIGITS: Final = 38
DECIMAL_SCALE: Final = 18


class TableFormat(StrEnum):
    """How a table is written."""

    CSV = "csv"
    PARQUET = "parquet"


class Column(StrEnum):
    """What a column holds."""

    TEXT = "text"
    WHOLE = "whole"
    NUMBER = "number"
    """A decimal number as text: exact in CSV, a decimal128 in Parquet."""
    TIME = "time"
    """RFC 3339 text in CSV, a timestamp in Parquet; given as (Unix ms, text)."""


class TableWriter(Protocol):
    """Takes rows of the columns that were announced."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows. Raises UserError for a number that the format can't hold."""


@contextmanager
def writing(
    path: Path, table_format: TableFormat, columns: Mapping[str, Column], *, as_text: bool = False
) -> Iterator[TableWriter]:
    """Write a table; the file appears, or is replaced, when all of it is there. ``as_text``: numbers as text.

    Raises:
        UserError: the file can't be written, or pyarrow is missing.
    """
    if table_format is TableFormat.PARQUET:
        require_pyarrow()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            if table_format is TableFormat.CSV:
                with partial.open("w", encoding="utf-8", newline="") as file:
                    yield _CsvWriter(file, columns)
            else:
                parquet = _ParquetWriter(partial, columns, as_text=as_text)
                try:
                    yield parquet
                finally:
                    parquet.close()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None


class _CsvWriter:
    def __init__(self, file: IO[str], columns: Mapping[str, Column]) -> None:
        self._rows = csv.writer(file, lineterminator="\n")
        self._numbers = [at for at, column in enumerate(columns.values()) if column is Column.NUMBER]
        self._times = [at for at, column in enumerate(columns.values()) if column is Column.TIME]
        self._rows.writerow(columns)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """As of :class:`TableWriter`."""
        for row in rows:
            cells = list(row)
            for at in self._numbers:
                cells[at] = canonical(Decimal(cells[at]))
            for at in self._times:
                cells[at] = cells[at][1]
            self._rows.writerow(cells)


class _ParquetWriter:
    def __init__(self, path: Path, columns: Mapping[str, Column], *, as_text: bool) -> None:
        import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415

        number = pa.string() if as_text else pa.decimal128(DECIMAL_DIGITS, DECIMAL_SCALE)
        types = {
            Column.TEXT: pa.string(),
            Column.WHOLE: pa.int64(),
            Column.NUMBER: number,
            Column.TIME: pa.timestamp("ms", tz="UTC"),
        }
        self._pa = pa
        self._columns = columns
        self._as_text = as_text
        self._schema = pa.schema([(name, types[column]) for name, column in columns.items()])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """As of :class:`TableWriter`."""
        if not rows:
            return
        arrays = []
        by_column = zip(*rows, strict=True)
        for (name, column), cells, field in zip(self._columns.items(), by_column, self._schema, strict=True):
            arrays.append(self._pa.array(self._cells(name, column, cells), field.type))
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write what belongs at the end of the file."""
        self._writer.close()

    def _cells(self, name: str, column: Column, cells: Sequence[Any]) -> list[Any]:
        if column is Column.TIME:
            return [ms for ms, _ in cells]
        if column is not Column.NUMBER:
            return list(cells)
        texts = [canonical(Decimal(cell)) for cell in cells]
        if self._as_text:
            return texts
        for text in texts:
            whole, _, fraction = text.partition(".")
            if len(whole.lstrip("-")) > DECIMAL_DIGITS - DECIMAL_SCALE or len(fraction) > DECIMAL_SCALE:
                raise UserError(
                    f"{name} {text} does not fit decimal128({DECIMAL_DIGITS}, {DECIMAL_SCALE}); write numbers as text "
                    "with --text"
                )
        return [Decimal(text) for text in texts]


def require_pyarrow() -> None:
    """Raises UserError, which says how to get it, if pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415 - an extra
    except ModuleNotFoundError:
        raise UserError("Parquet needs pyarrow; install it: pip install 'tokenwire[parquet]'") from None
