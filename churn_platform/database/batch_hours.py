"""The tables churn_batch_hours and dirty_hours: sums per batch and hour, and how often each hour has changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from churn_platform.database.averages import averages
from churn_platform.database.bulk import BinaryArray, array
from churn_platform.schema.customer_schema import CustomerSchema

_SUMS: Final[Mapping[str, LiteralString]] = {
    "total_predictions": "bigint",
    "churn_count": "bigint",
    "risk_sum": "double precision",
    "high_risk_count": "bigint",
}
"""Columns of churn_batch_hours that any data set has, and fields of HourSums, with their types."""
_ADD_SUMS: Final = sql.SQL("""
    insert into churn_batch_hours as h (batch, hour_timestamp, {sums})
    select %(batch)s, * from unnest(%(hours)s::timestamptz[], {arrays}) as u (hour_timestamp, {sums})
    order by hour_timestamp
    on conflict (hour_timestamp, batch) do update set {added}
""")
# In the order of the hours, so that a commit and a replay cannot deadlock.
_MARK_DIRTY: Final = """
    insert into dirty_hours as d (hour_timestamp, version)
    select hour, 1 from unnest(%(hours)s::timestamptz[]) as u (hour) order by hour
    on conflict (hour_timestamp) do update set version = d.version + 1
"""
# Batches from before a column was in the schema have no sum of it, and a null stays one.
_SUBTRACT: Final = sql.SQL("""
    with gone as (
        select batch, date_trunc('hour', event_timestamp, 'UTC') as hour_timestamp, count(*) as total_predictions,
            sum(prediction) as churn_count, sum(risk_score::double precision) as risk_sum,
            count(*) filter (where risk_score::double precision >= b.high_risk_threshold) as high_risk_count{sums}
        from {rows} p join stream_batches b using (batch) group by 1, 2
    ), changed as (
        update churn_batch_hours h set {subtracted} from gone g
        where h.batch = g.batch and h.hour_timestamp = g.hour_timestamp and h.total_predictions > g.total_predictions
    ), emptied as (
        delete from churn_batch_hours h using gone g
        where h.batch = g.batch and h.hour_timestamp = g.hour_timestamp and h.total_predictions <= g.total_predictions
    )
    select distinct hour_timestamp from gone
""")
_SUM_OF: Final = sql.SQL("""
    select date_trunc('hour', event_timestamp, 'UTC') as hour_timestamp, count(*) as total_predictions,
        sum(prediction) as churn_count, sum(risk_score::double precision) as risk_sum,
        count(*) filter (where risk_score::double precision >= {threshold}) as high_risk_count{sums}
    from {rows} p group by 1 order by 1
""")
_PREDICTIONS_BY_BATCH: Final = """
    select batch, total_predictions from churn_batch_hours
    where hour_timestamp = %s and total_predictions > 0 order by batch
"""
_BATCHES_OF_HOURS: Final = """
    select hour_timestamp, batch, total_predictions from churn_batch_hours
    where hour_timestamp >= %s and hour_timestamp < %s order by hour_timestamp, batch desc
"""
_PREDICTED_HOURS: Final = """
    select h.hour_timestamp, bool_or(b.archived is not null)
    from churn_batch_hours h left join stream_batches b using (batch)
    where h.hour_timestamp >= %s and h.hour_timestamp < %s and h.total_predictions > 0 group by 1
"""


@dataclass(frozen=True, kw_only=True)
class HourSums:
    """Sums over the predictions of one hour of the event.

    Attributes:
        averages: column of churn_predictions that the metrics average -> sum of its known values.
        known: column of these whose value may be missing -> number of its known values.
    """

    hour_timestamp: datetime
    total_predictions: int
    churn_count: int
    risk_sum: float
    high_risk_count: int
    averages: Mapping[str, float]
    known: Mapping[str, int]


def add_sums(connection: psycopg.Connection, schema: CustomerSchema, *, batch: str, hours: Sequence[HourSums]) -> None:
    """Add to a batch's sums per hour. An hour may occur several times."""
    if hours:
        with connection.cursor() as cursor:
            statement = _add_sums(schema).as_bytes(None)
            cursor.executemany(statement, [{"batch": batch, **arguments(schema, [sums])} for sums in hours])


@cache
def add_parts(schema: CustomerSchema) -> sql.Composed:
    """Return the parts of a commit's statement that add to the sums of its hours, and mark these hours as dirty."""
    return sql.SQL("hours as ({}), dirty as ({})").format(_add_sums(schema), sql.SQL(_MARK_DIRTY))


def arguments(schema: CustomerSchema, hours: Sequence[HourSums]) -> dict[str, BinaryArray]:
    """Return the arguments of `add_parts`. Each hour occurs once."""
    found = {"hours": array("timestamptz", [sums.hour_timestamp for sums in hours])}
    for name, kind in _SUMS.items():
        found[_argument(name)] = array(kind, [getattr(sums, name) for sums in hours])
    for each in averages(schema):
        if each.may_be_missing:
            found[_argument(each.count)] = array("bigint", [sums.known[each.column] for sums in hours])
        found[_argument(each.sum)] = array("double precision", [sums.averages[each.column] for sums in hours])
    return found


def delete_sums(connection: psycopg.Connection, batch: str) -> set[datetime]:
    """Delete a batch's sums; return their hours."""
    rows = connection.execute("delete from churn_batch_hours where batch = %s returning hour_timestamp", (batch,))
    return {hour for (hour,) in rows}


def subtract(connection: psycopg.Connection, schema: CustomerSchema, rows: str) -> set[datetime]:
    """Subtract predictions that are deleted from the sums of their batches; return their hours.

    Args:
        connection: in the transaction that deletes them.
        schema: of the customers.
        rows: temporary table with these predictions and the columns of churn_predictions.
    """
    subtracted = sql.SQL(", ").join(
        sql.SQL("{0} = h.{0} - g.{0}").format(sql.Identifier(name)) for name in {**_SUMS, **_customers_sums(schema)}
    )
    statement = _SUBTRACT.format(rows=sql.Identifier(rows), sums=_sums_of_customers(schema), subtracted=subtracted)
    return {hour for (hour,) in connection.execute(statement)}


def sum_of(schema: CustomerSchema, *, rows: str, threshold: str) -> sql.Composed:
    """Return the query that adds up predictions by hour; read_sums() reads its result.

    Args:
        schema: of the customers.
        rows: table or part of the statement that has these predictions, with the columns of churn_predictions.
        threshold: argument with the risk score from which a prediction is high risk.
    """
    return _SUM_OF.format(
        rows=sql.Identifier(rows), threshold=sql.Placeholder(threshold), sums=_sums_of_customers(schema)
    )


def read_sums(schema: CustomerSchema, rows: Iterable[Sequence[Any]]) -> list[HourSums]:
    """Return what the query of sum_of() has found."""
    found = []
    for hour, total, churn, risk, high_risk, *values in rows:
        averaged, known, remaining = {}, {}, iter(values)
        for each in averages(schema):
            averaged[each.column] = next(remaining)
            if each.may_be_missing:
                known[each.column] = next(remaining)
        found.append(
            HourSums(
                hour_timestamp=hour,
                total_predictions=total,
                churn_count=churn,
                risk_sum=risk,
                high_risk_count=high_risk,
                averages=averaged,
                known=known,
            )
        )
    return found


def mark_dirty(connection: psycopg.Connection, hours: Sequence[datetime]) -> None:
    """Count one more change to each of these hours."""
    if hours:
        connection.execute(_MARK_DIRTY, {"hours": array("timestamptz", sorted(set(hours)))})


def version_of_hour(connection: psycopg.Connection, hour: datetime) -> int:
    """Return how often the hour has changed; 0 for one that never had a prediction."""
    row = connection.execute("select version from dirty_hours where hour_timestamp = %s", (hour,)).fetchone()
    return 0 if row is None else int(row[0])


def predictions_by_batch(connection: psycopg.Connection, hour: datetime) -> dict[str, int]:
    """Return the number of predictions of each batch in the hour, in the order of the batches."""
    return dict(connection.execute(_PREDICTIONS_BY_BATCH, (hour,)).fetchall())


def batches_of_hours(connection: psycopg.Connection, start: datetime, end: datetime) -> dict[datetime, dict[str, int]]:
    """Return the predictions of each batch in each hour of [start, end): hour (UTC) -> batch -> count, newest first."""
    found: dict[datetime, dict[str, int]] = {}
    for hour, batch, predictions in connection.execute(_BATCHES_OF_HOURS, (start, end)):
        found.setdefault(hour.astimezone(UTC), {})[batch] = predictions
    return found


def predicted_hours(connection: psycopg.Connection, start: datetime, end: datetime) -> dict[datetime, bool]:
    """Return the hours (UTC) in [start, end) that have predictions, and whether any of these are archived."""
    found = connection.execute(_PREDICTED_HOURS, (start, end))
    return {hour.astimezone(UTC): archived for hour, archived in found}


def _sums_of_customers(schema: CustomerSchema) -> sql.Composed:
    """Return the sums and counts of the customers' columns of rows `p`, with a comma before each."""
    return sql.SQL("").join(
        sql.SQL(", coalesce(sum(p.{}::double precision), 0) as {}{}").format(
            sql.Identifier(each.column),
            sql.Identifier(each.sum),
            sql.SQL(", count(p.{}) as {}").format(sql.Identifier(each.column), sql.Identifier(each.count))
            if each.may_be_missing
            else sql.SQL(""),
        )
        for each in averages(schema)
    )


@cache
def _add_sums(schema: CustomerSchema) -> sql.Composed:
    """Return the statement that adds to the sums of hours; its arguments are those of `arguments`, and the batch."""
    columns = {**_SUMS, **_customers_sums(schema)}
    names, comma = [sql.Identifier(name) for name in columns], sql.SQL(", ")
    return _ADD_SUMS.format(
        sums=comma.join(names),
        arrays=comma.join(
            sql.SQL("{}::{}[]").format(sql.Placeholder(_argument(name)), sql.SQL(kind))
            for name, kind in columns.items()
        ),
        added=comma.join(sql.SQL("{0} = h.{0} + excluded.{0}").format(name) for name in names),
    )


def _customers_sums(schema: CustomerSchema) -> dict[str, LiteralString]:
    """Return the columns of the averages: name -> type."""
    found: dict[str, LiteralString] = {}
    for each in averages(schema):
        if each.may_be_missing:
            found[each.count] = "bigint"
        found[each.sum] = "double precision"
    return found


def _argument(column: str) -> str:
    return f"sum {column}"
