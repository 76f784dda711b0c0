"""Decoding of outcome messages: the rules that accept or reject one. Pure; no I/O."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec

from churn_platform.decoding.events import Flag, Timestamp, canonical_event_id, kafka_time
from churn_platform.decoding.reasons import LONGEST_REASON, described, explain, printable
from churn_platform.kafka.messages import Received, offset_of, partition_of


class OutcomeMessage(msgspec.Struct, gc=False, kw_only=True):
    """The JSON of an outcome message: about the event with this id, or about all earlier predictions of a customer."""

    true_churn_label: Flag
    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    CustomerId: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None
    outcome_timestamp: Timestamp | None = None


FIELDS: Final = described(OutcomeMessage)
_decode_json = msgspec.json.Decoder(OutcomeMessage).decode


@dataclass(frozen=True)
class Outcome:
    """A valid outcome. At least one of event_id and customer_id is set; churned is 0 or 1."""

    kafka_partition: int
    kafka_offset: int
    event_id: UUID | None
    customer_id: int | None
    churned: int
    outcome_timestamp: datetime
    payload: bytes | None


@dataclass(frozen=True)
class RejectedOutcome:
    """A message that is not a valid outcome, with a human-readable reason."""

    kafka_partition: int
    kafka_offset: int
    reason: str
    payload: bytes | None


def decode(message: Received, accepts_from: datetime, accepts_until: datetime) -> Outcome | RejectedOutcome:
    """Return the outcome in a message, or the reason why there is none. No content of a message makes this raise.

    Args:
        message: as it was read.
        accepts_from: earliest time that an outcome may have.
        accepts_until: latest time that an outcome may have.
    """
    partition, offset, value = partition_of(message), offset_of(message), message.value()
    try:
        return _decode_valid(message, value, accepts_from, accepts_until)
    except Exception as problem:  # of any kind: one message must not block the messages behind it
        return RejectedOutcome(partition, offset, _reason(value, problem), value)


def _decode_valid(message: Received, value: bytes | None, accepts_from: datetime, accepts_until: datetime) -> Outcome:
    if value is None:
        raise ValueError("The message has no value (null, a tombstone). An outcome is a JSON object.")
    outcome = _decode_json(value)
    if outcome.event_id is None and outcome.CustomerId is None:
        raise ValueError("There is neither an event_id nor a CustomerId: one of them is required.")
    if outcome.event_id is not None and "\0" in outcome.event_id:
        raise ValueError("event_id contains U+0000, which no event's id contains.")
    given = outcome.outcome_timestamp
    moment = kafka_time(message, "outcome_timestamp") if given is None else given
    _require_within(moment, accepts_from, accepts_until, is_from_kafka=given is None)
    return Outcome(
        kafka_partition=partition_of(message),
        kafka_offset=offset_of(message),
        event_id=None if outcome.event_id is None else canonical_event_id(outcome.event_id),
        customer_id=outcome.CustomerId,
        churned=outcome.true_churn_label,
        # Converted after the check, because a time at either end of the calendar has no equivalent in UTC.
        outcome_timestamp=moment.astimezone(UTC),
        payload=value,
    )


def _require_within(moment: datetime, accepts_from: datetime, accepts_until: datetime, *, is_from_kafka: bool) -> None:
    """Reject a time that no outcome can have.

    Raises:
        ValueError: the time is too early or too late. The message names the usual cause.
    """
    name = "Kafka's timestamp, used when there is no outcome_timestamp," if is_from_kafka else "outcome_timestamp"
    if moment < accepts_from:
        seconds = " Is it in seconds instead of milliseconds?" if is_from_kafka else ""
        raise ValueError(
            f"{name} {moment.isoformat()} is before {accepts_from.isoformat()}, where the platform's events start "
            f"(STREAM_EPOCH).{seconds}"
        )
    if moment > accepts_until:
        raise ValueError(
            f"{name} {moment.isoformat()} is after {accepts_until.isoformat()}, the latest time accepted: an outcome "
            f"must be in the past. Is the producer's clock or its time zone wrong?"
        )


def _reason(value: bytes | None, problem: Exception) -> str:
    if value is None:
        return str(problem)
    try:
        return explain(value, problem, FIELDS)
    except Exception:  # a message that cannot be explained is rejected with the error's own text
        return printable(f"{type(problem).__name__}: {problem}")[:LONGEST_REASON]
