"""The archive: predictions of batches that were closed long ago, moved from churn_predictions to Parquet files."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from churn_platform.database import churn_predictions, customer_schemas, stream_batches, summary_state
from churn_platform.database.advisory_locks import lock_batches
from churn_platform.database.catalog import TableColumn
from churn_platform.errors import PlatformError
from churn_platform.files.artifacts import ARCHIVE, claim, join, read_bytes, write_bytes

FOLDER: Final = (ARCHIVE, "churn_predictions")
# A file is written from memory. This many rows need about 200 MB.
FILE_ROWS: Final = 500_000
# Each batch of a file is locked while its rows are deleted, and PostgreSQL has room for 6,400 locks by default.
FILE_BATCHES: Final = 1_000

_TIME: Final = pa.timestamp("us", tz="UTC")
# A UUID is stored as its text of 36 characters, which every reader of Parquet can compare.
_ARROW_TYPES: Final = {
    "uuid": pa.string(),
    "text": pa.string(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "date": pa.date32(),
    "timestamptz": _TIME,
}
# Keys of a file's metadata: the customer schema as JSON, and its fingerprint.
SCHEMA_DOCUMENT: Final = b"customer_schema"
SCHEMA_FINGERPRINT: Final = b"customer_schema_fingerprint"


class ArchiveError(PlatformError):
    """A file does not contain the rows of the table. Nothing was deleted."""


@dataclass(frozen=True)
class Archived:
    """One file, written and recorded, whose rows were deleted from churn_predictions."""

    file: str
    batches: int
    rows: int


def archive_next(
    connection: psycopg.Connection,
    root: str,
    *,
    before: datetime,
    file_rows: int = FILE_ROWS,
    write: Callable[[str, bytes], object] = write_bytes,
    read: Callable[[str], bytes] = read_bytes,
) -> Archived | None:
    """Move the oldest predictions to one file, in whole batches of one customer schema, which the file contains.

    A batch qualifies if it was closed before a moment, Dagster is known to have its materialization, its predictions
    are known to be published, and the summaries have them. The third condition does not follow from the others: a batch
    that a dead run left open is closed and reported before its successor has published the rest.

    First the ledger records which batches go into which file. Then the file is written and read back. Then one
    transaction deletes the rows and records that they are archived. If the process dies in between, the record of the
    first step is still there, so the next call writes the same file again: no row is in two files or in none.

    Args:
        connection: in autocommit mode, holding advisory_locks.archive_lock().
        root: the artifacts root; files are `archive/churn_predictions/<month closed>/<first batch>.parquet` below it.
        before: only batches closed before this time.
        file_rows: maximum number of rows of a file; a batch with more rows gets its own file.
        write: writes a file.
        read: reads it back.

    Returns:
        What was archived, or None if nothing is left to archive.

    Raises:
        ArchiveError: the file does not contain the rows to delete, or a batch was replayed meanwhile.
        OSError: the file could not be written or read back.
    """
    assigned = stream_batches.assigned_archive(connection)
    if assigned is None:
        stream_batches.assign_archive(
            connection, before=before, folder=join(root, *FOLDER), max_batches=FILE_BATCHES, max_rows=file_rows
        )
        assigned = stream_batches.assigned_archive(connection)
    if assigned is None:
        return None
    claim(root)
    file, batches = assigned
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        if not set(batches).isdisjoint(summary_state.uncounted_replays(connection)):
            return None  # replayed since they were assigned: the worker first corrects the summaries
        replays = stream_batches.replay_counts(connection, batches)
        table = _read_table(connection, batches).replace_schema_metadata(_metadata(connection, batches[0]))
    _write_and_verify(file, table, write, read)
    block_ranges = _delete(connection, file, batches, rows=table.num_rows, replays=replays)
    # New rows will be written to the same blocks, for which the indexes would still list the old batches and times.
    churn_predictions.summarize_again(connection, block_ranges)
    return Archived(file, len(batches), table.num_rows)


def arrow_schema(columns: Sequence[TableColumn]) -> pa.Schema:
    """Return the schema of a file with these columns. Types that the platform does not use become text."""
    return pa.schema(
        [
            pa.field(column.name, _ARROW_TYPES.get(column.type, pa.string()), column.nullable and not column.generated)
            for column in columns
        ]
    )


def _metadata(connection: psycopg.Connection, batch: str) -> dict[bytes, str]:
    """Return the customer schema of a batch and its fingerprint; nothing if the batch has none."""
    recorded = stream_batches.find_batch(connection, batch)
    if recorded is None or recorded.schema_fingerprint is None:
        return {}
    schema = customer_schemas.get(connection, recorded.schema_fingerprint)
    document = {} if schema is None else {SCHEMA_DOCUMENT: schema.to_json()}
    return {SCHEMA_FINGERPRINT: recorded.schema_fingerprint, **document}


def _delete(
    connection: psycopg.Connection, file: str, batches: Sequence[str], *, rows: int, replays: list[tuple[str, int]]
) -> list[int]:
    """Delete the rows of the batches and record that they are archived, in one transaction.

    Args:
        connection: in autocommit mode.
        file: file with the rows.
        batches: batches in the file.
        rows: number of rows in the file.
        replays: how often each batch had been replayed when its rows were read.

    Returns:
        The block ranges that held the rows.

    Raises:
        ArchiveError: the rows to delete are not those in the file. Nothing was deleted.
    """
    with connection.transaction():
        lock_batches(connection, batches)
        if stream_batches.replay_counts(connection, batches) != replays:
            raise ArchiveError(
                f"{file} was not archived: a batch between {batches[0]} and {batches[-1]} was replayed while it was "
                f"written. The next run of maintenance_job writes it again."
            )
        deleted, block_ranges = churn_predictions.delete_batches(connection, batches)
        recorded = stream_batches.record_archived(connection, batches, file)
        if (deleted, recorded) != (rows, len(batches)):
            raise ArchiveError(
                f"{file} was not archived: it holds {rows} rows of {len(batches)} batches, but "
                f"churn_predictions has {deleted} rows of them and the ledger {recorded} batches. Nothing was deleted. "
                f"Does anything else write to churn_predictions?"
            )
    return block_ranges


def _read_table(connection: psycopg.Connection, batches: Sequence[str]) -> pa.Table:
    """Return the rows of the batches, as the open transaction sees them, with all columns of the table."""
    text = io.BytesIO()
    columns = churn_predictions.stored_columns(connection)
    schema = arrow_schema(columns)
    churn_predictions.export_batches(connection, columns, batches, text.write)
    types = {field.name: pa.int64() if field.type == _TIME else field.type for field in schema}
    rows = pc.read_csv(
        pa.py_buffer(text.getbuffer()),
        # In PostgreSQL's CSV an empty field is a null, and an empty text is quoted.
        convert_options=pc.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
        # A text may hold a line break.
        parse_options=pc.ParseOptions(newlines_in_values=True),
    )
    return rows.cast(schema)


def _write_and_verify(
    file: str, table: pa.Table, write: Callable[[str, bytes], object], read: Callable[[str], bytes]
) -> None:
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    write(file, content.getvalue())
    stored = pq.read_table(io.BytesIO(read(file)))
    if not stored.equals(table):
        raise ArchiveError(
            f"{file} was not archived: the {stored.num_rows} rows read back are not the {table.num_rows} rows "
            f"written. Nothing was deleted. Does anything else write to that folder?"
        )
