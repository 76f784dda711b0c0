"""What people read of retention_cases and its history: cases of the contact arm only, whatever the login may read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.schema.columns import as_words

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
_LAST_CHANGES: Final = """
    select case_id, max(change) from v_retention_case_history where case_id = any(%s) group by case_id
"""
# Cases that somebody owns, or has called. The history has the calls; one that was taken back does not count.
_OF_PERSON: Final = sql.SQL("""
    select {} from retention_cases c left join v_call_list l using (case_id)
    where c.arm = 'contact' and c.status = any(%(statuses)s) and c.case_id < %(before)s and c.case_id = any(array(
        select case_id from retention_cases where owner = %(person)s
        union
        select h.case_id from v_retention_case_history h join retention_cases k using (case_id)
        where h.changed_by = %(person)s and h.status = 'contacted' and k.contacted_at is not null
    ))
    order by c.case_id desc limit %(limit)s
""").format(_COLUMNS)
_COUNTS_OF_PERSON: Final = """
    select status, count(*) from retention_cases
    where arm = 'contact' and case_id = any(array(
        select case_id from retention_cases where owner = %(person)s
        union
        select h.case_id from v_retention_case_history h join retention_cases k using (case_id)
        where h.changed_by = %(person)s and h.status = 'contacted' and k.contacted_at is not null
    ))
    group by status
"""
_CALLED_BETWEEN: Final = """
    select count(*) from retention_cases where arm = 'contact' and contacted_at >= %s and contacted_at < %s
"""
_OWNERS: Final = """
    select distinct owner from retention_cases
    where arm = 'contact' and owner is not null and closed_at is null order by owner limit 200
"""
_HISTORY: Final = """
    select change, changed_at, changed_by, login, status, owner, notes, reason, takes_back from v_retention_case_history
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

    def as_cells(self) -> list[str | int | float | date | None]:
        """Return it for a row of a spreadsheet, below `CELL_NAMES`. A list of reasons is one text."""
        return [_for_cell(getattr(self, name)) for name in CELL_NAMES]


CELL_NAMES: Final = tuple(each.name for each in fields(Case) if each.name != "segments")
_TITLES: Final = {
    "case_id": "Case",
    "customer_id": "Customer",
    "rank": "Place on the list",
    "list_day": "Day of the list",
    "priority": "Priority (expected value of a call)",
    "link": "In the CRM",
    "opened_at": "Opened (UTC)",
    "contacted_at": "Called (UTC)",
    "closed_at": "Closed (UTC)",
    "reason": "Status because",
    "event_timestamp": "Latest event (UTC)",
}
CELL_TITLES: Final = tuple(_TITLES.get(name, as_words(name)) for name in CELL_NAMES)
"""The same names for people, as workbooks have them."""


@dataclass(frozen=True)
class Change:
    """The state of a case after a change, and who made the change. The comments of the view explain each column."""

    change: int
    changed_at: datetime
    changed_by: str
    login: str
    status: str
    owner: str | None
    notes: str | None
    reason: str | None
    takes_back: int | None

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


def last_changes(connection: psycopg.Connection, case_ids: Sequence[int]) -> dict[int, int]:
    """Return the number of the last change of each of these cases."""
    return dict(connection.execute(_LAST_CHANGES, (list(case_ids),)).fetchall())


def of_person(
    connection: psycopg.Connection, person: str, *, statuses: Sequence[str], before: int, limit: int
) -> list[Case]:
    """Return cases that a person owns or has called, the newest first.

    Args:
        connection: of a login that may read cases.
        person: as the history and the cases name the person.
        statuses: of the cases.
        before: only cases with a lower number.
        limit: most cases.
    """
    parameters = {"person": person, "statuses": list(statuses), "before": before, "limit": limit}
    with connection.cursor(row_factory=class_row(Case)) as cursor:
        return cursor.execute(_OF_PERSON, parameters).fetchall()


def counts_of_person(connection: psycopg.Connection, person: str) -> dict[str, int]:
    """Return how many cases a person owns or has called, by status."""
    return dict(connection.execute(_COUNTS_OF_PERSON, {"person": person}).fetchall())


def called_between(connection: psycopg.Connection, start: datetime, end: datetime) -> int:
    """Return how many customers of the contact arm were called in [start, end)."""
    row = connection.execute(_CALLED_BETWEEN, (start, end)).fetchone()
    return 0 if row is None else int(row[0])


def owners(connection: psycopg.Connection) -> list[str]:
    """Return who owns cases that are not closed."""
    return [owner for (owner,) in connection.execute(_OWNERS)]


def _for_json(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


def _for_cell(value: object) -> str | int | float | date | None:
    if isinstance(value, list):
        return "; ".join(str(each) for each in value)
    return value if isinstance(value, int | float | date) or value is None else str(value)
