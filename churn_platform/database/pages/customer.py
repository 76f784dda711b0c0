"""What the dashboard's page of one customer reads. Across tables; reads only.

The customer's predictions are read through their index. There are few of them, so they need no summary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from churn_platform.database.pages.customers import Reason
from churn_platform.database.prediction_columns import column_list, prediction_table
from churn_platform.schema.customer_schema import CustomerSchema

_GET: Final = """
    select event_id, event_timestamp, risk_score::double precision as risk_score,
        previous_risk_score::double precision as previous_risk_score, high_risk, model_version,
        money_at_risk, segments,
        first_event_timestamp, predictions, arm
    from customer_summary where customer_id = %s
"""
_FILE_SCORE: Final = """
    select risk_score::double precision as risk_score, model_version, scored_at, reasons
    from customer_file_scores where customer_id = %s
"""
_EVENTS: Final = """
    select event_id, event_timestamp, predicted_at, risk_score::double precision as risk_score, model_version, batch,
        kafka_partition, kafka_offset
    from churn_predictions where customer_id = %s
    order by event_timestamp desc, kafka_offset desc, event_id desc limit %s
"""
_VALUES: Final = sql.SQL("select {columns} from churn_predictions where event_id = %s")
# The customer has few rows, which are sorted. Where the event itself may be archived, the time of detection is known.
_EXPLAINED: Final = """
    select event_id, risk_score::double precision as risk_score, detected_at, reasons
    from high_risk_customers where customer_id = %(customer_id)s and reasons is not null
    order by event_id = %(event_id)s desc, detected_at desc limit 1
"""
_CASES: Final = """
    select case_id, arm, status, owner, notes, opened_at, contacted_at, closed_at, reason,
        risk_score::double precision as risk_score, highest_risk_score::double precision as highest_risk_score,
        priority, money_at_risk, reasons, list_day, list_rank
    from retention_cases where customer_id = %s order by case_id desc limit %s
"""
_CASE_HISTORY: Final = """
    select case_id, changed_at, changed_by, status, owner, notes, reason
    from retention_case_history where case_id = any(%s) order by change desc limit %s
"""
_OUTCOMES: Final = """
    select churned, outcome_timestamp, received_at, event_id from customer_outcomes
    where event_id is null and customer_id = %(customer_id)s
    union all
    select churned, outcome_timestamp, received_at, event_id from customer_outcomes
    where event_id = any(%(event_ids)s)
    order by outcome_timestamp desc, received_at desc limit %(limit)s
"""


@dataclass(frozen=True)
class Summary:
    """The customer's row of customer_summary, whose comments explain each column."""

    event_id: UUID
    event_timestamp: datetime
    risk_score: float
    previous_risk_score: float | None
    high_risk: bool
    model_version: int
    money_at_risk: float | None
    segments: Mapping[str, str]
    first_event_timestamp: datetime
    predictions: int
    arm: str


@dataclass(frozen=True)
class FileScore:
    """The customer's score in the latest scored file."""

    risk_score: float
    model_version: int
    scored_at: datetime
    reasons: Sequence[Reason]


@dataclass(frozen=True)
class Event:
    """A prediction. The comments of churn_predictions explain each column."""

    event_id: UUID
    event_timestamp: datetime
    predicted_at: datetime
    risk_score: float
    model_version: int
    batch: str
    kafka_partition: int
    kafka_offset: int


@dataclass(frozen=True)
class Explained:
    """A high-risk event with its reasons."""

    event_id: UUID
    risk_score: float
    detected_at: datetime
    reasons: Sequence[Reason]


@dataclass(frozen=True)
class CaseChange:
    """The state of a case after a change."""

    case_id: int
    changed_at: datetime
    changed_by: str
    status: str
    owner: str | None
    notes: str | None
    reason: str | None


@dataclass(frozen=True)
class Case:
    """A case of the customer. The comments of retention_cases explain each column."""

    case_id: int
    arm: str
    status: str
    owner: str | None
    notes: str | None
    opened_at: datetime
    contacted_at: datetime | None
    closed_at: datetime | None
    reason: str | None
    risk_score: float
    highest_risk_score: float
    priority: float
    money_at_risk: float | None
    reasons: Sequence[str] | None
    list_day: date | None
    list_rank: int | None


@dataclass(frozen=True)
class Outcome:
    """Whether the customer left, as it was reported; `event_id` is None if the report names only the customer."""

    churned: int
    outcome_timestamp: datetime
    received_at: datetime
    event_id: UUID | None


def summary(connection: psycopg.Connection, customer_id: int | str) -> Summary | None:
    """Return the customer's latest event; None if no event was scored, or the summaries do not have it yet."""
    with connection.cursor(row_factory=class_row(Summary)) as cursor:
        return cursor.execute(_GET, (customer_id,)).fetchone()


def file_score(connection: psycopg.Connection, customer_id: int | str) -> FileScore | None:
    """Return the customer's score in the latest scored file; None if it has none at or above the threshold."""
    with connection.cursor(row_factory=class_row(FileScore)) as cursor:
        return cursor.execute(_FILE_SCORE, (customer_id,)).fetchone()


def events(connection: psycopg.Connection, customer_id: int | str, *, limit: int) -> list[Event]:
    """Return the latest events, the latest one first. Those of archived batches are not among them."""
    with connection.cursor(row_factory=class_row(Event)) as cursor:
        return cursor.execute(_EVENTS, (customer_id, limit)).fetchall()


def values(connection: psycopg.Connection, schema: CustomerSchema, event_id: UUID) -> dict[str, Any] | None:
    """Return the customer's columns at an event, by their names in tables; None if its batch is archived."""
    query = _VALUES.format(columns=column_list(prediction_table(schema).customer))
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, (event_id,)).fetchone()


def explained(connection: psycopg.Connection, customer_id: int | str, *, event_id: UUID) -> Explained | None:
    """Return this event if it has reasons, else the customer's last one that has some; None if there is none."""
    with connection.cursor(row_factory=class_row(Explained)) as cursor:
        return cursor.execute(_EXPLAINED, {"customer_id": customer_id, "event_id": event_id}).fetchone()


def cases(connection: psycopg.Connection, customer_id: int | str, *, limit: int) -> list[Case]:
    """Return the customer's cases in both arms, the latest one first."""
    with connection.cursor(row_factory=class_row(Case)) as cursor:
        return cursor.execute(_CASES, (customer_id, limit)).fetchall()


def case_history(connection: psycopg.Connection, case_ids: Sequence[int], *, limit: int) -> list[CaseChange]:
    """Return the latest changes of these cases, the latest one first."""
    with connection.cursor(row_factory=class_row(CaseChange)) as cursor:
        return cursor.execute(_CASE_HISTORY, (list(case_ids), limit)).fetchall()


def outcomes(
    connection: psycopg.Connection, customer_id: int | str, *, event_ids: Sequence[UUID], limit: int
) -> list[Outcome]:
    """Return the outcomes of the customer and of these events of the customer, the latest one first."""
    with connection.cursor(row_factory=class_row(Outcome)) as cursor:
        parameters = {"customer_id": customer_id, "event_ids": list(event_ids), "limit": limit}
        return cursor.execute(_OUTCOMES, parameters).fetchall()
