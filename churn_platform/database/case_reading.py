"""What people read of retention_cases and its history: cases of the contact arm only, whatever the login may read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

_COLUMNS: Final = sql.SQL(
    "c.case_id, c.customer_id, c.status, c.owner, c.notes, l.rank, c.list_day, c.risk_score, c.highest_risk_score, "
    "c.priority, c.money_at_risk, c.reasons, c.segments, c.link, c.opened_at, c.contacted_at, c.closed_at, c.reason, "
    "c.event_timestamp, c.model_version"
)
_CALL_LIST: Final = sql.SQL("""
    select {} from v_call_list l join retention_cases c using (case_id) order by l.rank
""").format(_COLUMNS)
_FIND: Final = sql.SQL("""
    select {} from retention_cases c left join v_call_list l using (case_id)
    where c.arm = 'contact' and c.status = any(%(statuses)s) and (%(owner)s::text is null or c.owner = %(owner)s)
    order by l.rank, c.closed_at desc nulls first, c.priority desc, c.case_id limit %(limit)s
""").format(_COLUMNS)
_GET: Final = sql.SQL("""
    select {} from retention_cases c left join v_call_list l using (case_id)
    where c.arm = 'contact' and c.case_id = %s
""").format(_COLUMNS)
_LATEST_OF: Final = sql.SQL("""
    select {} from retention_cases c left join v_call_list l using (case_id)
    where c.arm = 'contact' and c.customer_id::text = %s order by c.closed_at desc nulls first, c.case_id desc limit 1
""").format(_COLUMNS)
_HISTORY: Final = """
    select changed_at, changed_by, login, status, owner, notes, reason from v_retention_case_history
    where case_id = %s order by change
"""


@dataclass(frozen=True)
class Case:
    """A case of the contact arm. The comments of retention_cases explain each column, and v_call_list has the rank."""

    case_id: int
    customer_id: int | str
    status: str
    owner: str | None
    notes: str | None
    rank: int | None
    list_day: date | None
    risk_score: float
    highest_risk_score: float
    priority: float
    money_at_risk: float | None
    reasons: list[str] | None
    segments: dict[str, str]
    link: str | None
    opened_at: datetime
    contacted_at: datetime | None
    closed_at: datetime | None
    reason: str | None
    event_timestamp: datetime
    model_version: int

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON. Times are ISO 8601 in UTC."""
        return {name: _for_json(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Change:
    """The state of a case after a change, and who made the change."""

    changed_at: datetime
    changed_by: str
    login: str
    status: str
    owner: str | None
    notes: str | None
    reason: str | None

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON. Times are ISO 8601 in UTC."""
        return {name: _for_json(value) for name, value in asdict(self).items()}


def call_list(connection: psycopg.Connection) -> list[Case]:
    """Return the call list, best first."""
    with connection.cursor(row_factory=class_row(Case)) as cursor:
        return cursor.execute(_CALL_LIST).fetchall()


def find(
    connection: psycopg.Connection, *, statuses: Sequence[str], owner: str | None = None, limit: int | None = None
) -> list[Case]:
    """Return cases with one of these statuses: those on the list first, then the highest priorities.

    Args:
        connection: of a login that may read cases.
        statuses: of the cases.
        owner: only cases of this person; None for all.
        limit: most cases; None for all.
    """
    with connection.cursor(row_factory=class_row(Case)) as cursor:
        return cursor.execute(_FIND, {"statuses": list(statuses), "owner": owner, "limit": limit}).fetchall()


def get(connection: psycopg.Connection, case_id: int) -> Case | None:
    """Return one case; None if there is none in the contact arm."""
    with connection.cursor(row_factory=class_row(Case)) as cursor:
        return cursor.execute(_GET, (case_id,)).fetchone()


def latest_of(connection: psycopg.Connection, customer: str) -> Case | None:
    """Return the case of a customer that is not closed, or else the latest one; None without one in the contact arm.

    Args:
        connection: of a login that may read cases.
        customer: id of the customer as text.
    """
    with connection.cursor(row_factory=class_row(Case)) as cursor:
        return cursor.execute(_LATEST_OF, (customer,)).fetchone()


def history(connection: psycopg.Connection, case_id: int) -> list[Change]:
    """Return all changes of a case, in order."""
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        return cursor.execute(_HISTORY, (case_id,)).fetchall()


def _for_json(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value
