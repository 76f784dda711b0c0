"""The tables shadow_predictions and shadow_comparisons: what a shadow would have predicted, and how it compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from churn_platform.database import worker_positions
from churn_platform.database.prediction_columns import PredictionColumn
from churn_platform.database.worker_positions import RowRange

FOLLOWER: Final = "shadow"

# The first eight bytes of HMAC-SHA256 of the id, compared as a whole number: see keyed_shares.py.
_ROWS: Final = sql.SQL("""
    select p.event_id, p.event_timestamp, p.customer_id, p.model_version, p.risk_score, p.true_churn_label, {columns}
    from churn_predictions p {join}
    where '\\x00'::bytea || substring(
            sha256(%(outer)s::bytea || sha256(%(inner)s::bytea || convert_to(p.customer_id::text, 'UTF8')))
            from 1 for 8
        ) < %(below)s::bytea
""")
_ADD: Final = """
    insert into shadow_predictions (
        event_id, event_timestamp, customer_id, model_version, risk_score, champion_version, champion_risk_score,
        true_churn_label
    )
    select event_id, event_timestamp, customer_id, %(model_version)s, risk_score, champion_version,
        champion_risk_score, true_churn_label
    from unnest(
        %(event_ids)s::uuid[], %(event_timestamps)s::timestamptz[], {customer_ids}, %(risk_scores)s::real[],
        %(champion_versions)s::integer[], %(champion_risk_scores)s::real[], %(true_churn_labels)s::smallint[]
    ) as u (
        event_id, event_timestamp, customer_id, risk_score, champion_version, champion_risk_score, true_churn_label
    )
    on conflict do nothing
"""
_PAIRS: Final = """
    select customer_id, risk_score, champion_risk_score,
        row_number() over (partition by customer_id order by event_timestamp desc, event_id desc) = 1 as is_latest
    from (
        select * from shadow_predictions where model_version = %s order by scored_at desc limit %s
    ) as newest
"""
# The latest outcome of an event or customer counts; without one, the label in the event. As for live performance.
_LABELLED: Final = """
    with by_event as (
        select distinct on (event_id) event_id, churned from customer_outcomes
        where event_id is not null order by event_id, outcome_timestamp desc, received_at desc
    ), by_customer as (
        select distinct on (customer_id) customer_id, churned, outcome_timestamp from customer_outcomes
        where event_id is null order by customer_id, outcome_timestamp desc, received_at desc
    )
    select s.risk_score, s.champion_risk_score, s.churned
    from (
        select s.event_timestamp, s.risk_score, s.champion_risk_score,
            coalesce(e.churned, c.churned, s.true_churn_label) as churned
        from shadow_predictions s
        left join by_event e using (event_id)
        left join by_customer c on c.customer_id = s.customer_id and s.event_timestamp <= c.outcome_timestamp
        where s.model_version = %(model_version)s and s.true_churn_label is not null
        union all
        select s.event_timestamp, s.risk_score, s.champion_risk_score, e.churned
        from by_event e join shadow_predictions s using (event_id)
        where s.model_version = %(model_version)s and s.true_churn_label is null
        union all
        select s.event_timestamp, s.risk_score, s.champion_risk_score, c.churned
        from by_customer c join shadow_predictions s using (customer_id) left join by_event e using (event_id)
        where s.model_version = %(model_version)s and s.true_churn_label is null
          and s.event_timestamp <= c.outcome_timestamp and e.event_id is null
    ) as s
    order by s.event_timestamp desc limit %(most)s
"""
# Deleted in steps, so that no transaction is long.
_DELETE: Final = """
    delete from shadow_predictions where ctid = any(array(
        select ctid from shadow_predictions where scored_at < %s limit %s
    ))
"""
_DELETED_AT_ONCE: Final = 50_000


@dataclass(frozen=True)
class ChampionsRow:
    """A prediction that a shadow scores, too. `values` are the customer's columns, in the order of the question."""

    event_id: Any
    event_timestamp: datetime
    customer_id: int | str
    model_version: int
    risk_score: float
    true_churn_label: int | None
    values: Sequence[Any]


@dataclass(frozen=True)
class ShareKey:
    """Which customers a shadow scores.

    Attributes:
        inner: key of the inner hash.
        outer: key of the outer hash.
        below: first nine bytes, the first of which is 0, that are not those of a customer in the share.
    """

    inner: bytes
    outer: bytes
    below: bytes


@dataclass(frozen=True)
class StoredComparison:
    """The latest comparison of a shadow."""

    model_version: int
    computed_at: datetime
    comparison: dict[str, Any]


def rows_in_share(
    connection: psycopg.Connection,
    columns: Sequence[PredictionColumn],
    ranges: Sequence[RowRange],
    key: ShareKey,
    *,
    first_block: int | None,
) -> list[ChampionsRow]:
    """Return the predictions of these ranges whose customers are in the share.

    Args:
        connection: in a transaction.
        columns: of the customer, that the shadow reads.
        ranges: from worker_positions.row_ranges().
        key: which customers.
        first_block: only rows in this block of the table or a later one; None to read all of the batches.
    """
    if not ranges:
        return []
    query = _ROWS.format(
        columns=sql.SQL(", ").join(sql.Identifier("p", column.name) for column in columns),
        join=worker_positions.join_ranges(first_block=first_block),
    )
    arguments = {**worker_positions.of_rows(ranges, first_block=first_block), **vars(key)}
    with connection.cursor(binary=True) as cursor:
        # Prepared, PostgreSQL would plan the statement for any block, and read the whole table.
        found = cursor.execute(query, arguments, prepare=False).fetchall()
    return [
        ChampionsRow(event_id, event_timestamp, customer_id, model_version, risk_score, true_churn_label, values)
        for event_id, event_timestamp, customer_id, model_version, risk_score, true_churn_label, *values in found
    ]


def add(
    connection: psycopg.Connection, rows: Sequence[ChampionsRow], risk_scores: Sequence[float], *, model_version: int
) -> int:
    """Store the scores of a shadow beside those of the predictions, in the caller's transaction.

    Args:
        connection: in the transaction that moves the worker's positions.
        rows: the predictions.
        risk_scores: of the shadow, in their order.
        model_version: of the shadow.

    Returns:
        How many were stored. An event that this version has scored before is not stored again.
    """
    if not rows:
        return 0
    ids = [each.customer_id for each in rows]
    kind = "text" if isinstance(ids[0], str) else "bigint"
    query = sql.SQL(_ADD).format(customer_ids=sql.SQL(f"%(customer_ids)s::{kind}[]"))
    return connection.execute(
        query,
        {
            "model_version": model_version,
            "event_ids": [each.event_id for each in rows],
            "event_timestamps": [each.event_timestamp for each in rows],
            "customer_ids": ids,
            "risk_scores": list(risk_scores),
            "champion_versions": [each.model_version for each in rows],
            "champion_risk_scores": [each.risk_score for each in rows],
            "true_churn_labels": [each.true_churn_label for each in rows],
        },
    ).rowcount


def pairs(
    connection: psycopg.Connection, model_version: int, *, most: int
) -> list[tuple[int | str, float, float, bool]]:
    """Return the newest events that a shadow scored.

    Args:
        connection: to the platform's database.
        model_version: of the shadow.
        most: how many events.

    Returns:
        Of each: customer, risk score of the shadow, that of the champion, and whether it is the customer's latest.
    """
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(_PAIRS, (model_version, most)).fetchall()


def labelled(connection: psycopg.Connection, model_version: int, *, most: int) -> list[tuple[float, float, int]]:
    """Return the newest events that a shadow scored and whose outcome is known.

    Returns:
        Of each: risk score of the shadow, that of the champion, and 1 if the customer left, else 0.
    """
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(_LABELLED, {"model_version": model_version, "most": most}).fetchall()


def delete_before(connection: psycopg.Connection, before: datetime) -> int:
    """Delete what was scored before a time, in autocommit mode; return how many rows."""
    deleted = 0
    while count := connection.execute(_DELETE, (before, _DELETED_AT_ONCE)).rowcount:
        deleted += count
    return deleted


def store_comparison(connection: psycopg.Connection, model_version: int, comparison: dict[str, Any]) -> None:
    """Replace the stored comparison of a version."""
    connection.execute(
        "insert into shadow_comparisons (model_version, comparison) values (%s, %s) "
        "on conflict (model_version) do update set computed_at = now(), comparison = excluded.comparison",
        (model_version, Jsonb(comparison)),
    )


def comparison_of(connection: psycopg.Connection, model_version: int) -> StoredComparison | None:
    """Return the stored comparison of a version; None if there is none."""
    with connection.cursor(row_factory=class_row(StoredComparison)) as cursor:
        return cursor.execute(
            "select model_version, computed_at, comparison from shadow_comparisons where model_version = %s",
            (model_version,),
        ).fetchone()
