"""The temporary table summary_changes: the predictions by which a transaction of the worker changes the summaries.

A row has sign 1 if the summaries get it, and -1 if they had it before a replay of its batch. Each session has its own
table, which is empty at the start of each transaction.
"""

from collections.abc import Sequence
from functools import cache
from typing import Final

import psycopg
from psycopg import sql

from churn_platform.database import worker_positions
from churn_platform.database.arms import ArmKey, arm_of_row
from churn_platform.database.averages import Average, averages
from churn_platform.database.segments import segments_of_row
from churn_platform.database.worker_positions import RowRange
from churn_platform.schema.customer_schema import CustomerSchema

_CREATE: Final = sql.SQL("""
    create temp table if not exists summary_changes (
        sign smallint, event_id uuid, customer_id {id_type}, event_timestamp timestamptz, batch text,
        kafka_partition integer, kafka_offset bigint, predicted_at timestamptz, model_version integer,
        prediction smallint, risk_score real, true_churn_label smallint, high_risk boolean, is_replay boolean,
        arm text, money_at_risk double precision, segments jsonb{averaged}
    ) on commit delete rows
""")
# A batch has a threshold from its first event on.
_ADD: Final = sql.SQL("""
    insert into summary_changes
    select {sign}, p.event_id, p.customer_id, p.event_timestamp, p.batch, p.kafka_partition, p.kafka_offset,
        p.predicted_at, p.model_version, p.prediction, p.risk_score, p.true_churn_label,
        coalesce(p.risk_score::double precision >= b.high_risk_threshold, false), b.replays > 0, {arm}, {values}
    from {source} p
    {ranges}
    join stream_batches b on b.batch = p.batch
""")
# Twice each row of a customer whose arm changes: with the old arm and sign -1, and with the new one.
_OTHER_ARM: Final = sql.SQL("""
    select c.sign, p.event_timestamp, p.model_version, p.prediction, p.risk_score, p.true_churn_label,
        coalesce(p.risk_score::double precision >= b.high_risk_threshold, false) as high_risk,
        case c.sign when 1 then s.new_arm else s.arm end as arm, {values}
    from churn_predictions p
    join (select customer_id, arm, {arm} as new_arm from customer_summary) as s using (customer_id)
    join stream_batches b on b.batch = p.batch
    cross join (values (-1), (1)) as c (sign)
    where s.arm <> s.new_arm and exists (
        select from stream_ranges r join worker_positions w using (topic_id, kafka_partition)
        where w.follower = %(follower)s and r.batch = p.batch and r.kafka_partition = p.kafka_partition
          and p.kafka_offset >= r.start_offset and p.kafka_offset < least(r.end_offset, w.next_offset)
    )
""")
# The rows from before the first of several replays are those that the summaries have.
_REPLACED: Final = sql.SQL("""(
    select * from replaced_predictions e
    where e.replay = (select min(f.replay) from replaced_predictions f where f.batch = e.batch)
)""")
# The arm under which the sums have the predictions of a customer who is about to be erased.
_COUNTED_ARM: Final = sql.SQL("""
    coalesce((select c.arm from customer_summary c where c.customer_id = p.customer_id), 'control')
""")
_ADD_ARCHIVED: Final = sql.SQL("""
    insert into summary_changes
    select -1, p.event_id, p.customer_id, p.event_timestamp, p.batch, p.kafka_partition, p.kafka_offset,
        p.predicted_at, p.model_version, p.prediction, p.risk_score, p.true_churn_label,
        coalesce(p.risk_score::double precision >= b.high_risk_threshold, false), b.replays > 0, {arm}, {values}
    from {source} p join stream_batches b on b.batch = p.batch cross join summary_state s
    where b.archived is not null and (
        b.archived >= s.began or (p.event_timestamp at time zone 'utc')::date in (
            select (h.hour_timestamp at time zone 'utc')::date
            from churn_batch_hours h join stream_batches o using (batch)
            group by 1 having bool_and(coalesce(o.archived < s.began, false))
        )
    )
""")


def create(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Create the table in this session, unless it exists."""
    averaged = sql.SQL("").join(
        sql.SQL(", {} double precision").format(averaged_value(each)) for each in averages(schema)
    )
    connection.execute("set client_min_messages = warning")  # that it exists is no news
    connection.execute(_CREATE.format(id_type=sql.SQL(schema.id_type), averaged=averaged))


def averaged_value(average: Average) -> sql.Identifier:
    """Return the name of the column that holds the value of an averaged column."""
    return sql.Identifier(f"{average.column}_value")


def definition(schema: CustomerSchema) -> str:
    """Return the expressions of segments, money at risk and averages, as text."""
    return _values(schema).as_string(None)


def add_new(
    connection: psycopg.Connection,
    schema: CustomerSchema,
    key: ArmKey,
    ranges: Sequence[RowRange],
    *,
    first_block: int | None,
) -> int:
    """Add the predictions of these ranges; return how many there are.

    Args:
        connection: in a transaction.
        schema: of the customers.
        key: decides the arms.
        ranges: rows to add.
        first_block: only rows in this block of churn_predictions or a later one; None to read all of the batches.
    """
    if not ranges:
        return 0
    # Prepared, PostgreSQL would plan the statement for any blocks, and read the whole table.
    return connection.execute(
        _add(schema, sign=1, source="churn_predictions", in_blocks=first_block is not None),
        {**worker_positions.of_rows(ranges, first_block=first_block), **vars(key)},
        prepare=False,
    ).rowcount


def add_replaced(
    connection: psycopg.Connection, schema: CustomerSchema, key: ArmKey, ranges: Sequence[RowRange]
) -> None:
    """Add the predictions of these ranges from before the replays of their batches, with sign -1, and the present ones.

    Args:
        connection: in a transaction with one snapshot for all statements.
        schema: of the customers.
        key: decides the arms.
        ranges: the rows of replayed batches that the summaries have.
    """
    if not ranges:
        return
    arguments = {**worker_positions.of_rows(ranges, first_block=None), **vars(key)}
    for sign, source in ((-1, "replaced_predictions"), (1, "churn_predictions")):
        connection.execute(_add(schema, sign=sign, source=source, in_blocks=False), arguments, prepare=False)


def add_erased(
    connection: psycopg.Connection, schema: CustomerSchema, ranges: Sequence[RowRange], *, rows: str
) -> None:
    """Add the predictions of these ranges that are in a temporary table of predictions to be deleted, with sign -1."""
    if ranges:
        connection.execute(
            _add(schema, sign=-1, source=rows, in_blocks=False, as_counted=True),
            worker_positions.of_rows(ranges, first_block=None),
            prepare=False,
        )


def add_erased_archived(connection: psycopg.Connection, schema: CustomerSchema, *, rows: str) -> None:
    """Add the predictions of a temporary table that are archived and that the summaries have, with sign -1.

    The summaries have those that were archived after the worker began to compute them, because a batch is archived only
    once they have it; and those of days that were archived completely before that, whose sums stay.
    """
    connection.execute(
        _ADD_ARCHIVED.format(arm=_COUNTED_ARM, values=_values(schema), source=sql.Identifier(rows)).as_bytes(None),
        prepare=False,
    )


def clear(connection: psycopg.Connection) -> None:
    """Delete the rows of the table, in the middle of a transaction."""
    connection.execute("truncate summary_changes")


def of_other_arm(schema: CustomerSchema) -> sql.Composed:
    """Return the query of the followed predictions of customers whose arm is not the one that follows from an ArmKey.

    Its columns are those of summary_changes that sums are made of. Each prediction is there with sign -1 and the old
    arm, and with sign 1 and the new one. Its parameters are those of the ArmKey, and `follower`.
    """
    averaged = (
        sql.SQL("p.{}::double precision as {}").format(sql.Identifier(each.column), averaged_value(each))
        for each in averages(schema)
    )
    return _OTHER_ARM.format(
        arm=arm_of_row("customer_summary"), values=sql.SQL(", ").join([customer_values(schema), *averaged])
    )


@cache
def _add(schema: CustomerSchema, *, sign: int, source: str, in_blocks: bool, as_counted: bool = False) -> bytes:
    return _ADD.format(
        sign=sql.Literal(sign),
        arm=_COUNTED_ARM if as_counted else arm_of_row("p"),
        values=_values(schema),
        source=_REPLACED if source == "replaced_predictions" else sql.Identifier(source),
        ranges=worker_positions.join_ranges(first_block=0 if in_blocks else None),
    ).as_bytes(None)


def customer_values(schema: CustomerSchema) -> sql.Composed:
    """Return the expressions for money at risk and segments of a row of churn_predictions, as p, with these names."""
    money = schema.money_at_risk
    amount = sql.SQL("null") if money is None else sql.Identifier("p", money.column)
    return sql.SQL("{}::double precision as money_at_risk, {} as segments").format(
        amount, segments_of_row(schema, table="p")
    )


@cache
def _values(schema: CustomerSchema) -> sql.Composed:
    """Return the expressions of a row, as p, that follow from the schema: money at risk, segments and averages."""
    averaged = (sql.SQL("p.{}::double precision").format(sql.Identifier(each.column)) for each in averages(schema))
    return sql.SQL(", ").join([customer_values(schema), *averaged])
