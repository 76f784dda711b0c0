"""The table churn_predictions: writing the rows of a commit, and reading and deleting them.

Its columns are defined in prediction_columns.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql

from churn_platform.database.bulk import BinaryArray, Column, Rows, copy_rows, encode_row_array
from churn_platform.database.catalog import RowType, TableColumn, columns_of, row_type_of
from churn_platform.database.prediction_columns import PredictionColumn, PredictionTable, column_list
from churn_platform.errors import PlatformError

Place = tuple[int, int]
"""Kafka partition and offset."""

# Parts of the statement of a commit (see ledger.py). It writes few new rows itself; many were copied before it.
_INSERT_GIVEN: Final = sql.SQL("""
    inserted as (
        insert into churn_predictions ({columns}) select {columns} from unnest(%(rows)s::churn_predictions[])
        returning churn_predictions.*
    )
""")
FIND_COPIED: Final = """
    inserted as (
        select * from churn_predictions where event_id = any(%(risky)s::uuid[])
    )
"""

_CREATE_STAGE: Final = sql.SQL(
    "create temp table if not exists staged_predictions ({}, timestamp_given smallint) on commit delete rows"
)
_INSERT_STAGED: Final = sql.SQL("""
    insert into churn_predictions ({columns})
    select {columns} from staged_predictions order by kafka_partition, kafka_offset
    on conflict (event_id) do nothing
    returning kafka_partition, kafka_offset
""")
# The same for rows that Spark has staged. Of two new rows with one id, the first in this order is inserted: in a replay
# that which had the row before, so that the rows stay the same.
_INSERT_OF_ATTEMPT: Final = sql.SQL("""
    inserted as (
        insert into churn_predictions ({columns})
        select {selected} from spark_predictions s
        left join replaced_predictions r on r.batch = s.batch and r.replay = %(replay)s::integer
          and r.kafka_partition = s.kafka_partition and r.kafka_offset = s.kafka_offset
        where s.attempt = %(attempt)s::uuid
        order by r.kafka_offset is null, s.kafka_partition, s.kafka_offset
        on conflict (event_id) do nothing
        returning churn_predictions.*
    )
""")
# An event that is sent twice has the same content. Kafka's own time, used for an event without one, differs each time.
_FIND_CONFLICTS: Final = sql.SQL("""
    select s.kafka_partition, s.kafka_offset, p.batch, p.kafka_partition, p.kafka_offset
    from {stage} s join churn_predictions p using (event_id)
    where {of_stage}
      and (p.batch, p.kafka_partition, p.kafka_offset) is distinct from (s.batch, s.kafka_partition, s.kafka_offset)
      and (
        ({staged}) is distinct from ({stored})
        or (s.timestamp_given = 1 and s.event_timestamp <> p.event_timestamp)
      )
""")
_DELETE_BATCH: Final = """
    delete from churn_predictions where batch = %s
    returning kafka_partition, kafka_offset, customer_id, event_timestamp
"""
# The ranges of some offsets. A row belongs to the topic of its batch's range: a topic that was deleted and created
# again has the same offsets.
_RANGES_OF_OFFSETS: Final = """
    select r.batch, r.kafka_partition, greatest(r.start_offset, w.start), least(r.end_offset, w.stop)
    from unnest(%(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[]) as w (kafka_partition, start, stop)
    join stream_ranges r on r.topic_id = %(topic_id)s and r.kafka_partition = w.kafka_partition
      and r.end_offset > w.start and r.start_offset < w.stop
"""
# Both arrays have an element for each partition. With a join instead, PostgreSQL sorts the rows of the whole batch,
# because it expects few of them.
_OF_OFFSETS: Final = sql.SQL("""
    select {columns} from churn_predictions p
    where p.batch = %(batch)s
      and p.kafka_offset >= (%(starts)s::bigint[])[p.kafka_partition + 1]
      and p.kafka_offset < (%(ends)s::bigint[])[p.kafka_partition + 1]
    order by p.kafka_partition, p.kafka_offset
""")
_OF_EVENTS: Final = sql.SQL("""
    select {columns} from unnest(%s::uuid[]) with ordinality as e (event_id, number)
    join churn_predictions p using (event_id) order by e.number
""")
# The range of keys is what the index on batch can use.
_IN_BATCHES: Final = sql.SQL("batch between %(first)s and %(last)s and batch = any(%(batches)s)")
_EXPORT: Final = sql.SQL("""
    copy (
        select {columns} from churn_predictions where {in_batches} order by batch, kafka_partition, kafka_offset
    ) to stdout (format csv, header)
""")
_DELETE_BATCHES: Final = sql.SQL("""
    with gone as (
        delete from churn_predictions where {in_batches}
        returning ctid
    )
    select count(*), coalesce(array_agg(distinct (ctid::text::point)[0]::bigint / 32), '{{}}') from gone
""").format(in_batches=_IN_BATCHES)
_SAMPLE: Final = sql.SQL("""
    select model_version, {columns}, risk_score
    from churn_predictions
    where event_timestamp >= %s and event_timestamp < %s and batch = any(%s)
      and hashint8(kafka_offset) & 65535 < %s
""")
_LATEST_BY_CUSTOMER: Final = """
    select distinct on (customer_id) customer_id, risk_score::double precision, true_churn_label
    from churn_predictions
    where event_timestamp > now() - make_interval(days => %s)
    order by customer_id, event_timestamp desc, event_id desc
"""


class KnownEventError(Exception):
    """An event id is stored already, or occurs twice. The transaction has to be rolled back."""


class TableChangedError(PlatformError):
    """The table's columns have changed since its row type was read, so rows of that type were not accepted."""

    transient = True


def row_type(connection: psycopg.Connection) -> RowType:
    """Return the type of the table's rows, for `given_rows`."""
    return row_type_of(connection, "churn_predictions")


@cache
def insert_given(table: PredictionTable) -> sql.Composed:
    """Return the part of a commit's statement that inserts its argument `rows`, an array from `given_rows`."""
    return _INSERT_GIVEN.format(columns=column_list(table.written))


def given_rows(rows: Rows, row_type: RowType) -> BinaryArray:
    """Return rows as the argument of `insert_given`."""
    return encode_row_array(rows.columns, row_type)


def insert_new(connection: psycopg.Connection, rows: Rows) -> None:
    """Copy all rows, in the caller's transaction.

    Raises:
        KnownEventError: nothing was copied. Use insert_or_compare() in another transaction.
    """
    try:
        with connection.cursor() as cursor:
            copy_rows(cursor, "churn_predictions", rows)
    except psycopg.errors.UniqueViolation as error:
        raise known_event(error) from None


def table_changed() -> TableChangedError:
    """Return the error for rows that PostgreSQL did not accept as such of the table."""
    return TableChangedError(
        "The columns of churn_predictions changed while the stream was writing. This commit is rolled back, nothing is "
        "lost, and the stream continues with the new columns."
    )


def known_event(error: psycopg.errors.UniqueViolation) -> Exception:
    """Return KnownEventError if an event id caused this error, otherwise the error itself."""
    return KnownEventError() if error.diag.table_name == "churn_predictions" else error


def insert_or_compare(
    connection: psycopg.Connection, table: PredictionTable, rows: Rows, *, timestamp_given: Column
) -> tuple[set[Place], dict[Place, tuple[str, Place]]]:
    """Insert the rows whose event id is new, and compare the others with the rows that have their ids.

    Args:
        connection: in a transaction.
        table: whose columns the rows have.
        rows: the columns that a commit writes.
        timestamp_given: whether the event had a timestamp of its own, 0 or 1.

    Returns:
        The places of the rows that were inserted; and of each row whose id belongs to an event with other content, the
        batch and place of that event. The remaining rows are duplicates.
    """
    create_stage, insert_staged, find_conflicts = _staging(table)
    with connection.cursor() as cursor:
        cursor.execute(create_stage)
        copy_rows(cursor, "staged_predictions", Rows({**rows.columns, "timestamp_given": timestamp_given}))
        inserted = set(cursor.execute(insert_staged).fetchall())
        conflicts = _conflicts(cursor.execute(find_conflicts))
        cursor.execute("truncate staged_predictions")
    return inserted, conflicts


@cache
def insert_of_attempt(table: PredictionTable) -> sql.Composed:
    """Return the part of a statement that inserts the new ones of the rows that Spark has staged.

    Its arguments are `attempt`, and `replay`: how often the batch was replayed before, or None for a first reading.
    """
    return _INSERT_OF_ATTEMPT.format(columns=column_list(table.written), selected=column_list(table.written, table="s"))


def conflicts_of_attempt(
    connection: psycopg.Connection, table: PredictionTable, attempt: UUID
) -> dict[Place, tuple[str, Place]]:
    """Return the staged rows whose id belongs to an event with other content, as insert_or_compare() does.

    Args:
        connection: in the transaction that has inserted the new ones of these rows.
        table: whose columns the rows have.
        attempt: of Spark.
    """
    query = _find_conflicts(
        table, stage=sql.Identifier("spark_predictions"), of_stage=sql.SQL("s.attempt = %(attempt)s::uuid")
    )
    return _conflicts(connection.execute(query, {"attempt": attempt}))


def _conflicts(rows: Iterable[tuple[int, int, str, int, int]]) -> dict[Place, tuple[str, Place]]:
    return {
        (partition, offset): (batch, (other_partition, other_offset))
        for partition, offset, batch, other_partition, other_offset in rows
    }


def delete_rows_of_batch(connection: psycopg.Connection, batch: str) -> int:
    """Delete the rows of a batch, and return how many there were."""
    return connection.execute("delete from churn_predictions where batch = %s", (batch,)).rowcount


def delete_batch(connection: psycopg.Connection, batch: str) -> dict[Place, tuple[int | str, datetime]]:
    """Delete the rows of a batch; return the customer id and event time of each, by its place."""
    return {
        (partition, offset): (customer, time)
        for partition, offset, customer, time in connection.execute(_DELETE_BATCH, (batch,))
    }


def copy_of_customer(connection: psycopg.Connection, customer_id: int | str, *, into: str) -> None:
    """Copy the rows of a customer to a new temporary table, which the end of the transaction drops."""
    connection.execute(
        sql.SQL("create temp table {} on commit drop as select * from churn_predictions where customer_id = {}").format(
            sql.Identifier(into), sql.Literal(customer_id)
        )
    )


def published_columns(
    connection: psycopg.Connection, table: PredictionTable, topic_id: str, offsets: Mapping[int, range]
) -> list[tuple[Any, ...]]:
    """Return the published columns of the rows from these offsets of a topic, by partition and offset.

    Args:
        connection: to the platform's database.
        table: churn_predictions.
        topic_id: Kafka's id of the topic.
        offsets: which, by Kafka partition.
    """
    wanted = {
        "topic_id": topic_id,
        "partitions": list(offsets),
        "starts": [each.start for each in offsets.values()],
        "ends": [each.stop for each in offsets.values()],
    }
    batches: dict[str, dict[int, range]] = {}
    for batch, partition, start, end in connection.execute(_RANGES_OF_OFFSETS, wanted):
        batches.setdefault(batch, {})[partition] = range(start, end)
    query = _OF_OFFSETS.format(columns=_published(table))
    rows: list[tuple[Any, ...]] = []
    with connection.transaction():
        # Without recent statistics, PostgreSQL would read the whole table for a batch.
        connection.execute("set local enable_seqscan = off")
        for batch, ranges in batches.items():
            found = [ranges.get(partition) for partition in range(max(ranges) + 1)]
            bounds = {
                "batch": batch,
                "starts": [None if each is None else each.start for each in found],
                "ends": [None if each is None else each.stop for each in found],
            }
            rows += connection.execute(query, bounds).fetchall()
    # An earlier event of a partition is published earlier, whichever batch it is in.
    names = [column.name for column in table.published]
    return sorted(rows, key=itemgetter(names.index("kafka_partition"), names.index("kafka_offset")))


def published_columns_of(
    connection: psycopg.Connection, table: PredictionTable, event_ids: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Return the published columns of the rows of these events, in their order."""
    return connection.execute(_OF_EVENTS.format(columns=_published(table)), (list(event_ids),)).fetchall()


def stored_columns(connection: psycopg.Connection) -> list[TableColumn]:
    """Return all columns of the table, those that left the customer schema included."""
    return columns_of(connection, "churn_predictions")


def export_batches(
    connection: psycopg.Connection,
    columns: Sequence[TableColumn],
    batches: Sequence[str],
    write: Callable[[bytes | bytearray | memoryview], object],
) -> None:
    """Write columns of the rows of these batches as CSV with a header. Times are microseconds since 1970.

    Args:
        connection: to the platform's database.
        columns: of the table.
        batches: in the database's order.
        write: called with each part of the text.
    """
    query = _EXPORT.format(
        columns=sql.SQL(", ").join(
            sql.SQL(
                "(extract(epoch from {0}) * 1000000)::bigint as {0}" if column.type == "timestamptz" else "{0}"
            ).format(sql.Identifier(column.name))
            for column in columns
        ),
        in_batches=_IN_BATCHES,
    )
    with connection.cursor() as cursor, cursor.copy(query, _batch_keys(batches)) as copy:
        for chunk in copy:
            write(chunk)


def delete_batches(connection: psycopg.Connection, batches: Sequence[str]) -> tuple[int, list[int]]:
    """Delete the rows of these batches, given in the database's order.

    Returns:
        How many rows were deleted, and the block ranges that held them, for summarize_again().
    """
    row = connection.execute(_DELETE_BATCHES, _batch_keys(batches)).fetchone()
    return (0, []) if row is None else (row[0], row[1])


def summarize_again(connection: psycopg.Connection, block_ranges: Sequence[int]) -> None:
    """Remove the batches and times of deleted rows from the index summaries of these block ranges."""
    connection.execute("select resummarize_predictions(%s)", (block_ranges,))


def sample_rows(
    connection: psycopg.Connection,
    columns: Sequence[PredictionColumn],
    *,
    start: datetime,
    end: datetime,
    batches: Sequence[str],
    hashes: int,
) -> list[tuple[Any, ...]]:
    """Return a sample of these batches' predictions of events in [start, end).

    Args:
        columns: of the customer.
        hashes: how many of the 65,536 hash values of offsets are in the sample. Equal arguments give equal samples.

    Returns:
        Model version, the columns, risk score.
    """
    query = _SAMPLE.format(columns=column_list(columns))
    return connection.execute(query, (start, end, list(batches), hashes)).fetchall()


def latest_by_customer(connection: psycopg.Connection, *, days: int) -> list[tuple[int | str, float, int | None]]:
    """Return id, risk score and label of the latest prediction of each customer with an event in the last days."""
    return connection.execute(_LATEST_BY_CUSTOMER, (days,)).fetchall()


def _batch_keys(batches: Sequence[str]) -> dict[str, object]:
    return {"first": batches[0], "last": batches[-1], "batches": batches}


def _published(table: PredictionTable) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("p.{}::text" if column.type == "uuid" else "p.{}").format(sql.Identifier(column.name))
        for column in table.published
    )


@cache
def _staging(table: PredictionTable) -> tuple[bytes, bytes, bytes]:
    """Return the statements that create the stage, insert new rows from it, and find rows with other content."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type)) for column in table.written
    )
    return (
        _CREATE_STAGE.format(columns).as_bytes(None),
        _INSERT_STAGED.format(columns=column_list(table.written)).as_bytes(None),
        _find_conflicts(table, stage=sql.Identifier("staged_predictions"), of_stage=sql.SQL("true")).as_bytes(None),
    )


def _find_conflicts(table: PredictionTable, *, stage: sql.Identifier, of_stage: sql.SQL) -> sql.Composed:
    return _FIND_CONFLICTS.format(
        staged=column_list(table.content, table="s"),
        stored=column_list(table.content, table="p"),
        stage=stage,
        of_stage=of_stage,
    )
