"""The duty that evaluates operator conditions, and writes a message when one begins, lasts and ends."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from churn_platform.alerts.conditions import CONDITIONS, Condition, Finding
from churn_platform.alerts.evidence import Evidence
from churn_platform.alerts.messages import State, condition_payload
from churn_platform.database import alert_outbox, operator_conditions, stream_lag, worker_observations
from churn_platform.database.operator_conditions import StoredCondition

_log = logging.getLogger("churn.alerts")

ASSET: Final = "operator_conditions"
"""Name of the asset that Dagster shows."""
INTERVAL_SECONDS: Final = 10.0
# A condition ends when it was not found for this long, so that a value around its bound is not a message each time.
CLEAR_SECONDS: Final = 60.0
# The first reminder comes after an hour, the next after two more, then four: at most one a day.
FIRST_REMINDER: Final = timedelta(hours=1)
LONGEST_REMINDER: Final = timedelta(days=1)
PRUNE_SECONDS: Final = 3600.0


class OperatorConditions:
    """Compares the conditions with those that are open. Without targets they are recorded, and nobody is told."""

    name: Final = "operator conditions"
    exclusive: Final = True

    def __init__(
        self,
        evidence: Evidence,
        targets: Sequence[str],
        *,
        environment: str,
        keep_days: int,
        conditions: Sequence[Condition] = CONDITIONS,
        interval: float = INTERVAL_SECONDS,
        clear_seconds: float = CLEAR_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read nothing yet.

        Args:
            evidence: what the conditions look at.
            targets: names of those in OPERATOR_TARGETS.
            environment: name of this environment, for people who operate several.
            keep_days: days after which conditions that ended are deleted.
            conditions: what is evaluated.
            interval: seconds between two rounds.
            clear_seconds: how long a condition must not be found until it has ended.
            now: the clock.
        """
        self._evidence, self._targets, self._environment = evidence, tuple(targets), environment
        self._keep_days, self._conditions, self._interval = keep_days, tuple(conditions), interval
        self._clear, self._now = timedelta(seconds=clear_seconds), now
        self._created = time.monotonic()
        self._evaluated: dict[str, float] = {}
        self._pruned: float | None = None

    @property
    def interval(self) -> float:
        """Seconds until the next round."""
        return self._interval

    def run(self, connection: psycopg.Connection) -> bool:
        """Evaluate each condition whose turn it is, and record what is open and how far the stream is behind."""
        self._evidence.begin_round(connection)
        clock = time.monotonic()
        for condition in self._conditions:
            if clock - self._created < condition.after:
                continue
            last = self._evaluated.get(condition.name)
            # Half a round of tolerance, because a round takes a moment longer than its interval.
            if last is not None and clock - last < condition.every - self._interval / 2:
                continue
            self._compare(connection, condition, list(condition.find(self._evidence)))
            self._evaluated[condition.name] = clock
        names = [f"{each.name} {each.subject}".strip() for each in operator_conditions.open_conditions(connection)]
        worker_observations.observe(
            connection, ASSET, {"open_conditions": len(names), "open": ", ".join(names) or "none"}
        )
        reading = self._evidence.stream_if_read
        if reading is not None:
            lag = reading.lag
            stream_lag.record(
                connection,
                waiting=None if lag is None else lag.waiting,
                problem=reading.problem,
                held=None if lag is None else sum(lag.held.values()),
                unpublished=reading.unpublished,
                outcomes_waiting=reading.outcomes_waiting,
                lanes_waiting=None if lag is None else [lag.waiting_of(lane) for lane in reading.stalled],
            )
        if self._pruned is None or clock - self._pruned > PRUNE_SECONDS:
            operator_conditions.prune(connection, days=self._keep_days)
            self._pruned = clock
        return False

    def _compare(self, connection: psycopg.Connection, condition: Condition, findings: Iterable[Finding]) -> None:
        """Begin, continue or end a condition for each of its subjects, in one transaction with the messages."""
        with connection.transaction():
            known = {
                each.subject: each
                for each in operator_conditions.open_conditions(connection)
                if each.name == condition.name
            }
            for finding in findings:
                stored = known.pop(finding.subject, None)
                if stored is None:
                    self._begin(connection, condition, finding)
                else:
                    self._continue(connection, condition, stored, finding)
            for stored in known.values():
                self._end(connection, condition, stored)

    def _begin(self, connection: psycopg.Connection, condition: Condition, finding: Finding) -> None:
        now = self._now()
        number = operator_conditions.begin(
            connection, name=condition.name, subject=finding.subject, details=finding.details, at=now
        )
        self._tell(connection, condition, f"{number}/began", "began", finding, began=now, at=now)

    def _continue(
        self, connection: psycopg.Connection, condition: Condition, stored: StoredCondition, finding: Finding
    ) -> None:
        now = self._now()
        if stored.details != finding.details or stored.clear_since is not None:
            operator_conditions.update(connection, stored.id, details=finding.details, clear_since=None)
        pause = min(FIRST_REMINDER * 2 ** min(stored.reminders, 10), LONGEST_REMINDER)
        if now - (stored.last_reminder or stored.began) >= pause:
            operator_conditions.remind(connection, stored.id, at=now)
            reference = f"{stored.id}/reminder {stored.reminders + 1}"
            self._tell(connection, condition, reference, "lasts", finding, began=stored.began, at=now)

    def _end(self, connection: psycopg.Connection, condition: Condition, stored: StoredCondition) -> None:
        now = self._now()
        if stored.clear_since is None:
            operator_conditions.update(connection, stored.id, details=stored.details, clear_since=now)
        elif now - stored.clear_since >= self._clear:
            operator_conditions.end(connection, stored.id, at=stored.clear_since)
            finding = Finding(stored.subject, stored.details)
            self._tell(
                connection, condition, f"{stored.id}/ended", "ended", finding, began=stored.began, at=stored.clear_since
            )

    def _tell(
        self,
        connection: psycopg.Connection,
        condition: Condition,
        reference: str,
        state: State,
        finding: Finding,
        *,
        began: datetime,
        at: datetime,
    ) -> None:
        about = f"{condition.name} ({finding.subject})" if finding.subject else condition.name
        _log.warning("Condition %s %s: %s", about, state, finding.details)
        if not self._targets:
            return
        payload = condition_payload(
            name=condition.name,
            subject=finding.subject,
            state=state,
            details=finding.details,
            advice=(condition.meaning, condition.remedy),
            began=began,
            at=at,
            environment=self._environment,
        )
        alert_outbox.add(connection, kind="operator", reference=reference, payload=payload, targets=self._targets)
