"""The messages of `churn alerts test`: each target gets what it gets in earnest, about nobody. Nothing is sent here."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final
from uuid import uuid4

from churn_platform.alerts.messages import Message, case_payload, condition_payload, digest_payload, of_payload
from churn_platform.alerts.policy import AlertPolicy
from churn_platform.alerts.targets import Targets
from churn_platform.database.alert_outbox import Kind

REFERENCE: Final = "test"
NO_CASE: Final = 0
"""The number of the sample's case; the numbers of cases begin at 1."""
CUSTOMER: Final = "Customer test: risk 80%. 'churn alerts test' has sent this message, and there is nobody to call."
DETAILS: Final = "'churn alerts test' has sent this message, and nothing is wrong."


def sample_messages(
    target: str, targets: Targets, policy: AlertPolicy, *, environment: str, now: datetime
) -> Iterator[Message]:
    """Yield a message of each kind that a target gets: two if it is in both lists of targets.

    Args:
        target: its name.
        targets: of the settings.
        policy: whether the team gets digests.
        environment: name of this environment.
        now: the present, with a time zone.
    """
    if target in targets.team:
        day = policy.day(now)
        if policy.mode == "digest":
            payload = digest_payload(day, [(1, NO_CASE, 0.0, CUSTOMER, "")])
        else:
            payload = case_payload(day, rank=1, case_id=NO_CASE, priority=0.0, text=CUSTOMER, link="")
        yield _sample("digest" if policy.mode == "digest" else "case", payload, now)
    if target in targets.operators:
        payload = condition_payload(
            name=REFERENCE,
            subject="",
            state="began",
            details=DETAILS,
            advice=(),
            began=now,
            at=now,
            environment=environment,
        )
        yield _sample("operator", payload, now)


def _sample(kind: Kind, payload: dict[str, object], now: datetime) -> Message:
    marked = {**payload, "subject": f"Test: {payload['subject']}"}
    return of_payload(marked, key=uuid4(), kind=kind, reference=REFERENCE, created_at=now)
