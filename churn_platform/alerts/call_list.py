"""Reads the call list for messages: whom the team should call today, why, and since when the case is on a list."""

from collections.abc import Sequence
from datetime import date
from typing import Final

import psycopg

from churn_platform.alerts.outbox import ListedCase
from churn_platform.database import case_reading, high_risk_customers, list_entries
from churn_platform.database.case_reading import Case

# A message has the strongest reasons only; 'churn cases show' has all of them.
REASONS: Final = 3


def read_call_list(connection: psycopg.Connection, day: date) -> Sequence[ListedCase]:
    """Return the cases of the contact arm on the list of a day, best first. A list of another day is empty."""
    cases = [each for each in case_reading.call_list(connection) if each.list_day == day]
    if not cases:
        return []
    entered = list_entries.entered_at(connection, [each.case_id for each in cases])
    events = high_risk_customers.events_of(connection, [each.customer_id for each in cases])
    return [
        ListedCase(
            case_id=each.case_id,
            arm="contact",
            rank=each.rank or 0,
            priority=each.priority,
            entered_at=entered.get(each.case_id, each.opened_at),
            text=_text(each),
            link=each.link or "",
            event_ids=events.get(each.customer_id, ()),
        )
        for each in cases
    ]


def _text(case: Case) -> str:
    """Return a line about a customer: the id, the risk and the reasons. The platform knows no names."""
    reasons = " ".join(f"{reason.rstrip('.')}." for reason in (case.reasons or [])[:REASONS])
    return f"Customer {case.customer_id}: risk {case.risk_score:.0%}. {reasons}".rstrip()
