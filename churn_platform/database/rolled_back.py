"""What a database holds that was done for people since a moment: a restore of an earlier state rolls it back.

Reads only, across tables.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg
from psycopg.rows import class_row

_SENT: Final = """
    select id, kind, reference, target, status, idempotency_key, coalesce(sent_at, claimed_at, created_at) as at
    from alert_outbox
    where greatest(created_at, claimed_at, sent_at) > %s and status in ('sending', 'sent', 'in_doubt') order by id
"""
_CASES: Final = """
    select case_id, customer_id, arm, status, opened_at from retention_cases where opened_at > %s order by case_id
"""
_CHANGES: Final = """
    select h.case_id, k.customer_id, h.status, h.changed_by, h.changed_at
    from retention_case_history h join retention_cases k using (case_id)
    where h.changed_at > %s order by h.change
"""
_BLOCKED: Final = """
    select customer_id, reason, added_by, added_at from do_not_contact where added_at > %s order by added_at
"""


@dataclass(frozen=True)
class Sent:
    """A message that was sent, or may have been. `idempotency_key` is what its receiver may know it by."""

    id: int
    kind: str
    reference: str
    target: str
    status: str
    idempotency_key: UUID
    at: datetime


@dataclass(frozen=True)
class OpenedCase:
    """A case that was opened."""

    case_id: int
    customer_id: int | str
    arm: str
    status: str
    opened_at: datetime


@dataclass(frozen=True)
class CaseChange:
    """A change of a case. The status `contacted` is a call."""

    case_id: int
    customer_id: int | str
    status: str
    changed_by: str
    changed_at: datetime


@dataclass(frozen=True)
class BlockedCustomer:
    """A customer who was put on the do-not-contact list."""

    customer_id: int | str
    reason: str
    added_by: str
    added_at: datetime


@dataclass(frozen=True)
class RolledBack:
    """What was done for people since a moment.

    Attributes:
        since: the moment.
        sent: messages.
        cases: cases that were opened.
        changes: changes of cases, calls among them.
        blocked: customers who were put on the do-not-contact list.
    """

    since: datetime
    sent: list[Sent]
    cases: list[OpenedCase]
    changes: list[CaseChange]
    blocked: list[BlockedCustomer]

    @property
    def calls(self) -> int:
        """Number of calls among the changes."""
        return sum(change.status == "contacted" for change in self.changes)


def collect(connection: psycopg.Connection, *, since: datetime) -> RolledBack:
    """Return what was done since a moment.

    Raises:
        psycopg.Error: the database has no tables of this version.
    """
    with (
        connection.cursor(row_factory=class_row(Sent)) as sent,
        connection.cursor(row_factory=class_row(OpenedCase)) as cases,
        connection.cursor(row_factory=class_row(CaseChange)) as changes,
        connection.cursor(row_factory=class_row(BlockedCustomer)) as blocked,
    ):
        return RolledBack(
            since=since,
            sent=sent.execute(_SENT, (since,)).fetchall(),
            cases=cases.execute(_CASES, (since,)).fetchall(),
            changes=changes.execute(_CHANGES, (since,)).fetchall(),
            blocked=blocked.execute(_BLOCKED, (since,)).fetchall(),
        )
