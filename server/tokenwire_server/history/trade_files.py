"""Trades in files, row by row: CSV with a header, and Parquet through pyarrow."""

import csv
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from tokenwire_server.errors import UserError
from tokenwire_server.history.tables import require_pyarrow
from tokenwire_server.market.instants import rfc3339

__all__ = ["FIELDS", "FileRow", "read_trades"]

FIELDS: Final = ("id", "symbol", "price", "amount", "side", "timestamp")
_OTHER_NAMES: Final = {"trade_id": "id", "quantity": "amount", "qty": "amount", "time": "timestamp"}
_OPTIONAL: Final = frozenset({"address", "venue"})
_PARQUET_MAGIC: Final = b"PAR1"
_PIECE_ROWS: Final = 5_000
_MAX_LINE_CHARS: Final = 65_536


class FileRow(NamedTuple):
    """One row: ``line`` counts from 1 (the header of a CSV file is its first), ``fields`` are texts by name. A row that
    can't be read has ``problem`` instead."""

    line: int
    fields: Mapping[str, str]
    problem: str = ""


def read_trades(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Iterator[FileRow]:
    """The rows of a file, streamed. ``progress(done, total)`` hears of bytes (CSV) or rows (Parquet) now and then.

    Raises:
        UserError: the file can't be read, is neither, lacks a column, or pyarrow is missing for it.
    """
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == _PARQUET_MAGIC
        yield from _parquet(path, progress) if is_parquet else _csv(path, progress)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; check the path and its permissions") from None


def _names(path: Path, header: list[str]) -> list[str]:
    """The column names as ours; those that mean nothing here stay."""
    names = [_OTHER_NAMES.get(name.strip().lower(), name.strip().lower()) for name in header]
    missing = [field for field in FIELDS if field not in names]
    if missing:
        raise UserError(f"{path}: the column {missing[0]} is missing; a file of trades has {', '.join(FIELDS)}")
    doubled = [name for name in (*FIELDS, *_OPTIONAL) if names.count(name) > 1]
    if doubled:
        raise UserError(f"{path}: the column {doubled[0]} is there twice")
    return names


def _csv(path: Path, progress: Callable[[int, int], None]) -> Iterator[FileRow]:
    total = path.stat().st_size
    done = 0

    def lines() -> Iterator[str]:
        nonlocal done
        with path.open("rb") as file:
            while raw := file.readline(_MAX_LINE_CHARS):
                done += len(raw)
                # What is not UTF-8 spoils its own row.
                yield raw.decode("utf-8-sig" if done == len(raw) else "utf-8", "replace")

    rows = csv.reader(lines())
    try:
        header = next(rows, None)
        if not header:
            raise UserError(f"{path}: the file is empty; it begins with the names of its columns, {', '.join(FIELDS)}")
        names = _names(path, header)
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield FileRow(rows.line_num, {}, f"not CSV: {error}")
                continue
            if row is None:
                break
            if not row:
                continue
            if rows.line_num % _PIECE_ROWS == 0:
                progress(done, total)
            if any("\ufffd" in cell for cell in row):
                yield FileRow(rows.line_num, {}, "not UTF-8")
            elif len(row) == len(names):
                yield FileRow(rows.line_num, dict(zip(names, row, strict=True)))
            else:
                yield FileRow(rows.line_num, {}, f"{len(row)} cells where the header has {len(names)}")
    finally:
        progress(total, total)


def _parquet(path: Path, progress: Callable[[int, int], None]) -> Iterator[FileRow]:
    require_pyarrow()
    import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            names = _names(path, file.schema_arrow.names)
            total = file.metadata.num_rows
            line = 0
            for batch in file.iter_batches(_PIECE_ROWS):
                for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    line += 1
                    texts = {name: _text(cell) for name, cell in zip(names, cells, strict=True) if cell is not None}
                    yield FileRow(line, texts)
                progress(line, total)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read: {' '.join(str(error).split())[:200]}") from None


def _text(cell: Any) -> str:
    if isinstance(cell, Decimal):
        return f"{cell:f}"
    if isinstance(cell, datetime):
        if cell.tzinfo is None:
            return cell.isoformat()
        return rfc3339(round(cell.timestamp() * 1_000))
    return str(cell)
