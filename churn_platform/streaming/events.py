"""Customer events: their schema, and the decoding of Kafka messages into columns and dead letters."""

import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Final, Literal, Protocol

import msgspec
import numpy as np
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from numpy.typing import NDArray

from churn_platform.streaming.reasons import described, explain

# Namespace of ids that are not UUIDs. Fixed for ever: the same text must map to the same event_id.
EVENT_NAMESPACE: Final = uuid.UUID("5f2f7f0e-5d0c-4c51-9b7a-0f3a6a0e7c11")
MICROSECONDS: Final = 1_000_000
# Kafka's timestamps are any 64 bits; these are the milliseconds of years 1 to 9999, which Python and PostgreSQL know.
KNOWN_MILLISECONDS: Final = range(-62_135_596_800_000, 253_402_300_800_000)

_HEX: Final = "[0-9a-fA-F]"
_UUID_FORM: Final = re.compile(
    rf"(?P<brace>\{{)?(?:urn:uuid:)?(?:(?P<hyphened>{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}})|(?P<bare>{_HEX}{{32}}))"
    r"(?(brace)\})"
)

Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]
Money = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]


class Customer(msgspec.Struct, gc=False):
    """The customer's own fields, named as in the raw file; other fields are ignored. Money in euros, Age in years."""

    CustomerId: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    CreditScore: Annotated[int, msgspec.Meta(ge=300, le=900)]
    Geography: Literal["France", "Germany", "Spain"]
    Gender: Literal["Female", "Male"]
    Age: Annotated[float, msgspec.Meta(ge=18, le=120)] | None
    Tenure: Annotated[int, msgspec.Meta(ge=0, le=50)]
    Balance: Money
    NumOfProducts: Annotated[int, msgspec.Meta(ge=1, le=10)]
    HasCrCard: Flag
    IsActiveMember: Flag
    EstimatedSalary: Money


class IdentifiedEvent(Customer, gc=False, kw_only=True):
    """The usual event: its id is a UUID and its time is given."""

    event_id: uuid.UUID
    event_timestamp: Timestamp
    true_churn_label: Flag | None = None


class LooseEvent(Customer, gc=False, kw_only=True):
    """The event as other producers may send it: any text as id, or none; with or without a time."""

    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    event_timestamp: Timestamp | None = None
    true_churn_label: Flag | None = None


class Envelope(msgspec.Struct):
    """An event wrapped as {"timestamp": ..., "data": {...}}."""

    data: LooseEvent


class _Wrapped(msgspec.Struct):
    timestamp: msgspec.Raw
    data: msgspec.Raw


_decode_identified = msgspec.json.Decoder(IdentifiedEvent).decode
_decode_loose = msgspec.json.Decoder(LooseEvent).decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode

# What the fields may hold, for the reasons of dead letters.
FIELDS: Final = described(LooseEvent)
TOMBSTONE: Final = "The message has no value (null, a tombstone). An event is a JSON object."


class Received(Protocol):
    """What is decoded: a Kafka message, or something that stands for one before it is sent."""

    def value(self) -> bytes | None:
        """The bytes as sent."""

    def partition(self) -> int | None:
        """Kafka partition."""

    def offset(self) -> int | None:
        """Offset in that partition."""

    def timestamp(self) -> tuple[int, int]:
        """Kind of Kafka's timestamp, and milliseconds since 1970."""


@dataclass(frozen=True)
class DeadLetter:
    """A message that is not a valid event, kept with the reason in words."""

    kafka_partition: int
    kafka_offset: int
    reason: str
    payload: bytes | None
    kafka_timestamp_ms: int | None


@dataclass(frozen=True)
class EventColumns:
    """n valid events, column by column, in the order they were read.

    `customers` holds the raw columns that `FeatureTransform.transform` takes; Age is NaN where null.
    """

    event_id: NDArray[np.void]  # 16 bytes each
    event_ref: list[str | None]  # the id as sent, where it was not a UUID
    event_timestamp: NDArray[np.int64]  # microseconds since 1970, UTC
    timestamp_given: NDArray[np.bool_]  # False: event_timestamp is Kafka's own
    customer_id: NDArray[np.int64]
    customers: dict[str, NDArray[np.generic]]
    true_churn_label: NDArray[np.int16]  # -1 where unknown
    kafka_partition: NDArray[np.int32]
    kafka_offset: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.event_id)

    def select(self, keep: NDArray[np.bool_]) -> "EventColumns":
        """The events where `keep`, of shape (n,), is True."""
        return replace(
            self,
            event_id=self.event_id[keep],
            event_ref=[ref for ref, kept in zip(self.event_ref, keep.tolist(), strict=True) if kept],
            event_timestamp=self.event_timestamp[keep],
            timestamp_given=self.timestamp_given[keep],
            customer_id=self.customer_id[keep],
            customers={name: values[keep] for name, values in self.customers.items()},
            true_churn_label=self.true_churn_label[keep],
            kafka_partition=self.kafka_partition[keep],
            kafka_offset=self.kafka_offset[keep],
        )


@dataclass
class _Rows:
    """Decoded events on their way into columns."""

    events: list[IdentifiedEvent | LooseEvent] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    refs: list[str | None] = field(default_factory=list)
    timestamps: list[float] = field(default_factory=list)
    given: list[bool] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


def decode(
    messages: Sequence[Received], *, topic_id: str, accepts_from: datetime, accepts_until: datetime
) -> tuple[EventColumns, list[DeadLetter]]:
    """Messages without errors of their own, split into valid events and dead letters; none is lost.

    Args:
        messages: in the order they were read.
        topic_id: Kafka's id of the topic; with partition and offset it identifies an event that has no id.
        accepts_from: earliest event time that is valid.
        accepts_until: latest event time that is valid.

    Returns:
        The events as columns, and the dead letters in the order they were read.
    """
    rows, dead = _Rows(), []
    for message in messages:
        try:
            _append(rows, message, topic_id)
        except (msgspec.DecodeError, ValueError, RecursionError) as problem:
            value = message.value()
            reason = TOMBSTONE if value is None else explain(value, problem, FIELDS)
            dead.append(dead_letter(message, reason))
    columns = _columns(rows)
    early = columns.event_timestamp < round(accepts_from.timestamp() * MICROSECONDS)
    late = columns.event_timestamp > round(accepts_until.timestamp() * MICROSECONDS)
    if not (early | late).any():
        return columns, dead
    out = {(columns.kafka_partition[i], columns.kafka_offset[i]): i for i in np.flatnonzero(early | late)}
    for message in messages:
        index = out.get((message.partition(), message.offset()))
        if index is not None:
            moment = np.datetime64(int(columns.event_timestamp[index]), "us")
            source = (
                "event_timestamp"
                if columns.timestamp_given[index]
                else "Kafka's timestamp, which counts where there is no event_timestamp,"
            )
            bound = (
                f"before {accepts_from.isoformat()}, where the hourly partitions start (STREAM_EPOCH)"
                if early[index]
                else f"after {accepts_until.isoformat()}, the latest that this batch takes"
            )
            dead.append(dead_letter(message, f"{source} {moment}Z is {bound}"))
    return columns.select(~(early | late)), dead


def dead_letter(message: Received, reason: str) -> DeadLetter:
    """The message as a dead letter, for this reason."""
    kind, milliseconds = message.timestamp()
    return DeadLetter(
        kafka_partition=_known(message.partition()),
        kafka_offset=_known(message.offset()),
        reason=reason,
        payload=message.value(),
        kafka_timestamp_ms=None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds,
    )


def _known(number: int | None) -> int:
    if number is None:
        raise TypeError("A message that was read has a partition and an offset; this one has none.")
    return number


def positional_id(topic_id: str, partition: int, offset: int) -> uuid.UUID:
    """Id of an event that was sent without one, and of the corrected event for a dead letter: where it was in Kafka."""
    return uuid.uuid5(EVENT_NAMESPACE, f"{topic_id}/{partition}/{offset}")


def _append(rows: _Rows, message: Received, topic_id: str) -> None:
    value = message.value()
    if value is None:
        raise ValueError(TOMBSTONE)
    event: IdentifiedEvent | LooseEvent
    try:
        event = _decode_identified(value)
    except msgspec.ValidationError:
        event = _decode_any(value)
    partition, offset = _known(message.partition()), _known(message.offset())
    if isinstance(event, IdentifiedEvent):
        event_id, ref, moment, given = event.event_id.bytes, None, event.event_timestamp.timestamp(), True
    else:
        identity = _identity(event.event_id) if event.event_id else positional_id(topic_id, partition, offset)
        event_id, ref = identity.bytes, None if event.event_id is None or _as_uuid(event.event_id) else event.event_id
        given = event.event_timestamp is not None
        moment = event.event_timestamp.timestamp() if event.event_timestamp else _kafka_time(message)
    rows.events.append(event)
    rows.ids.append(event_id)
    rows.refs.append(ref)
    rows.timestamps.append(moment)
    rows.given.append(given)
    rows.partitions.append(partition)
    rows.offsets.append(offset)


def _decode_any(value: bytes) -> LooseEvent:
    try:
        return _decode_loose(value)
    except msgspec.ValidationError:
        try:
            _decode_wrapped(value)
        except msgspec.ValidationError:
            wrapped = False
        else:
            wrapped = True
        if not wrapped:
            raise
    return _decode_envelope(value).data


def _as_uuid(text: str) -> uuid.UUID | None:
    """The UUID that a text is, in capitals, in braces or as a URN too; None where it is none."""
    written = _UUID_FORM.fullmatch(text)
    return None if written is None else uuid.UUID(written["hyphened"] or written["bare"])


def _identity(sent: str) -> uuid.UUID:
    if "\0" in sent:
        raise ValueError("event_id holds U+0000, which PostgreSQL cannot store as text.")
    return _as_uuid(sent) or uuid.uuid5(EVENT_NAMESPACE, sent)


def _kafka_time(message: Received) -> float:
    kind, milliseconds = message.timestamp()
    if kind == TIMESTAMP_NOT_AVAILABLE:
        raise ValueError("There is no event_timestamp, and the message has no Kafka timestamp either.")
    if milliseconds not in KNOWN_MILLISECONDS:
        raise ValueError(
            f"There is no event_timestamp, and Kafka's timestamp, {milliseconds} ms since 1970, is not in years 1 to "
            f"9999. Is it in microseconds or nanoseconds?"
        )
    return milliseconds / 1000


def _columns(rows: _Rows) -> EventColumns:
    events: Sequence[IdentifiedEvent | LooseEvent] = rows.events
    count = len(events)

    def numbers(values: Iterable[float], kind: type) -> NDArray[np.generic]:
        return np.fromiter(values, kind, count)

    # One pass per field: about 4 ms each for 100,000 events, where a record array of tuples takes ten times that.
    customers: dict[str, NDArray[np.generic]] = {
        "CreditScore": numbers((e.CreditScore for e in events), np.int16),
        "Geography": np.array([e.Geography for e in events], object),
        "Gender": np.array([e.Gender for e in events], object),
        "Age": numbers((np.nan if e.Age is None else e.Age for e in events), np.float32),
        "Tenure": numbers((e.Tenure for e in events), np.int16),
        "Balance": numbers((e.Balance for e in events), np.float64),
        "NumOfProducts": numbers((e.NumOfProducts for e in events), np.int16),
        "HasCrCard": numbers((e.HasCrCard for e in events), np.int16),
        "IsActiveMember": numbers((e.IsActiveMember for e in events), np.int16),
        "EstimatedSalary": numbers((e.EstimatedSalary for e in events), np.float64),
    }
    return EventColumns(
        event_id=np.frombuffer(b"".join(rows.ids), "V16"),
        event_ref=rows.refs,
        event_timestamp=np.rint(np.array(rows.timestamps, np.float64) * MICROSECONDS).astype(np.int64),
        timestamp_given=np.array(rows.given, np.bool_),
        customer_id=np.fromiter((e.CustomerId for e in events), np.int64, count),
        customers=customers,
        true_churn_label=np.fromiter(
            (-1 if e.true_churn_label is None else e.true_churn_label for e in events), np.int16, count
        ),
        kafka_partition=np.array(rows.partitions, np.int32),
        kafka_offset=np.array(rows.offsets, np.int64),
    )
