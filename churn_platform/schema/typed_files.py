"""Parquet files and Excel workbooks, whose cells have types: header, rows and the places of rows.

Their cells become texts, so that the rules of a column apply to all files alike.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from churn_platform.schema.csv_file import MalformedRow, NumberedBlock
from churn_platform.schema.exceptions import EmptyCustomersFileError, MalformedFileError

EXACT: Final = 2**53  # float64 represents every whole number up to here
BLOCK_ROWS: Final = 65_536
_NO_ROWS_REMEDY: Final = "Export it again with the customers."


@dataclass(frozen=True)
class TypedFile:
    """A file whose cells have types.

    Attributes:
        name: its name, for error messages.
        detected: what was detected, as text.
        header: the names of its columns.
        header_place: where the header is.
        columns: the values of each column: an array of any type.
    """

    name: str
    detected: str
    header: list[str]
    header_place: str
    columns: list[pa.ChunkedArray]

    @property
    def malformed(self) -> list[MalformedRow]:
        """The rows that do not fit the header: none."""
        return []

    @property
    def unreadable(self) -> dict[str, str]:
        """The columns whose values are neither texts, numbers nor dates, and what they are."""
        return {
            name: str(values.type)
            for name, values in zip(self.header, self.columns, strict=True)
            if not _is_plain(values)
        }

    def texts(self, positions: Iterable[int]) -> tuple[pa.Table, int]:
        """Return columns as texts, named by their position, and the number of rows that do not fit the header.

        Raises:
            MalformedFileError: the values of a column cannot be read as texts.
        """
        return pa.table({str(position): self._texts_of(position) for position in positions}), 0

    def blocks(self, positions: Iterable[int]) -> Iterator[tuple[pa.Table, int]]:
        """Yield what `texts` returns, in one block."""
        yield self.texts(positions)

    def numbered_blocks(self, positions: Iterable[int]) -> Iterator[NumberedBlock]:
        """Yield the rows in small blocks, at least one, with their numbers."""
        wanted, rows = list(positions), len(self.columns[0])
        for start in range(0, max(rows, 1), BLOCK_ROWS):
            columns = {
                str(position): texts_of(
                    self.columns[position].slice(start, BLOCK_ROWS), self.name, self.header[position]
                )
                for position in wanted
            }
            yield NumberedBlock(pa.table(columns), np.arange(start, min(start + BLOCK_ROWS, rows)) + 1, [])

    def _texts_of(self, position: int) -> pa.ChunkedArray:
        return texts_of(self.columns[position], self.name, self.header[position])

    def numbers(self, rows: int, skipped: int) -> NDArray[np.int64]:
        """Return the number of each row, from 1."""
        return np.arange(1, rows + skipped + 1)

    def malformed_rows(self) -> str:
        """Return a sentence about the malformed rows: there are none."""
        return ""

    def locate(self, wanted: Iterable[int], id_position: int, id_name: str) -> dict[int, str]:
        """Return the locations of rows, with the customer's id if it is a number."""
        ids = {row: str(self.columns[id_position][row].as_py()) for row in wanted}
        return {
            row: f"row {row + 1:,}" + (f" ({id_name} {customer})" if customer.isdecimal() else "")
            for row, customer in ids.items()
        }


@dataclass(frozen=True)
class ParquetRows:
    """A Parquet file that is read in blocks, however large it is.

    Attributes:
        name: its name, for error messages.
        path: the file.
        header: the names of its columns, without spaces around them.
        names: the names of its columns.
        detected: what was detected, as text.
    """

    name: str
    path: Path
    header: list[str]
    names: list[str]
    detected: str = "Parquet"

    @property
    def header_place(self) -> str:
        """Where the header is."""
        return "the schema"

    @classmethod
    def open(cls, name: str, path: Path) -> ParquetRows:
        """Return the file.

        Raises:
            MalformedFileError: it cannot be read.
        """
        try:
            names = pq.read_schema(path).names
        except (pa.ArrowInvalid, OSError):  # its message may quote values
            raise _damaged(name) from None
        return cls(name, path, [each.strip() for each in names], names)

    def blocks(self, positions: Iterable[int]) -> Iterator[tuple[pa.Table, int]]:
        """Yield the rows in blocks, at least one: columns as texts, named by their position, and no malformed rows."""
        for block in self.numbered_blocks(positions):
            yield block.texts, 0

    def numbered_blocks(self, positions: Iterable[int]) -> Iterator[NumberedBlock]:
        """Yield the rows in blocks, at least one, with their numbers.

        Raises:
            MalformedFileError: the file is damaged, or the values of a column cannot be read as texts.
        """
        wanted, rows = list(positions), 0
        empty = pa.table({str(position): pa.array([], pa.string()) for position in wanted})
        try:
            with pq.ParquetFile(self.path) as file:
                batches = file.iter_batches(BLOCK_ROWS, columns=[self.names[position] for position in wanted])
                for batch in batches:
                    columns = {
                        str(position): texts_of(
                            pa.chunked_array([batch.column(self.names[position])]), self.name, self.header[position]
                        )
                        for position in wanted
                    }
                    yield NumberedBlock(pa.table(columns), np.arange(rows, rows + batch.num_rows) + 1, [])
                    rows += batch.num_rows
        except (pa.ArrowInvalid, OSError):
            raise _damaged(self.name) from None
        yield NumberedBlock(empty, np.empty(0, np.int64), [])

    def malformed_rows(self) -> str:
        """Return a sentence about the malformed rows: there are none."""
        return ""

    def locate(self, wanted: Iterable[int], id_position: int, id_name: str) -> dict[int, str]:
        """Return the locations of rows, with the customer's id if it is a number."""
        remaining, start = sorted(set(wanted)), 0
        found: dict[int, str] = {}
        for block in self.numbered_blocks([id_position]):
            ids = block.texts.column(0)
            for row in [row for row in remaining if start <= row < start + len(ids)]:
                customer = str(ids[row - start].as_py())
                known = f" ({id_name} {customer})" if customer.isdecimal() else ""
                found[row] = f"row {row + 1:,}{known}"
            start += len(ids)
        return found


def texts_of(values: pa.ChunkedArray, file: str, column: str) -> pa.ChunkedArray:
    """Return the values of a column as texts.

    Raises:
        MalformedFileError: they cannot be read as texts, numbers or dates.
    """
    try:
        if _is_plain(values):
            return _as_texts(values)
    except pa.ArrowInvalid:  # bytes that are not UTF-8, or an unknown time zone; its message may quote values
        pass
    raise MalformedFileError(
        f"{file}: column {column!r} is of type {values.type}, and its values cannot be read as texts, numbers or "
        f"dates.",
        remedy="Export the column as one of these, or remove it from the schema.",
    )


def _damaged(name: str) -> MalformedFileError:
    return MalformedFileError(f"{name} starts like a Parquet file, but cannot be read.", remedy="Export it again.")


def open_parquet(name: str, content: bytes) -> TypedFile:
    """Return a Parquet file.

    Raises:
        MalformedFileError: it cannot be read.
    """
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError):  # its message may quote values
        raise _damaged(name) from None
    return TypedFile(name, "Parquet", [each.strip() for each in table.column_names], "the schema", table.columns)


def open_workbook(name: str, content: bytes, known: Iterable[str]) -> TypedFile:
    """Return the sheet of a workbook whose header has most of the known names.

    Raises:
        MalformedFileError: it is not a workbook, or is protected by a password.
        EmptyCustomersFileError: no sheet has a header.
    """
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(content))
        sheets = {sheet: workbook.get_sheet_by_name(sheet).to_python() for sheet in workbook.sheet_names}
    except CalamineError:  # its message may quote values
        raise MalformedFileError(
            f"{name} is a zip archive or a workbook that cannot be read. Expected an Excel workbook without a "
            f"password, Parquet or CSV.",
            remedy="Export it again, or unpack it.",
        ) from None
    filled = {sheet: [row for row in rows if any(cell != "" for cell in row)] for sheet, rows in sheets.items()}
    filled = {sheet: rows for sheet, rows in filled.items() if rows}
    if not filled:
        raise EmptyCustomersFileError(f"{name} has no sheet with a header and customers.", remedy=_NO_ROWS_REMEDY)
    names = set(known)
    chosen = max(filled, key=lambda sheet: sum(_cell(cell).strip() in names for cell in filled[sheet][0]))
    header, *rows = filled[chosen]
    columns = [
        pa.chunked_array([pa.array([_cell(row[position]) for row in rows], pa.string())])
        for position in range(len(header))
    ]
    shown = f"Workbook, sheet {chosen!r}" + (f" of {len(filled)}" if len(filled) > 1 else "")
    return TypedFile(
        name, shown, [_cell(cell).strip() for cell in header], f"the first row of sheet {chosen!r}", columns
    )


def _cell(value: object) -> str:
    """Return a cell of a workbook as a text of a CSV file would have it."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < EXACT else repr(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)


def _is_plain(values: pa.ChunkedArray) -> bool:
    """Return whether the values are texts, numbers, dates or flags."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    odd = (pa.types.is_nested, pa.types.is_duration, pa.types.is_fixed_size_binary, pa.types.is_time)
    return isinstance(kind, pa.UuidType) or not any(is_odd(kind) for is_odd in odd)


def _as_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as a CSV file would have them.

    Raises:
        pa.ArrowInvalid: bytes are not UTF-8, or the time zone is unknown.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _as_texts(pa.chunked_array([chunk.dictionary_decode() for chunk in values.chunks], kind.value_type))
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8()).cast(pa.string())
    if pa.types.is_floating(kind):
        return _numbers_as_texts(values)
    if isinstance(kind, pa.UuidType):
        texts = [None if each is None else str(each) for each in values.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return values.cast(pa.string())


def _numbers_as_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return numbers as texts; whole ones without an exponent."""
    exact = values.cast(pa.float64())
    whole = pc.and_(pc.equal(pc.floor(exact), exact), pc.less(pc.abs(exact), EXACT))
    return pc.if_else(whole, pc.if_else(whole, exact, 0).cast(pa.int64()).cast(pa.string()), values.cast(pa.string()))
