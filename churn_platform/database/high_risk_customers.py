"""The table high_risk_customers: predictions at or above the high-risk threshold, with the reasons for their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from churn_platform.database.prediction_columns import PredictionTable, column_list

_ADD: Final = sql.SQL("""
    insert into high_risk_customers (event_id, batch, customer_id, risk_score, {summary}detected_at)
    select event_id, batch, customer_id, risk_score, {summary}predicted_at
    from {predictions}
    on conflict (event_id) do update set batch = excluded.batch, risk_score = excluded.risk_score, reasons = null
""")
_STORED: Final = sql.SQL("churn_predictions where event_id = any(%s)")
# Part of the statement of a commit (see ledger.py): adds those of `inserted`, which churn_predictions.py defines.
_INSERTED: Final = sql.SQL("inserted where risk_score >= %(high_risk_threshold)s::double precision")
_UPDATE_ALERTED: Final = """
    update high_risk_customers h set risk_score = p.risk_score, reasons = null
    from churn_predictions p where p.event_id = h.event_id and h.batch = %s and h.alert_sent
"""
_MARK_ALERTED: Final = """
    update high_risk_customers set alert_sent = true, alert_sent_at = now()
    where event_id = any(%s) and not alert_sent
"""
# The newest first, because somebody may be about to call these customers.
_UNEXPLAINED: Final = sql.SQL("""
    select h.event_id, p.model_version, {columns}
    from high_risk_customers h join churn_predictions p using (event_id)
    where h.reasons is null and (%(batch)s::text is null or h.batch = %(batch)s)
      and p.model_version <> all(%(unreadable)s)
    order by h.detected_at desc limit %(limit)s
""")
# Since a row was read, a replay may have deleted it or scored it again. The statement never waits for a row: a replay
# that has locked some of the rows and wants the others would wait for this statement in turn.
_STORE_REASONS: Final = """
    with explained as (
        select * from unnest(%s::uuid[], %s::integer[], %s::jsonb[]) as e (event_id, model_version, reasons)
    ), free as (
        select h.event_id from high_risk_customers h
        where h.event_id in (select event_id from explained) and h.reasons is null
        for update skip locked
    )
    update high_risk_customers h set reasons = e.reasons
    from explained e join free using (event_id) join churn_predictions p using (event_id, model_version)
    where h.event_id = e.event_id
"""


@dataclass(frozen=True)
class Unexplained:
    """A row without reasons: the model version that scored it, and the customer's columns as events name them."""

    event_id: UUID
    model_version: int
    columns: Mapping[str, Any]


def add(connection: psycopg.Connection, table: PredictionTable, event_ids: Sequence[str]) -> None:
    """Add the predictions of these events. A row that exists takes the new score and loses its reasons."""
    connection.execute(_add(table), (event_ids,))


def delete_without_alert(connection: psycopg.Connection, batch: str) -> None:
    """Delete the rows of a batch that is being replayed. A row whose alert was sent stays."""
    connection.execute("delete from high_risk_customers where batch = %s and not alert_sent", (batch,))


def rescore_alerted(connection: psycopg.Connection, batch: str) -> None:
    """Give the rows of a batch whose alert was sent the scores of its replay."""
    connection.execute(_UPDATE_ALERTED, (batch,))


def mark_alerted(connection: psycopg.Connection, event_ids: Sequence[UUID]) -> None:
    """Record that somebody was told about these events now. Those that were recorded earlier keep their time."""
    connection.execute(_MARK_ALERTED, (list(event_ids),))


def events_of(connection: psycopg.Connection, customer_ids: Sequence[int | str]) -> dict[int | str, list[UUID]]:
    """Return the events of each of these customers that nobody was told about."""
    rows = connection.execute(
        "select customer_id, array_agg(event_id) from high_risk_customers "
        "where customer_id = any(%s) and not alert_sent group by customer_id",
        (list(customer_ids),),
    )
    return dict(rows.fetchall())


def unexplained(
    connection: psycopg.Connection,
    table: PredictionTable,
    *,
    limit: int,
    batch: str | None,
    excluded_versions: Sequence[int],
) -> list[Unexplained]:
    """Return rows without reasons, the newest first.

    Args:
        connection: to the platform's database.
        table: whose customers' columns the rows have.
        limit: most rows.
        batch: only rows of this batch.
        excluded_versions: model versions whose rows are left out.
    """
    rows = connection.execute(
        _UNEXPLAINED.format(columns=column_list(table.customer, table="p")),
        {"batch": batch, "unreadable": list(excluded_versions), "limit": limit},
    ).fetchall()
    fields = [column.field for column in table.customer]
    return [Unexplained(row[0], row[1], dict(zip(fields, row[2:], strict=True))) for row in rows]


def store_reasons(
    connection: psycopg.Connection, event_ids: Sequence[UUID], reasons: Sequence[object], *, model_version: int
) -> int:
    """Store the reasons of events that this model version has scored.

    Returns:
        How many rows were updated. Rows that another session has locked, explained or scored again are left out.
    """
    documents = [Jsonb(each) for each in reasons]
    return connection.execute(_STORE_REASONS, (list(event_ids), [model_version] * len(documents), documents)).rowcount


@cache
def add_inserted(table: PredictionTable) -> sql.Composed:
    """Return the part of a commit's statement that adds the predictions which it inserts."""
    return sql.SQL("risky as ({})").format(
        _ADD.format(summary=column_list(table.summary, end=True), predictions=_INSERTED)
    )


@cache
def _add(table: PredictionTable) -> bytes:
    return _ADD.format(summary=column_list(table.summary, end=True), predictions=_STORED).as_bytes(None)
