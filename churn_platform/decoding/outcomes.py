"""Decoding of outcome messages: the rules that accept or reject one. Pure; no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import Final, cast
from uuid import UUID

import msgspec

from churn_platform.decoding.event_ids import canonical_event_id
from churn_platform.decoding.events import kafka_time
from churn_platform.decoding.fields import (
    EVENT_ID_TEXT,
    FLAG_TEXT,
    TIMESTAMP_TEXT,
    CustomerField,
    EventId,
    Flag,
    Timestamp,
    define_message,
)
from churn_platform.decoding.reasons import LONGEST_REASON, explain, printable
from churn_platform.kafka.messages import Received, offset_of, partition_of
from churn_platform.schema.customer_schema import CustomerSchema


class OutcomeMessage(msgspec.Struct, gc=False, kw_only=True):
    """The JSON of an outcome message without the customer's id, which `OutcomeDecoder` adds.

    It is about the event with this id, or about all earlier predictions of a customer.
    """

    true_churn_label: Flag
    event_id: EventId | None = None
    outcome_timestamp: Timestamp | None = None


_EVENT_ID: Final = {"event_id": f"{EVENT_ID_TEXT} or null"}
_LABEL: Final = {"true_churn_label": FLAG_TEXT}
_TIME: Final = {"outcome_timestamp": f"{TIMESTAMP_TEXT} or null"}


@dataclass(frozen=True)
class Outcome:
    """A valid outcome. At least one of event_id and customer_id is set; churned is 0 or 1."""

    kafka_partition: int
    kafka_offset: int
    event_id: UUID | None
    customer_id: int | str | None
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


class OutcomeDecoder:
    """Decodes the outcomes of the customers of a schema. Making one takes milliseconds: see `outcome_decoder`."""

    def __init__(self, schema: CustomerSchema) -> None:
        """Define the message type of the schema.

        Args:
            schema: of the customers. The field of their id has the name of its column.
        """
        identity = CustomerField(schema.id_column, "customer_id", may_be_null=True, may_be_absent=True)
        message = define_message("CompleteOutcome", [identity], OutcomeMessage)
        self._customer_id = attrgetter(identity.attribute)
        self._id_name = schema.id
        self._decode_json = msgspec.json.Decoder(cast("type[OutcomeMessage]", message)).decode
        self.fields: Mapping[str, str] = {**_LABEL, **_EVENT_ID, schema.id: identity.allowed, **_TIME}
        """Name of each field -> what it may hold, as text."""

    def decode(self, message: Received, accepts_from: datetime, accepts_until: datetime) -> Outcome | RejectedOutcome:
        """Return the outcome in a message, or the reason why there is none. No content of a message makes this raise.

        Args:
            message: as it was read.
            accepts_from: earliest time that an outcome may have.
            accepts_until: latest time that an outcome may have.
        """
        partition, offset, value = partition_of(message), offset_of(message), message.value()
        try:
            return self._decode_valid(message, value, accepts_from, accepts_until)
        except Exception as problem:  # of any kind: one message must not block the messages behind it
            return RejectedOutcome(partition, offset, self._reason(value, problem), value)

    def _decode_valid(
        self, message: Received, value: bytes | None, accepts_from: datetime, accepts_until: datetime
    ) -> Outcome:
        if value is None:
            raise ValueError("The message has no value (null, a tombstone). An outcome is a JSON object.")
        outcome = self._decode_json(value)
        customer_id: int | str | None = self._customer_id(outcome)
        if outcome.event_id is None and customer_id is None:
            raise ValueError(f"There is neither an event_id nor a {self._id_name}: one of them is required.")
        if outcome.event_id is not None and "\0" in outcome.event_id:
            raise ValueError("event_id contains U+0000, which no event's id contains.")
        if isinstance(customer_id, str) and "\0" in customer_id:
            raise ValueError(f"{self._id_name} contains U+0000, which no customer's id contains.")
        given = outcome.outcome_timestamp
        moment = kafka_time(message, "outcome_timestamp") if given is None else given
        _require_within(moment, accepts_from, accepts_until, is_from_kafka=given is None)
        return Outcome(
            kafka_partition=partition_of(message),
            kafka_offset=offset_of(message),
            event_id=None if outcome.event_id is None else canonical_event_id(outcome.event_id),
            customer_id=customer_id,
            churned=outcome.true_churn_label,
            # Converted after the check, because a time at either end of the calendar has no equivalent in UTC.
            outcome_timestamp=moment.astimezone(UTC),
            payload=value,
        )

    def _reason(self, value: bytes | None, problem: Exception) -> str:
        if value is None:
            return str(problem)
        try:
            return explain(value, problem, self.fields)
        except Exception:  # a message that cannot be explained is rejected with the error's own text
            return printable(f"{type(problem).__name__}: {problem}")[:LONGEST_REASON]


@cache
def outcome_decoder(schema: CustomerSchema) -> OutcomeDecoder:
    """Return the decoder of a schema, the same one each time."""
    return OutcomeDecoder(schema)


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
