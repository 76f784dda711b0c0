"""Rows into and out of PostgreSQL by binary COPY, as columns and without a Python loop over values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

# https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": signature, flags, length of the extension.
HEADER: Final = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
TRAILER: Final = b"\xff\xff"
CHUNK_BYTES: Final = 256 * 1024
READ_BYTES: Final = 4 * 1024 * 1024
# PostgreSQL counts timestamps from 2000-01-01, in microseconds.
POSTGRES_EPOCH_US: Final = 946_684_800_000_000

WIRE_TYPES: Final = {
    "smallint": ">i2",
    "integer": ">i4",
    "bigint": ">i8",
    "real": ">f4",
    "double precision": ">f8",
    "timestamptz": ">i8",
    "uuid": "V16",
}


@dataclass(frozen=True)
class Column:
    """One column of rows to copy.

    Args:
        type: a key of WIRE_TYPES, or "text".
        values: shape (n,); for timestamptz microseconds since 1970, for uuid 16 raw bytes, for text UTF-8 bytes
            (numpy dtype S, so no value ends in U+0000).
        null: shape (n,), True where the value is NULL; None when there is no NULL.
    """

    type: str
    values: NDArray[np.generic]
    null: NDArray[np.bool_] | None = None


def encode_rows(columns: Sequence[Column]) -> memoryview:
    """The rows in COPY's binary format, without header and trailer.

    Every row is laid out at the greatest width that its columns can take; the bytes that a shorter or null value
    leaves unused are then cut out in one step.
    """
    count = len(columns[0].values)
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for index, column in enumerate(columns):
        wire = column.values.dtype.str if column.type == "text" else WIRE_TYPES[column.type]
        fields += [(f"length_{index}", ">i4"), (f"value_{index}", wire)]
    layout = np.dtype(fields)
    rows = np.zeros(count, layout)
    rows["fields"] = len(columns)
    used: NDArray[np.bool_] | None = None
    for index, column in enumerate(columns):
        value = f"value_{index}"
        width = layout[value].itemsize
        rows[value] = column.values - POSTGRES_EPOCH_US if column.type == "timestamptz" else column.values
        if column.type != "text" and column.null is None:
            rows[f"length_{index}"] = width
            continue
        lengths = (
            np.strings.str_len(column.values.astype(np.bytes_)) if column.type == "text" else np.full(count, width)
        )
        if column.null is not None:
            lengths = np.where(column.null, -1, lengths)
        rows[f"length_{index}"] = lengths
        if used is None:
            used = np.ones((count, layout.itemsize), np.bool_)
        start = layout.fields[value][1] if layout.fields else 0
        used[:, start : start + width] = np.arange(width) < lengths[:, None]
    if used is None:
        return memoryview(rows.tobytes())
    return memoryview(rows.view(np.uint8).reshape(count, layout.itemsize)[used].tobytes())


@dataclass(frozen=True)
class Rows:
    """Rows that are ready to be copied: by column, and as `encode_rows` lays them out."""

    columns: Mapping[str, Column]
    encoded: memoryview

    @classmethod
    def of(cls, columns: Mapping[str, Column]) -> Self:
        """Encode them. `columns` maps the table's column names to values."""
        return cls(columns, encode_rows(list(columns.values())))


def copy_rows(cursor: psycopg.Cursor, table: str, rows: Rows) -> None:
    """Copy rows into a table, within the cursor's transaction.

    Raises:
        psycopg.errors.UniqueViolation: a row exists already; the transaction or savepoint has to be rolled back.
    """
    statement = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, rows.columns))
    )
    with cursor.copy(statement) as copy:
        copy.write(HEADER)
        for start in range(0, len(rows.encoded), CHUNK_BYTES):
            copy.write(rows.encoded[start : start + CHUNK_BYTES])
        copy.write(TRAILER)


def read_columns(
    cursor: psycopg.Cursor,
    query: sql.Composable,
    types: Mapping[str, str],
    *,
    on_rows: Callable[[int], None] = lambda _: None,
) -> dict[str, NDArray[np.generic]]:
    """What a query gives, as columns; at any time a few MB more are in memory than the columns take.

    Args:
        query: gives these columns in this order, each without a null.
        types: names and types of the columns, keys of WIRE_TYPES other than timestamptz.
        on_rows: called with the number of rows read so far.

    Raises:
        ValueError: a value is null or of another type.
    """
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in types.items():
        fields += [(f"length of {name}", ">i4"), (name, WIRE_TYPES[kind])]
    layout = np.dtype(fields)
    chunks: dict[str, list[NDArray[np.generic]]] = {name: [] for name in types}
    waiting, rows = bytearray(), 0

    def take(count: int) -> None:
        table = np.frombuffer(bytes(waiting[: count * layout.itemsize]), layout)
        for name in types:
            if (table[f"length of {name}"] != layout[name].itemsize).any():
                raise ValueError(f"Column {name!r} holds a null, or is not of type {types[name]!r}.")
            chunks[name].append(table[name].astype(layout[name].newbyteorder("=")))
        del waiting[: count * layout.itemsize]

    with cursor.copy(sql.SQL("copy ({}) to stdout (format binary)").format(query)) as copy:
        for block in copy:
            waiting += block[len(HEADER) :] if not rows and block[: len(HEADER)] == HEADER else block
            if len(waiting) >= READ_BYTES:
                count = (len(waiting) - len(TRAILER)) // layout.itemsize
                take(count)
                rows += count
                on_rows(rows)
    take((len(waiting) - len(TRAILER)) // layout.itemsize)
    if waiting != TRAILER:
        raise ValueError(f"The query gives other columns than {', '.join(types)}: {len(waiting)} bytes are left over.")
    empty = {name: np.empty(0, layout[name].newbyteorder("=")) for name in types}
    return {name: np.concatenate([empty[name], *parts]) for name, parts in chunks.items()}
