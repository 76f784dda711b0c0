"""The duty that fills and cleans the outbox: the call list becomes messages, and abandoned messages become doubtful."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, Protocol
from uuid import UUID

import psycopg

from churn_platform.alerts.messages import case_payload, digest_payload
from churn_platform.alerts.policy import AlertPolicy
from churn_platform.database import alert_outbox, erased_customers, recovered_predictions, worker_observations
from churn_platform.database.alert_outbox import CaseEntry

ASSET: Final = "alert_outbox"
"""Name of the asset that Dagster shows."""
INTERVAL_SECONDS: Final = 5.0
ROLLED_BACK: Final = "The database was restored to an earlier state. The target may have received this message before."
"""Why a message that is written after a restore is in doubt."""
# Deleting old rows more often would gain nothing.
PRUNE_SECONDS: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class ListedCase:
    """A case on the call list of a day.

    Attributes:
        case_id: the case.
        arm: controls are never alerted.
        rank: place on the list, from 1.
        priority: expected value of a call, in the currency of the settings.
        entered_at: when the case first came onto a list.
        text: one line for people: the customer's id, the risk and the reasons.
        link: the customer's page in the CRM; empty without one.
        event_ids: high-risk events of the customer.
    """

    case_id: int
    arm: Literal["contact", "control"]
    rank: int
    priority: float
    entered_at: datetime
    text: str
    link: str = ""
    event_ids: Sequence[UUID] = ()


class CallList(Protocol):
    """Reads the call list."""

    def __call__(self, connection: psycopg.Connection, day: date, /) -> Sequence[ListedCase]:
        """Return the cases that wait for a call on this day of the team."""


def enqueue_cases(
    connection: psycopg.Connection, call_list: CallList, *, targets: Sequence[str], policy: AlertPolicy, now: datetime
) -> int:
    """Write the messages about customers that are due, each to all targets.

    A digest holds the call list as it is when the digest is due: of each customer at most once a day. Without a
    customer who was listed before its time there is none, so a platform that starts in the afternoon does not send the
    first few customers that it finds. In the mode `each`, a case gets one message, soon after it came onto the list.
    Controls are left out, and so are customers beyond `policy.cases_per_day` of the day. What may have been sent before
    the database was restored to an earlier state is in doubt.

    Args:
        connection: only one session may call this at a time.
        call_list: is read only if something may be due.
        targets: names of the targets. Without any, nothing is written.
        policy: what is due.
        now: the present.

    Returns:
        Number of customers in the messages that were written.
    """
    if not targets:
        return 0
    with connection.transaction():
        erased_customers.hold_off(connection)
        if policy.mode == "digest":
            return _enqueue_digest(connection, call_list, targets=targets, policy=policy, now=now)
        return _enqueue_each(connection, call_list, targets=targets, policy=policy, now=now)


def _enqueue_digest(
    connection: psycopg.Connection, call_list: CallList, *, targets: Sequence[str], policy: AlertPolicy, now: datetime
) -> int:
    at = policy.latest_digest(now)
    if at is None:
        return 0
    reference = f"{at:%Y-%m-%dT%H:%M}"
    if alert_outbox.exists(connection, kind="digest", reference=reference):
        return 0
    day = policy.day(now)
    done = alert_outbox.alerted_on(connection, day)
    waiting = [each for each in call_list(connection, day) if each.case_id not in done]
    best = _best(waiting, policy.cases_per_day - len(done))
    if not any(each.entered_at <= at for each in best):
        return 0
    recovered = recovered_predictions.latest_recovery(connection)
    cases = [(each.rank, each.case_id, each.priority, each.text, each.link) for each in best]
    alert_outbox.add(
        connection,
        kind="digest",
        reference=reference,
        payload=digest_payload(day, cases),
        targets=targets,
        expires_at=at + policy.max_age,
        # It is missing in the outbox, and may have been sent before the database was restored.
        doubt=ROLLED_BACK if recovered is not None and at <= recovered else None,
    )
    alert_outbox.add_cases(
        connection, "digest", day, [CaseEntry(each.case_id, reference, each.event_ids) for each in best], at=now
    )
    return len(best)


def _enqueue_each(
    connection: psycopg.Connection, call_list: CallList, *, targets: Sequence[str], policy: AlertPolicy, now: datetime
) -> int:
    day = policy.day(now)
    room = policy.cases_per_day - len(alert_outbox.alerted_on(connection, day))
    if room <= 0:
        return 0
    recent = [each for each in call_list(connection, day) if now - policy.max_age <= each.entered_at]
    done = alert_outbox.alerted_of(connection, [each.case_id for each in recent])
    best = _best([each for each in recent if each.case_id not in done], room)
    recovered_events = recovered_predictions.find(
        connection, [str(event_id) for each in best for event_id in each.event_ids]
    )
    for each in best:
        alert_outbox.add(
            connection,
            kind="case",
            reference=f"case {each.case_id}",
            payload=case_payload(
                day,
                rank=each.rank,
                case_id=each.case_id,
                priority=each.priority,
                text=each.text,
                link=each.link,
            ),
            targets=targets,
            expires_at=each.entered_at + policy.max_age,
            doubt=None if recovered_events.isdisjoint(map(str, each.event_ids)) else ROLLED_BACK,
        )
    entries = [CaseEntry(each.case_id, f"case {each.case_id}", each.event_ids) for each in best]
    alert_outbox.add_cases(connection, "case", day, entries, at=now)
    return len(best)


def _best(cases: Sequence[ListedCase], room: int) -> list[ListedCase]:
    """Return the cases of the contact arm that fit, best first."""
    contacts = [each for each in cases if each.arm == "contact"]
    return sorted(contacts, key=lambda each: (each.rank, each.case_id))[: max(0, room)]


class AlertOutbox:
    """Writes the messages about customers that are due, and keeps the outbox in order."""

    name: Final = "alert outbox"
    interval: Final = INTERVAL_SECONDS
    exclusive: Final = True

    def __init__(
        self,
        targets: Sequence[str],
        policy: AlertPolicy,
        call_list: CallList,
        *,
        keep_days: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read nothing yet.

        Args:
            targets: names of those in ALERT_TARGETS.
            policy: what is due.
            call_list: reads the call list.
            keep_days: days after which messages that were sent are deleted.
            now: the clock.
        """
        self._targets, self._policy, self._call_list = tuple(targets), policy, call_list
        self._keep_days, self._now = keep_days, now
        self._pruned: datetime | None = None

    def run(self, connection: psycopg.Connection) -> bool:
        """Do all of it once."""
        now = self._now()
        alert_outbox.doubt_abandoned(connection)
        alert_outbox.expire(connection)
        enqueue_cases(connection, self._call_list, targets=self._targets, policy=self._policy, now=now)
        if self._pruned is None or now - self._pruned > timedelta(seconds=PRUNE_SECONDS):
            alert_outbox.prune(connection, days=self._keep_days)
            self._pruned = now
        counted = alert_outbox.count(connection)
        worker_observations.observe(connection, ASSET, {status.value: number for status, number in counted.items()})
        return False
