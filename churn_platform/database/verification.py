"""Queries of verification, across tables: all rows as columns of a few bytes, and sums compared with their parts.

Reads only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from churn_platform.database import stored_outcomes, summary_state
from churn_platform.database.averages import averages
from churn_platform.database.bulk import read_columns
from churn_platform.schema.customer_schema import CustomerSchema

Integers = NDArray[np.signedinteger[Any]]

# Sums of floating point numbers depend on their order in the last digits.
TOLERANCE: Final = 1e-6

_BATCHES: Final = """
    select batch, events, predictions, dead_letters, duplicates, erased, replays, archived is not null
    from stream_batches order by batch
"""
# Batches and partitions are numbered in the order in which they are listed, from 0.
_NUMBERED: Final = sql.SQL("""
    with batches as (
        select batch, (row_number() over (order by batch) - 1)::integer as number from stream_batches
    ), streams as (
        select topic_id, kafka_partition,
            (row_number() over (order by topic_id, kafka_partition) - 1)::integer as number
        from stream_positions
    )
""")
_RANGES: Final = _NUMBERED + sql.SQL("""
    select b.number, r.kafka_partition, coalesce(s.number, -1), r.start_offset, r.end_offset
    from stream_ranges r join batches b using (batch) left join streams s using (topic_id, kafka_partition)
    order by b.number, r.kafka_partition, r.start_offset
""")
_PREDICTIONS: Final = _NUMBERED + sql.SQL("""
    select p.event_id, coalesce(b.number, -1), p.kafka_partition, p.kafka_offset, p.risk_score
    from churn_predictions p left join batches b using (batch)
""")
_DEAD_LETTERS: Final = _NUMBERED + sql.SQL("""
    select coalesce(b.number, -1), d.kafka_partition, coalesce(s.number, -1), d.kafka_offset
    from dead_letter_events d left join batches b using (batch) left join streams s using (topic_id, kafka_partition)
""")

# The next four return a place, whether it is wrong, and whether it is out of date. Each side of a full join may lack a
# row; then its counts differ from those of the other side.
#
# A batch from before a column was in the schema has no sum of it, and null is never wrong. An average over several
# batches is that of the predictions of batches with a sum, whose number is its weight.
_BATCH_HOURS: Final = sql.SQL("""
    with recount as (
        select batch, date_trunc('hour', event_timestamp, 'UTC') as hour_timestamp, count(*) as total_predictions,
            sum(prediction)::bigint as churn_count, sum(risk_score::double precision) as risk_sum,
            {sums}
            count(*) filter (where risk_score::double precision >= high_risk_threshold) as high_risk_count
        from churn_predictions left join stream_batches using (batch) group by 1, 2
    ), kept as (
        select h.* from churn_batch_hours h left join stream_batches b using (batch) where b.archived is null
    )
    select format('batch %%s, hour %%s', batch, hour_timestamp at time zone 'UTC'),
        (r.total_predictions, r.churn_count, r.high_risk_count)
            is distinct from (k.total_predictions, k.churn_count, k.high_risk_count)
        or abs(r.risk_sum - k.risk_sum) > %(tolerance)s * (1 + abs(r.risk_sum))
        {compared},
        false
    from recount r full join kept k using (batch, hour_timestamp)
""")
# Wrong: current, but not the sum of its batches; newer than every change; or of an hour that never changed.
_HOURS: Final = sql.SQL("""
    with sums as (
        select hour_timestamp, sum(total_predictions) as total_predictions, sum(churn_count) as churn_count,
            {sums}
            sum(high_risk_count) as high_risk_count, sum(risk_sum) as risk_sum
        from churn_batch_hours group by 1
    )
    select format('hour %%s', hour_timestamp at time zone 'UTC'),
        d.version is null or m.version > d.version or (m.version = d.version and (
            (m.total_predictions, m.churn_count, m.high_risk_count) is distinct from (
                coalesce(s.total_predictions, 0), coalesce(s.churn_count, 0), coalesce(s.high_risk_count, 0)
            )
            or abs(m.churn_rate * m.total_predictions - 100 * s.churn_count) > %(tolerance)s * (1 + s.churn_count)
            or abs(m.avg_risk_score * m.total_predictions - s.risk_sum) > %(tolerance)s * (1 + abs(s.risk_sum))
            {compared}
        )),
        m.version is null or m.version < d.version
    from dirty_hours d full join churn_metrics_hourly m using (hour_timestamp) full join sums s using (hour_timestamp)
""")
_DAYS: Final = sql.SQL("""
    with hours as (
        select (hour_timestamp at time zone 'UTC')::date as date, sum(version) as version,
            sum(total_predictions) as total_predictions, sum(churn_count) as churn_count,
            {sums}
            sum(high_risk_count) as high_risk_count,
            coalesce(sum(avg_risk_score * total_predictions), 0) as risk_sum
        from churn_metrics_hourly group by 1
    )
    select format('day %%s', date),
        h.version is null or d.version > h.version or (d.version = h.version and (
            (d.total_predictions, d.churn_count, d.high_risk_count)
                is distinct from (h.total_predictions, h.churn_count, h.high_risk_count)
            or abs(d.churn_rate * d.total_predictions - 100 * h.churn_count) > %(tolerance)s * (1 + h.churn_count)
            or abs(d.avg_risk_score * d.total_predictions - h.risk_sum) > %(tolerance)s * (1 + abs(h.risk_sum))
            {compared}
        )),
        d.version is null or d.version < h.version
    from hours h full join churn_metrics_daily d using (date)
""")
# What these three add up for an averaged column, and how a result is compared with it. A value that may be missing has
# a count of known values, which is the weight of the average.
_RECOUNTED: Final = sql.SQL("sum({column}::double precision) as {sum}, ")
_RECOUNTED_KNOWN: Final = sql.SQL("""
    coalesce(sum({column}::double precision), 0) as {sum}, count({column}) as {count},
""")
_SUMMED: Final = sql.SQL("""
    sum({sum}) as {sum}, sum(total_predictions) filter (where {sum} is not null) as {weight},
""")
_SUMMED_KNOWN: Final = sql.SQL("sum({sum}) as {sum}, coalesce(sum({count}), 0) as {count}, ")
_WEIGHTED: Final = sql.SQL("""
    coalesce(sum({average} * total_predictions), 0) as {sum},
    sum(total_predictions) filter (where {average} is not null) as {weight},
""")
_WEIGHTED_KNOWN: Final = sql.SQL("""
    coalesce(sum({average} * {count}), 0) as {sum}, sum({count}) as {count},
""")
_SUM_DIFFERS: Final = sql.SQL("or abs({of}.{sum} - {found}.{sum}) > %(tolerance)s * (1 + abs({of}.{sum}))")
_AVERAGE_DIFFERS: Final = sql.SQL(
    "or abs({found}.{average} * {of}.{weight} - {of}.{sum}) > %(tolerance)s * (1 + abs({of}.{sum}))"
)
_COUNT_DIFFERS: Final = sql.SQL("or {found}.{count} <> coalesce({of}.{count}, 0) ")
# A row whose alert was sent stays as it is, whatever a replay made of its prediction.
_HIGH_RISK: Final = """
    select format('event %%s', event_id),
        case when p.event_id is null then not h.alert_sent and b.archived is null
            when h.event_id is null then true
            when p.risk_score::double precision < b.high_risk_threshold then not h.alert_sent
            else h.risk_score <> p.risk_score end,
        false
    from (
        select event_id from churn_predictions join stream_batches using (batch)
        where risk_score::double precision >= high_risk_threshold
    ) as r
    full join high_risk_customers h using (event_id)
    left join churn_predictions p using (event_id)
    left join stream_batches b on b.batch = h.batch
"""
# The summaries are compared if they have all commits and replays. Of an event whose batch is archived there is no row.
_CUSTOMER_SUMMARY: Final = """
    with r as (
        select distinct on (customer_id) customer_id, event_id, event_timestamp, kafka_offset, model_version,
            risk_score, prediction, count(*) over (partition by customer_id) as predictions
        from churn_predictions
        order by customer_id, event_timestamp desc, kafka_offset desc, event_id desc
    )
    select format('customer %%s', customer_id),
        %(current)s and coalesce(
            s.predictions < r.predictions
            or (s.event_timestamp, s.kafka_offset, s.event_id) < (r.event_timestamp, r.kafka_offset, r.event_id)
            or (s.predictions > r.predictions
                and not exists (select from stream_batches where archived is not null))
            or (b.archived is null and (s.event_id, s.model_version, s.risk_score, s.prediction, s.high_risk)
                is distinct from (
                    r.event_id, r.model_version, r.risk_score, r.prediction,
                    coalesce(r.risk_score::double precision >= b.high_risk_threshold, false)
                )),
            s.customer_id is null or b.archived is null
        ),
        not %(current)s
    from r full join customer_summary s using (customer_id) left join stream_batches b on b.batch = s.batch
"""
_SEGMENT_SUMMARY: Final = """
    with r as (
        select segments, arm, count(*) as customers, count(left_at) as left_customers,
            count(*) filter (where high_risk and left_at is null) as high_risk_customers,
            sum(risk_score::double precision::numeric) as risk_sum,
            coalesce(sum(money_at_risk::numeric) filter (where high_risk and left_at is null), 0) as money_at_risk
        from customer_summary group by 1, 2
    )
    select format('segments %%s of the arm %%s', segments, arm), s is distinct from r, false
    from (
        select segments, arm, customers, left_customers, high_risk_customers, risk_sum, money_at_risk
        from customer_segment_summary
    ) as s
    full join r using (segments, arm)
"""
# The sums of a day that has archived predictions may lack some of them, if the summaries were computed after that.
_DAY_SUMMARY: Final = """
    with r as (
        select (hour_timestamp at time zone 'UTC')::date as date, sum(total_predictions) as total_predictions,
            sum(churn_count) as churn_count, sum(high_risk_count) as high_risk_count, sum(risk_sum) as risk_sum,
            bool_or(b.archived is not null) as archived
        from churn_batch_hours h left join stream_batches b using (batch) group by 1
    ), s as (
        select date, sum(total_predictions) as total_predictions, sum(churn_count) as churn_count,
            sum(high_risk_count) as high_risk_count, sum(risk_sum)::double precision as risk_sum
        from prediction_summary group by 1
    )
    select format('day %%s', date),
        %(current)s and case when r.archived then
            coalesce(s.total_predictions > r.total_predictions or s.churn_count > r.churn_count
                or s.high_risk_count > r.high_risk_count, false)
        else
            (coalesce(s.total_predictions, 0), coalesce(s.churn_count, 0), coalesce(s.high_risk_count, 0))
                is distinct from (r.total_predictions, r.churn_count, r.high_risk_count)
            or abs(coalesce(s.risk_sum, 0) - r.risk_sum) > %(tolerance)s * (1 + abs(r.risk_sum))
        end,
        not %(current)s
    from r full join s using (date)
"""
# Rows from before a truncation cannot be compared with a log that has grown again: the comparison starts after them.
_READ_OUTCOMES: Final = """
    select p.kafka_partition, p.next_offset, greatest(
        (
            select min(r.start_offset) from outcome_reads r
            where r.topic_id = p.topic_id and r.kafka_partition = p.kafka_partition and r.opened >= %(since)s
        ),
        (
            select max(t.next_offset) from log_truncations t
            where t.topic_id = p.topic_id and t.kafka_partition = p.kafka_partition
        )
    ) as start_offset
    from outcome_positions p
    where p.topic_id = %(topic_id)s and exists (
        select from outcome_reads r
        where r.topic_id = p.topic_id and r.kafka_partition = p.kafka_partition and r.opened >= %(since)s
    )
"""
_STORED_OUTCOMES: Final = sql.SQL("select kafka_partition, kafka_offset from customer_outcomes where topic_id = {}")
_REFUSED_OUTCOMES: Final = sql.SQL("select kafka_partition, kafka_offset from refused_outcomes where topic_id = {}")
_COUNT: Final = """
    select count(*), count(*) filter (where wrong), count(*) filter (where outdated and wrong is not true),
        (array_agg(place) filter (where wrong))[1:%(examples)s::integer]
    from ({}) as each (place, wrong, outdated)
"""
# A replay scores again and publishes nothing, so a replayed event was published at some time after its batch was
# opened.
_UNPUBLISHED: Final = """
    select p.event_id::text, p.customer_id::text,
        floor(extract(epoch from case when b.replays > 0 then b.opened else p.predicted_at end) * 1000)::bigint
    from churn_predictions p left join stream_batches b using (batch)
    where p.event_id = any(%s)
"""


@dataclass(frozen=True)
class Comparison:
    """Rows that were compared with their parts: how many, how many are wrong (with examples) and out of date."""

    count: int
    wrong: int
    outdated: int
    examples: list[str]


@dataclass(frozen=True)
class ReadOutcomes:
    """The results of reading the offsets [start, position) of a partition of the outcomes topic.

    Attributes:
        start: start of the first reading without rows that were deleted because of their age.
        position: next offset to read.
        stored: offsets in customer_outcomes, from `start` on.
        refused: offsets in refused_outcomes, from `start` on.
        skips: offsets that are never read.
    """

    start: int
    position: int
    stored: NDArray[np.int64]
    refused: NDArray[np.int64]
    skips: list[range]


def batch_counts(connection: psycopg.Connection) -> list[tuple[str, int, int, int, int, int, int, bool]]:
    """Return key, events, predictions, dead letters, duplicates, erased, replays and "is archived" of each batch."""
    return connection.execute(_BATCHES).fetchall()


def range_columns(connection: psycopg.Connection) -> Mapping[str, Integers]:
    """Return the offset ranges as columns, by number of the batch, Kafka partition and start."""
    types = {
        "batch": "integer",
        "kafka_partition": "integer",
        "partition": "integer",
        "start": "bigint",
        "end": "bigint",
    }
    with connection.cursor() as cursor:
        return _integers(read_columns(cursor, _RANGES, types))


def prediction_columns(
    connection: psycopg.Connection, on_rows: Callable[[int], None]
) -> tuple[NDArray[np.generic], NDArray[np.float32], Mapping[str, Integers]]:
    """Return event ids (16 bytes each), risk scores, and the other columns of churn_predictions, in any order.

    Args:
        connection: to the platform's database.
        on_rows: called with the number of rows read so far.
    """
    types = {
        "event_id": "uuid",
        "batch": "integer",
        "kafka_partition": "integer",
        "offset": "bigint",
        "risk_score": "real",
    }
    with connection.cursor() as cursor:
        columns = read_columns(cursor, _PREDICTIONS, types, on_rows=on_rows)
    event_ids, scores = columns.pop("event_id"), columns.pop("risk_score")
    return event_ids, scores.astype(np.float32, copy=False), _integers(columns)


def dead_letter_columns(connection: psycopg.Connection, on_rows: Callable[[int], None]) -> Mapping[str, Integers]:
    """Return columns of dead_letter_events, in any order."""
    types = {"batch": "integer", "kafka_partition": "integer", "partition": "integer", "offset": "bigint"}
    with connection.cursor() as cursor:
        return _integers(read_columns(cursor, _DEAD_LETTERS, types, on_rows=on_rows))


def compare_batch_hours(connection: psycopg.Connection, schema: CustomerSchema, *, examples: int) -> Comparison:
    """Compare the sums per batch and hour with the predictions."""
    return _compare(
        connection,
        _query(_BATCH_HOURS, schema, sums=(_RECOUNTED, _RECOUNTED_KNOWN), differs=_SUM_DIFFERS, found="k", of="r"),
        examples,
    )


def compare_hours(connection: psycopg.Connection, schema: CustomerSchema, *, examples: int) -> Comparison:
    """Compare the hourly metrics with the sums of their batches."""
    query = _query(_HOURS, schema, sums=(_SUMMED, _SUMMED_KNOWN), differs=_AVERAGE_DIFFERS, found="m", of="s")
    return _compare(connection, query, examples)


def compare_days(connection: psycopg.Connection, schema: CustomerSchema, *, examples: int) -> Comparison:
    """Compare the daily metrics with those of their hours."""
    query = _query(_DAYS, schema, sums=(_WEIGHTED, _WEIGHTED_KNOWN), differs=_AVERAGE_DIFFERS, found="d", of="h")
    return _compare(connection, query, examples)


def compare_high_risk(connection: psycopg.Connection, *, examples: int) -> Comparison:
    """Compare high_risk_customers with the predictions at or above the thresholds of their batches."""
    return _compare(connection, sql.SQL(_HIGH_RISK), examples)


def compare_customer_summary(connection: psycopg.Connection, *, examples: int) -> Comparison:
    """Compare customer_summary with the latest prediction of each customer; all are out of date until it has all."""
    return _compare(connection, sql.SQL(_CUSTOMER_SUMMARY), examples, current=summary_state.is_current(connection))


def compare_segment_summary(connection: psycopg.Connection, *, examples: int) -> Comparison:
    """Compare customer_segment_summary with the sums of customer_summary, which are those of the same commits."""
    return _compare(connection, sql.SQL(_SEGMENT_SUMMARY), examples)


def compare_day_summary(connection: psycopg.Connection, *, examples: int) -> Comparison:
    """Compare the days of prediction_summary with the sums of batches; all are out of date until it has all commits."""
    return _compare(connection, sql.SQL(_DAY_SUMMARY), examples, current=summary_state.is_current(connection))


def champions(connection: psycopg.Connection) -> list[int]:
    """Return all model versions that are champion. There must be at most one."""
    rows = connection.execute("select version from model_versions where promoted_at is not null and retired_at is null")
    return [version for (version,) in rows]


def stored_events(connection: psycopg.Connection, event_ids: Sequence[str]) -> Iterable[bytes]:
    """Return which of these events have a prediction, 16 bytes each."""
    rows = connection.execute("select event_id from churn_predictions where event_id = any(%s)", (list(event_ids),))
    return (event_id.bytes for (event_id,) in rows)


def unpublished(connection: psycopg.Connection, event_ids: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return the event id, the customer's id and the time of these predictions.

    The time is the earliest at which it can have been published, in milliseconds since 1970.
    """
    return connection.execute(_UNPUBLISHED, (list(event_ids),)).fetchall()


def read_outcomes(connection: psycopg.Connection, topic_id: str, *, since: datetime) -> dict[int, ReadOutcomes]:
    """Return what was read in readings opened since this time, by Kafka partition, of partitions that have one.

    Args:
        connection: in a repeatable read transaction, so that rows and positions agree.
        topic_id: Kafka's id of the outcomes topic.
        since: the earliest reading that counts.
    """
    found = connection.execute(_READ_OUTCOMES, {"topic_id": topic_id, "since": since}).fetchall()
    types = {"kafka_partition": "integer", "kafka_offset": "bigint"}
    with connection.cursor() as cursor:
        stored = _integers(read_columns(cursor, _STORED_OUTCOMES.format(sql.Literal(topic_id)), types))
        refused = _integers(read_columns(cursor, _REFUSED_OUTCOMES.format(sql.Literal(topic_id)), types))
    skips = stored_outcomes.skips(connection, topic_id, [])
    return {
        partition: ReadOutcomes(
            start=start,
            position=position,
            stored=_offsets_from(start, stored, partition),
            refused=_offsets_from(start, refused, partition),
            skips=skips.get(partition, []),
        )
        for partition, position, start in found
    }


def _offsets_from(start: int, columns: Mapping[str, Integers], partition: int) -> NDArray[np.int64]:
    offsets = columns["kafka_offset"]
    wanted: NDArray[np.int64] = offsets[(columns["kafka_partition"] == partition) & (offsets >= start)].astype(np.int64)
    return wanted


def _compare(
    connection: psycopg.Connection, query: sql.Composable, examples: int, *, current: bool = True
) -> Comparison:
    row = connection.execute(
        sql.SQL(_COUNT).format(query),
        {"tolerance": TOLERANCE, "examples": examples, "current": current},
    ).fetchone()
    if row is None:
        raise RuntimeError("A select of counts returned no row; PostgreSQL always returns one.")
    count, wrong, outdated, places = row
    return Comparison(count, wrong, outdated, places or [])


def _query(
    template: sql.SQL,
    schema: CustomerSchema,
    *,
    sums: tuple[sql.SQL, sql.SQL],
    differs: sql.SQL,
    found: str,
    of: str,
) -> sql.Composed:
    """Return the comparison with the columns that the schema averages.

    Args:
        template: the comparison.
        schema: of the customers.
        sums: what is added up for a column: where its value is always known, and where it may be missing.
        differs: when a result differs from it.
        found: alias of the results.
        of: alias of what is added up.
    """
    added, compared = [], []
    for each in averages(schema):
        names = {
            "column": sql.Identifier(each.column),
            "sum": sql.Identifier(each.sum),
            "count": sql.Identifier(each.count),
            "average": sql.Identifier(each.average),
            "weight": sql.Identifier(each.count if each.may_be_missing else f"weight of {each.column}"),
            "found": sql.Identifier(found),
            "of": sql.Identifier(of),
        }
        added.append(sums[each.may_be_missing].format(**names))
        if each.may_be_missing:
            compared.append(_COUNT_DIFFERS.format(**names))
        compared.append(differs.format(**names))
    return template.format(sums=sql.Composed(added), compared=sql.Composed(compared))


def _integers(columns: Mapping[str, NDArray[np.generic]]) -> dict[str, Integers]:
    return {name: values.astype(f"i{values.dtype.itemsize}", copy=False) for name, values in columns.items()}
