"""The archive: predictions of batches closed long ago, moved from churn_predictions to Parquet files."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from churn_platform.files.artifacts import ARCHIVE, claim, join, read_bytes, write_bytes

FOLDER: Final = (ARCHIVE, "churn_predictions")
# A file is written from memory: this many rows need about 200 MB.
FILE_ROWS: Final = 500_000
# Each batch of a file is locked while its rows are deleted; PostgreSQL has room for 6,400 locks unless told otherwise.
FILE_BATCHES: Final = 1_000
# Held by the session that archives: two at once would write the same file.
ARCHIVE_LOCK: Final = 0x6368757261726368  # "churarch"

_TIME: Final = pa.timestamp("us", tz="UTC")
# As in PostgreSQL; a UUID is its text of 36 characters, which every reader of Parquet can compare.
SCHEMA: Final = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("event_ref", pa.string()),
        pa.field("customer_id", pa.int64(), nullable=False),
        pa.field("prediction", pa.int16(), nullable=False),
        pa.field("risk_score", pa.float32(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("predicted_at", _TIME, nullable=False),
        pa.field("event_timestamp", _TIME, nullable=False),
        pa.field("model_version", pa.int32(), nullable=False),
        pa.field("credit_score", pa.int16(), nullable=False),
        pa.field("geography", pa.string(), nullable=False),
        pa.field("gender", pa.string(), nullable=False),
        pa.field("age", pa.float32()),
        pa.field("tenure", pa.int16(), nullable=False),
        pa.field("balance", pa.float64(), nullable=False),
        pa.field("num_of_products", pa.int16(), nullable=False),
        pa.field("has_cr_card", pa.int16(), nullable=False),
        pa.field("is_active_member", pa.int16(), nullable=False),
        pa.field("estimated_salary", pa.float64(), nullable=False),
        pa.field("true_churn_label", pa.int16()),
        pa.field("batch", pa.string(), nullable=False),
        pa.field("kafka_partition", pa.int32(), nullable=False),
        pa.field("kafka_offset", pa.int64(), nullable=False),
    ]
)

# What is to be archived, oldest first, until a file is full. A batch of which the ledger does not know that it is
# published to its end is left: only from its rows can it still be published.
_CLAIM: Final = """
    with due as (
        select batch, closed, row_number() over by_batch as place,
            sum(predictions) over (by_batch rows between unbounded preceding and current row) as rows_so_far
        from stream_batches b
        where closed < %(before)s and reported and archived is null and archive is null
          and not exists (
            select from stream_ranges r join stream_positions p using (topic_id, kafka_partition)
            where r.batch = b.batch and r.end_offset > p.published_to
          )
        window by_batch as (order by batch)
        limit %(batches)s
    ), taken as (
        select batch, closed, place from due where place = 1 or rows_so_far <= %(rows)s
    )
    update stream_batches b set archive = (
        select concat_ws('/', %(folder)s::text, to_char(closed at time zone 'utc', 'YYYY-MM'), batch || '.parquet')
        from taken where place = 1
    )
    from taken t where b.batch = t.batch
"""
_CLAIMED: Final = """
    select archive, array_agg(batch order by batch) from stream_batches
    where archive is not null and archived is null
    group by archive order by archive limit 1
"""
# The range of keys is what the index on batch can use.
_COPY: Final = """
    copy (
        select event_id, event_ref, customer_id, prediction, risk_score, probability,
            (extract(epoch from predicted_at) * 1000000)::bigint as predicted_at,
            (extract(epoch from event_timestamp) * 1000000)::bigint as event_timestamp,
            model_version, credit_score, geography, gender, age, tenure, balance, num_of_products, has_cr_card,
            is_active_member, estimated_salary, true_churn_label, batch, kafka_partition, kafka_offset
        from churn_predictions
        where batch between %(first)s and %(last)s and batch = any(%(batches)s)
        order by batch, kafka_partition, kafka_offset
    ) to stdout (format csv, header)
"""
_REPLAYS: Final = "select batch, replays from stream_batches where batch = any(%s) order by batch"
# The same lock that a replay of the batch holds.
_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended(batch, 0)) from unnest(%s::text[]) as b (batch)"
_DELETE: Final = """
    with gone as (
        delete from churn_predictions where batch between %(first)s and %(last)s and batch = any(%(batches)s)
        returning ctid
    )
    select count(*), coalesce(array_agg(distinct (ctid::text::point)[0]::bigint / 32), '{}') from gone
"""
_SUMMARIZE: Final = "select resummarize_predictions(%s)"
_RECORD: Final = """
    update stream_batches set archived = now() where batch = any(%s) and archive = %s and archived is null
"""


class ArchiveError(Exception):
    """A file does not hold what the table holds. Nothing was deleted."""


@dataclass(frozen=True)
class Archived:
    """One file, written and recorded, whose rows have left churn_predictions."""

    file: str
    batches: int
    rows: int


@contextmanager
def archiving(connection: psycopg.Connection) -> Iterator[bool]:
    """The right to archive, for one session at a time; False when another one holds it."""
    held = connection.execute("select pg_try_advisory_lock(%s)", (ARCHIVE_LOCK,)).fetchone() == (True,)
    try:
        yield held
    finally:
        if held:
            connection.execute("select pg_advisory_unlock(%s)", (ARCHIVE_LOCK,))


def archive_next(
    connection: psycopg.Connection, root: str, *, before: datetime, file_rows: int = FILE_ROWS
) -> Archived | None:
    """Move the oldest predictions to one file, in whole batches.

    A batch qualifies when it was closed before a moment, Dagster is known to hold its materialization, and its
    predictions are known to be published. That it is closed and reported does not say so: a batch that a dead run left
    open is closed and reported before its successor has published the rest.

    First the ledger records which batches go to which file, then the file is written whole and read back, then one
    transaction deletes the rows and says that they are archived. Whatever dies between leaves the first: the next call
    writes that very file again, and no row is in two files or in none.

    Args:
        connection: in autocommit mode, holding the right to archive.
        root: the artifacts root; files are `archive/churn_predictions/<month closed>/<first batch>.parquet` below it.
        before: batches closed earlier than this.
        file_rows: most rows of a file; a batch with more has a file to itself.

    Returns:
        What was archived, or None when nothing is left to do.

    Raises:
        ArchiveError: the file does not hold what was to be deleted, or a batch was replayed meanwhile.
        OSError: the file could not be written or read back.
    """
    claimed = connection.execute(_CLAIMED).fetchone()
    if claimed is None:
        connection.execute(
            _CLAIM,
            {
                "before": before,
                "batches": FILE_BATCHES,
                "rows": file_rows,
                "folder": join(root, *FOLDER),
            },
        )
        claimed = connection.execute(_CLAIMED).fetchone()
    if claimed is None:
        return None
    claim(root)
    file, batches = claimed
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        replays = connection.execute(_REPLAYS, (batches,)).fetchall()
        rows = _write(connection, file, batches)
    with connection.transaction():
        connection.execute(_LOCK, (batches,))
        if connection.execute(_REPLAYS, (batches,)).fetchall() != replays:
            raise ArchiveError(
                f"{file} was not archived: a batch between {batches[0]} and {batches[-1]} was replayed while it was "
                f"written. The next run of maintenance_job writes it anew."
            )
        deleted, block_ranges = connection.execute(_DELETE, _keys(batches)).fetchone() or (0, [])
        recorded = connection.execute(_RECORD, (batches, file)).rowcount
        if (deleted, recorded) != (rows, len(batches)):
            raise ArchiveError(
                f"{file} was not archived: it holds {rows} rows of {len(batches)} batches, but churn_predictions has "
                f"{deleted} rows of them and the ledger {recorded} batches. Nothing was deleted. Does anything else "
                f"write to churn_predictions?"
            )
    # New rows will come where these were, and the indexes would go on to say that old batches and times are there, too.
    connection.execute(_SUMMARIZE, (block_ranges,))
    return Archived(file, len(batches), rows)


def _keys(batches: Sequence[str]) -> dict[str, object]:
    """Parameters that name batches, given in the order of the database."""
    return {"first": batches[0], "last": batches[-1], "batches": batches}


def _write(connection: psycopg.Connection, file: str, batches: Sequence[str]) -> int:
    """Write the rows of the batches to a file, read it back, and return how many it holds."""
    text = io.BytesIO()
    with connection.cursor() as cursor, cursor.copy(_COPY, _keys(batches)) as copy:
        for chunk in copy:
            text.write(chunk)
    rows = _table(text.getbuffer())
    content = io.BytesIO()
    pq.write_table(rows, content, compression="zstd")
    write_bytes(file, content.getvalue())
    stored = pq.read_table(io.BytesIO(read_bytes(file)))
    if not stored.equals(rows):
        raise ArchiveError(
            f"{file} was not archived: read back, its {stored.num_rows} rows are not the {rows.num_rows} that were "
            f"written. Nothing was deleted. Does anything else write to that folder?"
        )
    return int(stored.num_rows)


def _table(text: memoryview) -> pa.Table:
    """Rows from PostgreSQL's CSV, in which an empty field is a null and an empty text is quoted."""
    types = {field.name: pa.int64() if field.type == _TIME else field.type for field in SCHEMA}
    read = pc.read_csv(
        pa.py_buffer(text),
        convert_options=pc.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
        # A text may hold a line break.
        parse_options=pc.ParseOptions(newlines_in_values=True),
    )
    return read.cast(SCHEMA)
