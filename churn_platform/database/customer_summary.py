"""The tables customer_summary and customer_segment_summary: each customer's latest event, and sums by segments.

The order in which events are read does not matter: of a customer's events, the greatest by event_timestamp, then
kafka_offset, then event_id is the latest one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.database.arms import ArmKey, arm_of_row
from churn_platform.database.summary_changes import customer_values
from churn_platform.schema.customer_schema import CustomerSchema

# Columns of the latest event, which change together.
_LATEST: Final = (
    "event_id",
    "event_timestamp",
    "batch",
    "kafka_partition",
    "kafka_offset",
    "model_version",
    "risk_score",
    "prediction",
    "high_risk",
    "money_at_risk",
    "segments",
)
_PREVIOUS: Final = ("event_id", "event_timestamp", "kafka_offset", "batch", "risk_score")
"""Columns of the latest event but one, which have the prefix previous_."""

# The two latest rows of each customer in summary_changes, merged with the two that are stored.
_NEW: Final = sql.SQL("""
    ranked as (
        select *, {ranks}, count(*) over of_customer as added, min(event_timestamp) over of_customer as first
        from summary_changes
        window of_customer as (partition by customer_id), latest_first as (
            partition by customer_id order by event_timestamp desc, kafka_offset desc, event_id desc
        )
    ), compared as (
        select g.*, {stored}, s.predictions as stored_predictions,
            s.first_event_timestamp as stored_first, s.arm as stored_arm, s.left_at as stored_left_at,
            s.ctid as stored_place,
            s.customer_id is null or (g.event_timestamp, g.kafka_offset, g.event_id)
                > (s.event_timestamp, s.kafka_offset, s.event_id) as is_latest
        from ranked g left join customer_summary s using (customer_id)
        where g.place = 1
    ), placed as (
        select *,
            case
                when not is_latest then case
                    when stored_previous_event_id is null or (event_timestamp, kafka_offset, event_id)
                        > (stored_previous_event_timestamp, stored_previous_kafka_offset, stored_previous_event_id)
                    then 'given' else 'stored previous' end
                when stored_event_id is null then 'second'
                when second_event_id is null or (stored_event_timestamp, stored_kafka_offset, stored_event_id)
                    > (second_event_timestamp, second_kafka_offset, second_event_id)
                then 'stored' else 'second'
            end as previous
        from compared
    ), merged as (
        select customer_id, {latest}, {previous},
            least(first, stored_first) as first_event_timestamp,
            coalesce(stored_predictions, 0) + added as predictions,
            coalesce(stored_arm, arm) as arm, stored_left_at as old_left_at, stored_place as old_place,
            stored_segments as old_segments, stored_high_risk as old_high_risk, stored_risk_score as old_risk_score,
            stored_money_at_risk as old_money_at_risk
        from placed
    )
""")
# The customers of summary_changes from all of their rows that the worker has followed. Of a stored event whose batch is
# archived there is no row, so what is stored of it counts. If a replay refuses the latest event and the one before is
# archived, that one becomes the latest, and the customer's columns, which are not stored of it, stay as they were.
_AGAIN: Final = sql.SQL("""
    affected as (
        select customer_id, sum(sign) as added, min(arm) as arm from summary_changes group by 1
    ), known as (
        select p.customer_id, p.event_id, p.event_timestamp, p.batch, p.kafka_partition, p.kafka_offset,
            p.model_version, p.risk_score, p.prediction,
            coalesce(p.risk_score::double precision >= b.high_risk_threshold, false) as high_risk, {customer},
            true as is_row
        from affected a
        join churn_predictions p using (customer_id)
        join stream_batches b on b.batch = p.batch
        where exists (
            select from stream_ranges r join worker_positions w using (topic_id, kafka_partition)
            where w.follower = %(follower)s and r.batch = p.batch and r.kafka_partition = p.kafka_partition
              and p.kafka_offset >= r.start_offset and p.kafka_offset < least(r.end_offset, w.next_offset)
        )
        union all
        select s.customer_id, s.event_id, s.event_timestamp, s.batch, s.kafka_partition, s.kafka_offset,
            s.model_version, s.risk_score, s.prediction, s.high_risk, s.money_at_risk, s.segments, false
        from affected a join customer_summary s using (customer_id) join stream_batches b on b.batch = s.batch
        where b.archived is not null
        union all
        select s.customer_id, s.previous_event_id, s.previous_event_timestamp, s.previous_batch, s.kafka_partition,
            s.previous_kafka_offset, s.model_version, s.previous_risk_score, s.prediction, s.high_risk,
            s.money_at_risk, s.segments, false
        from affected a join customer_summary s using (customer_id) join stream_batches b on b.batch = s.previous_batch
        where b.archived is not null
    ), ranked as (
        select *, {ranks}, count(*) filter (where is_row) over of_customer as row_count,
            min(event_timestamp) over of_customer as first
        from known
        window of_customer as (partition by customer_id), latest_first as (
            partition by customer_id order by event_timestamp desc, kafka_offset desc, event_id desc
        )
    ), merged as (
        select customer_id, {latest}, {previous},
            case when k.row_count = coalesce(s.predictions, 0) + a.added then k.first
                else least(k.first, s.first_event_timestamp) end as first_event_timestamp,
            coalesce(s.predictions, 0) + a.added as predictions,
            coalesce(s.arm, a.arm) as arm, s.left_at as old_left_at, s.ctid as old_place,
            s.segments as old_segments, s.high_risk as old_high_risk, s.risk_score as old_risk_score,
            s.money_at_risk as old_money_at_risk
        from affected a left join customer_summary s using (customer_id)
        left join (select * from ranked where place = 1) as k using (customer_id)
    )
""")
# The customers with new outcomes, otherwise unchanged.
_TOLD: Final = sql.SQL("""
    merged as (
        select s.*, s.segments as old_segments, s.high_risk as old_high_risk, s.risk_score as old_risk_score,
            s.money_at_risk as old_money_at_risk
        from (
            select customer_id, arm, {columns}, left_at as old_left_at, ctid as old_place from customer_summary
        ) as s
        where s.event_id in (select event_id from changed_outcomes where event_id is not null)
           or s.customer_id in (select customer_id from changed_outcomes where event_id is null)
    )
""")
# Stores what `merged` has, and adds the differences to the sums by segments. All parts see the rows from before. Only
# this duty writes to the table, so the physical place of a row is a way to find it that costs no search.
_STORE: Final = sql.SQL("""
    with {merged}, outcomes as (
        select m.customer_id, o.outcome_timestamp
        from merged m join customer_outcomes o on o.event_id = m.event_id
        where o.churned = 1 and o.outcome_timestamp >= m.event_timestamp
        union all
        select m.customer_id, o.outcome_timestamp
        from merged m join customer_outcomes o on o.event_id is null and o.customer_id = m.customer_id
        where o.churned = 1 and o.outcome_timestamp >= m.event_timestamp
    ), changed as (
        select * from merged
        left join (select customer_id, max(outcome_timestamp) as left_at from outcomes group by 1) as o
            using (customer_id)
    ), added as (
        insert into customer_summary (customer_id, arm, {columns})
        select customer_id, arm, {columns} from changed where old_place is null and predictions > 0
    ), updated as (
        update customer_summary s set {updated} from changed m where s.ctid = m.old_place and m.predictions > 0
    ), gone as (
        delete from customer_summary s using changed m where s.ctid = m.old_place and m.predictions <= 0
    ), moved as (
        select segments, arm, 1 as sign, left_at is not null as has_left, high_risk,
            risk_score::double precision::numeric as risk, money_at_risk::numeric as money
        from changed where predictions > 0
        union all
        select old_segments, arm, -1, old_left_at is not null, old_high_risk,
            -old_risk_score::double precision::numeric, -old_money_at_risk::numeric
        from changed where old_segments is not null
    )
    insert into customer_segment_summary as s (
        segments, arm, customers, left_customers, high_risk_customers, risk_sum, money_at_risk
    )
    select segments, arm, sum(sign), coalesce(sum(sign) filter (where has_left), 0),
        coalesce(sum(sign) filter (where high_risk and not has_left), 0), sum(risk),
        coalesce(sum(money) filter (where high_risk and not has_left), 0)
    from moved group by segments, arm
    on conflict (segments, arm) do update set
        customers = s.customers + excluded.customers,
        left_customers = s.left_customers + excluded.left_customers,
        high_risk_customers = s.high_risk_customers + excluded.high_risk_customers,
        risk_sum = s.risk_sum + excluded.risk_sum,
        money_at_risk = s.money_at_risk + excluded.money_at_risk
""")
_SUBTRACT: Final = """
    update customer_segment_summary s set
        customers = s.customers - 1,
        left_customers = s.left_customers - (c.left_at is not null)::integer,
        high_risk_customers = s.high_risk_customers - (c.high_risk and c.left_at is null)::integer,
        risk_sum = s.risk_sum - c.risk_score::double precision::numeric,
        money_at_risk = s.money_at_risk
            - case when c.high_risk and c.left_at is null then coalesce(c.money_at_risk::numeric, 0) else 0 end
    from customer_summary c where c.customer_id = %s and (s.segments, s.arm) = (c.segments, c.arm)
"""
_DELETE_EMPTY: Final = "delete from customer_segment_summary where customers = 0"
_ASSIGN_ARMS: Final = sql.SQL("update customer_summary set arm = {arm} where arm <> {arm}").format(
    arm=arm_of_row("customer_summary")
)
_DELETE_SUMS: Final = "delete from customer_segment_summary"
_SUM_AGAIN: Final = """
    insert into customer_segment_summary (
        segments, arm, customers, left_customers, high_risk_customers, risk_sum, money_at_risk
    )
    select segments, arm, count(*), count(left_at), count(*) filter (where high_risk and left_at is null),
        sum(risk_score::double precision::numeric),
        coalesce(sum(money_at_risk::numeric) filter (where high_risk and left_at is null), 0)
    from customer_summary group by segments, arm
"""
# Only the reasons of the latest event explain the latest score. It has none below the high-risk threshold.
_LATEST_SCORE: Final = """
    select s.customer_id, s.event_timestamp, s.risk_score::double precision as risk_score, s.prediction, s.high_risk,
        s.model_version, s.predictions, h.reasons
    from customer_summary s left join high_risk_customers h using (event_id)
    where s.customer_id = %s
"""


@dataclass(frozen=True)
class LatestScore:
    """The score of a customer's latest event.

    Attributes:
        customer_id: the customer.
        event_timestamp: time of the event.
        risk_score: P(churn), 0 to 1.
        prediction: 1 for churn, else 0.
        high_risk: whether the score reached the high-risk threshold of its batch.
        model_version: of the model that scored the event.
        predictions: how many events of the customer were scored.
        reasons: what the score is made of, as high_risk_customers has it; None if the customer is not at high risk, or
            if the reasons are not there yet.
    """

    customer_id: int | str
    event_timestamp: datetime
    risk_score: float
    prediction: int
    high_risk: bool
    model_version: int
    predictions: int
    reasons: Sequence[Mapping[str, Any]] | None


def latest_score(connection: psycopg.Connection, customer_id: int | str) -> LatestScore | None:
    """Return the score of a customer's latest event; None if no event of the customer was scored.

    Args:
        connection: to the platform's database.
        customer_id: of the type that the customer schema says.
    """
    with connection.cursor(row_factory=class_row(LatestScore)) as cursor:
        return cursor.execute(_LATEST_SCORE, (customer_id,)).fetchone()


def apply_new(connection: psycopg.Connection) -> None:
    """Add the rows of summary_changes to the customers and to the sums by segments."""
    connection.execute(_apply_new(), prepare=False)
    connection.execute(_DELETE_EMPTY)


def apply_replaced(connection: psycopg.Connection, schema: CustomerSchema, *, follower: str) -> None:
    """Compute the customers of summary_changes again, and correct the sums by segments.

    Args:
        connection: in a transaction with one snapshot for all statements.
        schema: of the customers.
        follower: duty whose positions end what was followed.
    """
    connection.execute(_apply_replaced(schema), {"follower": follower}, prepare=False)
    connection.execute(_DELETE_EMPTY)


def subtract(connection: psycopg.Connection, customer_id: int | str) -> None:
    """Subtract a customer, whose row is deleted, from the sums by segments."""
    connection.execute(_SUBTRACT, (customer_id,))
    connection.execute(_DELETE_EMPTY)


def apply_outcomes(connection: psycopg.Connection) -> None:
    """Find out again which customers left, of those with an outcome in changed_outcomes, and correct the sums.

    Args:
        connection: in a transaction with one snapshot for all statements.
    """
    connection.execute(_apply_told(), prepare=False)


def assign_arms(connection: psycopg.Connection, key: ArmKey) -> int:
    """Give every customer the arm that follows from this key, and compute the sums by segments again.

    Args:
        connection: in a transaction.
        key: decides the arms.

    Returns:
        How many customers had the other arm.
    """
    changed = connection.execute(_ASSIGN_ARMS, vars(key)).rowcount
    connection.execute(_DELETE_SUMS)
    connection.execute(_SUM_AGAIN)
    return changed


def clear(connection: psycopg.Connection) -> None:
    """Delete all customers and sums."""
    connection.execute("delete from customer_summary")
    connection.execute(_DELETE_SUMS)


def _ranks() -> sql.Composed:
    return _list(
        sql.SQL("row_number() over latest_first as place"),
        *(
            sql.SQL("lead({}) over latest_first as {}").format(sql.Identifier(name), sql.Identifier(f"second_{name}"))
            for name in _PREVIOUS
        ),
    )


@cache
def _apply_new() -> bytes:
    stored = [(name, f"stored_{name}") for name in _LATEST]
    stored += [(f"previous_{name}", f"stored_previous_{name}") for name in _PREVIOUS]
    return _store(
        _NEW.format(
            ranks=_ranks(),
            stored=_list(
                *(
                    sql.SQL("{} as {}").format(sql.Identifier("s", name), sql.Identifier(alias))
                    for name, alias in stored
                )
            ),
            latest=_list(
                *(
                    sql.SQL("case when is_latest then {0} else {1} end as {0}").format(
                        sql.Identifier(name), sql.Identifier(f"stored_{name}")
                    )
                    for name in _LATEST
                )
            ),
            previous=_list(
                *(
                    sql.SQL(
                        "case previous when 'given' then {} when 'stored' then {} when 'second' then {} else {} end "
                        "as {}"
                    ).format(
                        sql.Identifier(name),
                        sql.Identifier(f"stored_{name}"),
                        sql.Identifier(f"second_{name}"),
                        sql.Identifier(f"stored_previous_{name}"),
                        sql.Identifier(f"previous_{name}"),
                    )
                    for name in _PREVIOUS
                )
            ),
        )
    )


@cache
def _apply_replaced(schema: CustomerSchema) -> bytes:
    return _store(
        _AGAIN.format(
            customer=customer_values(schema),
            ranks=_ranks(),
            latest=_list(
                *(
                    sql.SQL("case when k.place is null then s.{0} else k.{0} end as {0}").format(sql.Identifier(name))
                    for name in _LATEST
                )
            ),
            previous=_list(
                *(
                    sql.SQL("case when k.place is null then s.{0} else k.{1} end as {0}").format(
                        sql.Identifier(f"previous_{name}"), sql.Identifier(f"second_{name}")
                    )
                    for name in _PREVIOUS
                )
            ),
        )
    )


@cache
def _apply_told() -> bytes:
    return _store(_TOLD.format(columns=_list(*_stored_columns())))


def _store(merged: sql.Composed) -> bytes:
    columns = [*_stored_columns(), sql.Identifier("left_at")]
    return _STORE.format(
        merged=merged,
        columns=_list(*columns),
        updated=_list(*(sql.SQL("{0} = m.{0}").format(name) for name in columns)),
    ).as_bytes(None)


def _stored_columns() -> list[sql.Identifier]:
    """Return the columns that follow from a customer's predictions."""
    names = [*_LATEST, *(f"previous_{name}" for name in _PREVIOUS), "first_event_timestamp", "predictions"]
    return [sql.Identifier(name) for name in names]


def _list(*parts: sql.Composable) -> sql.Composed:
    return sql.SQL(", ").join(parts)
