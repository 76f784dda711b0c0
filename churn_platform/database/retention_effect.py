"""The tables retention_effect and retention_entry_outcomes: whether calls help, and the outcomes that show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal

import psycopg
from psycopg import sql
from psycopg.rows import class_row

# A call counts if it was within the customer's time: it may belong to another case than that of the entry.
_ENTRIES: Final = """
    select e.entry, e.customer_id, e.arm, e.entered_at, to_char(e.day, 'YYYY-MM') as month, e.money_at_risk, e.segments,
        o.churned as settled, coalesce(o.contacted, exists (
            select from retention_cases c
            where c.customer_id = e.customer_id
              and c.contacted_at between e.entered_at and e.entered_at + %(window)s
        )) as contacted
    from retention_list_entries e left join retention_entry_outcomes o using (entry)
    order by e.entry
"""
# What was known of each customer, and when: from the outcomes topic, for the customer or for one event, and from labels
# of events.
_KNOWN: Final = """
    with wanted as (select unnest(%(customers)s) as customer_id)
    select customer_id, outcome_timestamp as at, (churned = 1) as churned
    from customer_outcomes join wanted using (customer_id)
    union all
    select p.customer_id, o.outcome_timestamp, o.churned = 1
    from customer_outcomes o join churn_predictions p using (event_id) join wanted w on w.customer_id = p.customer_id
    where o.customer_id is null
    union all
    select customer_id, event_timestamp, true_churn_label = 1
    from churn_predictions join wanted using (customer_id)
    where true_churn_label is not null
"""
_LATEST: Final = """
    select date as day, month, segment, value, outcome_days, updated_at,
        contact_entered, contact_open, contact_unknown, contact_stayed, contact_left, contact_contacted,
        contact_churn_rate, control_entered, control_open, control_unknown, control_stayed, control_left,
        control_contacted, control_churn_rate, reduction, reduction_low, reduction_high,
        customers_saved, customers_saved_low, customers_saved_high, money_saved, money_saved_low, money_saved_high,
        cases_needed, conclusion, warnings
    from retention_effect where date = (select max(date) from retention_effect)
    order by month, segment, value
"""
_SETTLE: Final = """
    insert into retention_entry_outcomes (entry, churned, contacted)
    select * from unnest(%s::bigint[], %s::boolean[], %s::boolean[]) on conflict (entry) do nothing
"""


@dataclass(frozen=True)
class Entry:
    """An entry of the call list, and what is settled about it.

    Attributes:
        entry: its number.
        customer_id: of the customer.
        arm: as assigned.
        entered_at: when the customer entered.
        month: of the list, such as 2026-11.
        money_at_risk: at that time; None if it is unknown.
        segments: name of a column -> the customer's value or band.
        settled: whether the customer left, if that was found before.
        contacted: whether the customer was called in the time after the entry.
    """

    entry: int
    customer_id: int | str
    arm: Literal["contact", "control"]
    entered_at: datetime
    month: str
    money_at_risk: float | None
    segments: dict[str, str]
    settled: bool | None
    contacted: bool


@dataclass(frozen=True)
class Comparison:
    """The comparison of both arms in one group. The comments of retention_effect explain each column."""

    day: date
    month: str
    segment: str
    value: str
    outcome_days: int
    updated_at: datetime
    contact_entered: int
    contact_open: int
    contact_unknown: int
    contact_stayed: int
    contact_left: int
    contact_contacted: int
    contact_churn_rate: float | None
    control_entered: int
    control_open: int
    control_unknown: int
    control_stayed: int
    control_left: int
    control_contacted: int
    control_churn_rate: float | None
    reduction: float | None
    reduction_low: float | None
    reduction_high: float | None
    customers_saved: float | None
    customers_saved_low: float | None
    customers_saved_high: float | None
    money_saved: float | None
    money_saved_low: float | None
    money_saved_high: float | None
    cases_needed: int | None
    conclusion: str
    warnings: list[str]

    @property
    def known(self) -> int:
        """Customers of both arms whose outcome is known."""
        return self.contact_stayed + self.contact_left + self.control_stayed + self.control_left


def latest(connection: psycopg.Connection) -> list[Comparison]:
    """Return the comparisons of the latest day: in total, by month and by segment; empty before the first."""
    with connection.cursor(row_factory=class_row(Comparison)) as cursor:
        return cursor.execute(_LATEST).fetchall()


def entries(connection: psycopg.Connection, *, window: timedelta) -> list[Entry]:
    """Return all entries of call lists, in order.

    Args:
        connection: to the platform's database.
        window: the time after an entry that counts.
    """
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(_ENTRIES, {"window": window}).fetchall()


def known_outcomes(
    connection: psycopg.Connection, customers: Sequence[int | str]
) -> list[tuple[int | str, datetime, bool]]:
    """Return what is known of these customers: the customer, the time, and whether the customer had left then."""
    return connection.execute(_KNOWN, {"customers": list(customers)}).fetchall() if customers else []


def settle(connection: psycopg.Connection, outcomes: Sequence[tuple[int, bool, bool]]) -> None:
    """Record entries with a known outcome: the entry, whether the customer left, and whether the customer was called.

    An entry that is settled does not change: the outcomes that settled it may have been deleted since.
    """
    if outcomes:
        entry, left, contacted = zip(*outcomes, strict=True)
        connection.execute(_SETTLE, (list(entry), list(left), list(contacted)))


def replace_day(connection: psycopg.Connection, day: date, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the rows of a day, in the caller's transaction.

    Args:
        connection: in a transaction.
        day: of the comparison.
        rows: column -> value; all rows have the same columns, without `date` and `updated_at`.
    """
    connection.execute("delete from retention_effect where date = %s", (day,))
    if not rows:
        return
    names = ["date", *rows[0]]
    statement = sql.SQL("insert into retention_effect ({}) values ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.SQL(", ").join([sql.Placeholder()] * len(names))
    )
    with connection.cursor() as cursor:
        cursor.executemany(statement, [(day, *row.values()) for row in rows])
