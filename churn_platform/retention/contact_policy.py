"""When a case is opened, updated and closed. Pure: the worker reads what is decided here and writes the result."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

# A case closes when the risk falls below this share of the threshold: 0.56 for a threshold of 0.7. With a smaller
# distance, a customer near the threshold would get a new case every few events.
CLOSING_SHARE: Final = 0.8


@dataclass(frozen=True)
class ContactPolicy:
    """The rules for cases.

    Attributes:
        threshold: risk score from which a case is opened, 0..1.
        cool_off: time after a call, or after a case was closed as lost, in which the customer gets no new case.
        expiry: age of the latest event from which a customer who was not called has no case.
    """

    threshold: float
    cool_off: timedelta
    expiry: timedelta

    @property
    def closing_threshold(self) -> float:
        """Risk score below which a case is closed."""
        return self.threshold * CLOSING_SHARE


@dataclass(frozen=True)
class OpenCase:
    """A customer's case that is not closed, as far as decisions need it.

    Attributes:
        waits: for a call; else it waits for the outcome.
        event_timestamp: time of the latest event that it knows.
        kafka_offset: of that event.
    """

    waits: bool
    event_timestamp: datetime
    kafka_offset: int


@dataclass(frozen=True)
class Score:
    """A score of a customer, and what speaks against a new case.

    Attributes:
        risk: probability of churn, 0..1.
        event_timestamp: time of the event.
        kafka_offset: of the event; it decides which of two events with the same time is the later.
        last_contact: when the customer was last called; None if never.
        last_loss: when a case of the customer was last closed as lost; None if never. Events of a customer who has left
            go on for a while, and nobody needs to call about them.
        do_not_contact: whether the customer does not want to be called.
    """

    risk: float
    event_timestamp: datetime
    kafka_offset: int
    last_contact: datetime | None
    last_loss: datetime | None
    do_not_contact: bool


@dataclass(frozen=True)
class Opening:
    """The customer gets a case."""


@dataclass(frozen=True)
class Update:
    """The case has a new latest score. With a reason, it is closed as well."""

    closing_reason: str | None = None


def decide(score: Score, case: OpenCase | None, policy: ContactPolicy, *, now: datetime) -> Opening | Update | None:
    """Return what follows from a customer's latest score; None if nothing does.

    Args:
        score: the latest of the customer.
        case: of the customer, if one is not closed.
        policy: the rules.
        now: the time of the decision.
    """
    if case is not None:
        order = (score.event_timestamp, score.kafka_offset)
        if order < (case.event_timestamp, case.kafka_offset):
            return None
        # The case may know this event from the time after a call, which was taken back since.
        if case.waits and score.risk < policy.closing_threshold:
            return Update(f"The risk fell to {score.risk:.0%}.")
        return Update() if order > (case.event_timestamp, case.kafka_offset) else None
    cools_off = any(
        moment is not None and now - moment < policy.cool_off for moment in (score.last_contact, score.last_loss)
    )
    is_recent = now - score.event_timestamp < policy.expiry
    may_be_called = is_recent and not cools_off and not score.do_not_contact
    return Opening() if score.risk >= policy.threshold and may_be_called else None
