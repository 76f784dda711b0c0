"""The table retention_list_entries: who entered the call list of a day, in both arms."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final

import psycopg

# A case that was opened again within the cool-off, or an entry by another worker, is not counted twice.
_ENTER: Final = """
    insert into retention_list_entries (
        day, case_id, customer_id, arm, rank, priority, risk_score, money_at_risk, segments
    )
    select %(day)s, c.case_id, c.customer_id, c.arm, u.rank, c.priority, c.risk_score, c.money_at_risk, c.segments
    from unnest(%(case_ids)s::bigint[], %(ranks)s::integer[]) as u (case_id, rank)
    join retention_cases c using (case_id)
    where not exists (
        select from retention_list_entries e where e.customer_id = c.customer_id and e.day > %(day)s - %(cool_off)s
    )
    order by u.rank
    on conflict do nothing
"""


def enter(
    connection: psycopg.Connection, day: date, *, case_ids: Sequence[int], ranks: Sequence[int], cool_off: timedelta
) -> int:
    """Record that the customers of these cases enter the list of a day; return how many did.

    Args:
        connection: in a transaction.
        day: of the team.
        case_ids: cases of either arm.
        ranks: places on the list, one for each.
        cool_off: a customer with an entry in this time before the day enters no second time.
    """
    return connection.execute(
        _ENTER, {"day": day, "case_ids": list(case_ids), "ranks": list(ranks), "cool_off": cool_off.days}
    ).rowcount


def entered_at(connection: psycopg.Connection, case_ids: Sequence[int]) -> dict[int, datetime]:
    """Return when each of these cases last entered a list; cases that never did are left out."""
    rows = connection.execute(
        "select case_id, max(entered_at) from retention_list_entries where case_id = any(%s) group by case_id",
        (list(case_ids),),
    )
    return dict(rows.fetchall())
