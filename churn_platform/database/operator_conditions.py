"""The table operator_conditions: problems of the platform, from when they were found until they ended.

The conditions themselves are defined in churn_platform/alerts/conditions.py.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True)
class StoredCondition:
    """A row of operator_conditions. The comments of the table explain the columns."""

    id: int
    name: str
    subject: str
    details: str
    began: datetime
    clear_since: datetime | None
    ended: datetime | None
    reminders: int
    last_reminder: datetime | None

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON, with times in ISO 8601, UTC."""
        return {
            name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


def open_conditions(connection: psycopg.Connection) -> list[StoredCondition]:
    """Return the conditions that have not ended, the oldest first."""
    with connection.cursor(row_factory=class_row(StoredCondition)) as cursor:
        return cursor.execute("select * from operator_conditions where ended is null order by began, id").fetchall()


def recent(connection: psycopg.Connection, *, limit: int) -> list[StoredCondition]:
    """Return the conditions that began last, the newest first."""
    with connection.cursor(row_factory=class_row(StoredCondition)) as cursor:
        return cursor.execute(
            "select * from operator_conditions order by ended is null desc, began desc, id desc limit %s", (limit,)
        ).fetchall()


def begin(connection: psycopg.Connection, *, name: str, subject: str, details: str, at: datetime) -> int:
    """Record that a condition began; return the number of its row."""
    row = connection.execute(
        "insert into operator_conditions (name, subject, details, began) values (%s, %s, %s, %s) returning id",
        (name, subject, details, at),
    ).fetchone()
    if row is None:
        raise RuntimeError("An insert with 'returning' returned no row; PostgreSQL always returns one.")
    return int(row[0])


def update(connection: psycopg.Connection, condition: int, *, details: str, clear_since: datetime | None) -> None:
    """Record the latest measurement, and since when the condition is no longer found (None while it is)."""
    connection.execute(
        "update operator_conditions set details = %s, clear_since = %s where id = %s", (details, clear_since, condition)
    )


def end(connection: psycopg.Connection, condition: int, *, at: datetime) -> None:
    """Record that a condition ended."""
    connection.execute("update operator_conditions set ended = %s where id = %s", (at, condition))


def remind(connection: psycopg.Connection, condition: int, *, at: datetime) -> None:
    """Count a reminder."""
    connection.execute(
        "update operator_conditions set reminders = reminders + 1, last_reminder = %s where id = %s", (at, condition)
    )


def prune(connection: psycopg.Connection, *, days: int) -> None:
    """Delete conditions that ended before so many days."""
    connection.execute("delete from operator_conditions where ended < now() - make_interval(days => %s)", (days,))
