"""Decoding of customer events: Kafka messages become columns, or dead letters with the reason. Pure; no I/O."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any, Final, cast

import msgspec
import numpy as np
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from numpy.typing import NDArray

from churn_platform.decoding.event_ids import UUID_CHARACTERS, as_uuid, canonical_event_id, positional_id, uuid_bytes
from churn_platform.decoding.fields import (
    EVENT_ID_TEXT,
    FLAG_TEXT,
    TIMESTAMP_TEXT,
    EventId,
    Flag,
    Timestamp,
    customer_fields,
    define_message,
)
from churn_platform.decoding.reasons import explain
from churn_platform.kafka.messages import KNOWN_MILLISECONDS, UNIX_EPOCH, Received, offset_of, partition_of
from churn_platform.schema.customer_schema import CustomerSchema

MICROSECONDS: Final = 1_000_000
TOMBSTONE: Final = "The message has no value (null, a tombstone). An event is a JSON object."


class Event(msgspec.Struct, gc=False, kw_only=True):
    """An event without its customer: any text as id, or none; with or without a time. Usually the id is a UUID.

    `EventDecoder` adds the customer's fields. It ignores all others.
    """

    event_id: EventId | None = None
    event_timestamp: Timestamp | None = None
    true_churn_label: Flag | None = None


_FIELDS: Final = {
    "event_id": f"{EVENT_ID_TEXT} or null",
    "event_timestamp": f"{TIMESTAMP_TEXT} or null",
    "true_churn_label": f"{FLAG_TEXT} or null",
}


class Envelope(msgspec.Struct):
    """An event wrapped as {"timestamp": ..., "data": {...}}."""

    data: Event


class _Wrapped(msgspec.Struct):
    timestamp: msgspec.Raw
    data: msgspec.Raw


_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode


@dataclass(frozen=True)
class DeadLetter:
    """A message that is not a valid event, kept with the reason as text."""

    kafka_partition: int
    kafka_offset: int
    reason: str
    payload: bytes | None
    kafka_timestamp_ms: int | None


@dataclass(frozen=True)
class EventColumns:
    """n valid events, column by column, in the order they were read.

    Attributes:
        event_id: 16 bytes each.
        event_ref: the id as sent, a str, if it is not a UUID; else None.
        event_timestamp: microseconds since 1970, UTC.
        timestamp_given: False if event_timestamp is Kafka's.
        customer_id: int64, or a str each if the schema's ids are texts.
        customers: column name -> raw values, which `FeatureTransform.transform` takes. It has the schema's `inputs`.
        true_churn_label: -1 if it is unknown.
        kafka_partition: where the event was read from.
        kafka_offset: and its number there.
    """

    event_id: NDArray[np.void]
    event_ref: NDArray[np.object_]
    event_timestamp: NDArray[np.int64]
    timestamp_given: NDArray[np.bool_]
    customer_id: NDArray[np.int64] | NDArray[np.object_]
    customers: dict[str, NDArray[Any]]
    true_churn_label: NDArray[np.int16]
    kafka_partition: NDArray[np.int32]
    kafka_offset: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.event_id)

    def select(self, keep: NDArray[np.bool_]) -> "EventColumns":
        """Return the events where `keep`, of shape (n,), is True."""
        return replace(
            self,
            event_id=self.event_id[keep],
            event_ref=self.event_ref[keep],
            event_timestamp=self.event_timestamp[keep],
            timestamp_given=self.timestamp_given[keep],
            customer_id=self.customer_id[keep],
            customers={name: values[keep] for name, values in self.customers.items()},
            true_churn_label=self.true_churn_label[keep],
            kafka_partition=self.kafka_partition[keep],
            kafka_offset=self.kafka_offset[keep],
        )


@dataclass
class _Decoded:
    """Messages whose JSON is an event, each with an id of 36 characters and a time; and dead letters.

    Attributes:
        events: the decoded JSON.
        messages: of the events.
        refs: index of an event -> its id as sent, if that is not a UUID.
        untimed: indices of the events whose time is Kafka's.
        dead: the other messages.
    """

    events: list[Event] = field(default_factory=list)
    messages: list[Received] = field(default_factory=list)
    refs: dict[int, str] = field(default_factory=dict)
    untimed: list[int] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)


class EventDecoder:
    """Decodes the events of the customers of a schema. Making one takes milliseconds: see `event_decoder`."""

    def __init__(self, schema: CustomerSchema) -> None:
        """Define the message type of the schema.

        Args:
            schema: of the customers.
        """
        fields = customer_fields([schema.by_name[name] for name in schema.event_fields])
        complete = define_message("CompleteEvent", fields, Event)
        enveloped = msgspec.defstruct("CompleteEnvelope", [("data", complete)], bases=(Envelope,))
        self._identity, self._inputs = fields[0], fields[1:]
        self.message: type[Event] = cast("type[Event]", complete)
        """Type of an event with the customer's fields. Its JSON Schema describes what `decode` takes."""
        self._decode_event = msgspec.json.Decoder(self.message).decode
        self._decode_envelope = msgspec.json.Decoder(cast("type[Envelope]", enveloped)).decode
        self.fields: Mapping[str, str] = {**_FIELDS, **{field.column.name: field.allowed for field in fields}}
        """Name of each field -> what it may hold, as text."""

    def decode(
        self, messages: Sequence[Received], *, topic_id: str, accepts_from: datetime, accepts_until: datetime
    ) -> tuple[EventColumns, list[DeadLetter]]:
        """Decode messages. Each becomes a valid event or a dead letter.

        Args:
            messages: in the order they were read. None of them is an error of the consumer.
            topic_id: Kafka's id of the topic. With partition and offset it identifies an event that has no id.
            accepts_from: earliest event time that is valid.
            accepts_until: latest event time that is valid.

        Returns:
            The events as columns, and the dead letters.
        """
        decoded = self._decode_all(messages, topic_id, assume_uuids=True)
        ids = _ids(decoded)
        if ids is None:  # an id of 36 characters is not a UUID
            decoded = self._decode_all(messages, topic_id, assume_uuids=False)
            ids = _ids(decoded)
        if ids is None:
            raise RuntimeError("Every event has a UUID now, but not all of them can be read as such.")
        columns = self._columns(decoded, ids)
        refused = dict(_wrong_times(columns, accepts_from, accepts_until)) | dict(self._wrong_values(columns))
        if not refused:
            return columns, decoded.dead
        decoded.dead += [dead_letter(decoded.messages[index], refused[index]) for index in sorted(refused)]
        keep = np.ones(len(columns), np.bool_)
        keep[list(refused)] = False
        return columns.select(keep), decoded.dead

    def _decode_all(self, messages: Sequence[Received], topic_id: str, *, assume_uuids: bool) -> _Decoded:
        """Decode the JSON of messages, one by one.

        Args:
            messages: see `decode`.
            topic_id: see `decode`.
            assume_uuids: do not check ids of 36 characters: checking all of them at once is faster.
        """
        found = _Decoded()
        events, kept, decode_event = found.events, found.messages, self._decode_event
        for message in messages:
            value = message.value()
            try:
                if value is None:
                    raise ValueError(TOMBSTONE)  # noqa: TRY301  one place for every message that is not an event
                try:
                    event = decode_event(value)
                except msgspec.ValidationError:
                    event = self._unwrap(value)
                event_id = event.event_id
                if event_id is None or len(event_id) != UUID_CHARACTERS or not assume_uuids:
                    _identify(event, message, topic_id, len(events), found.refs)
                if event.event_timestamp is None:
                    event.event_timestamp = kafka_time(message)
                    found.untimed.append(len(events))
            except (msgspec.DecodeError, ValueError, RecursionError) as problem:
                found.refs.pop(len(events), None)
                reason = TOMBSTONE if value is None else explain(value, problem, self.fields)
                found.dead.append(dead_letter(message, reason))
            else:
                events.append(event)
                kept.append(message)
        return found

    def _unwrap(self, value: bytes) -> Event:
        """Return the event in an envelope.

        Raises:
            msgspec.ValidationError: what is wrong with it; for a value that is not an envelope, what is wrong with the
                event.
        """
        try:
            _decode_wrapped(value)
        except msgspec.ValidationError:
            return self._decode_event(value)
        return self._decode_envelope(value).data

    def _columns(self, decoded: _Decoded, ids: NDArray[np.void]) -> EventColumns:
        events, count = decoded.events, len(decoded.events)

        # One pass per field: about 4 ms each for 100,000 events. A record array of tuples takes ten times that.
        def values(attribute: str) -> Iterator[Any]:
            return map(attrgetter(attribute), events)

        timestamps = np.fromiter((t.timestamp() for t in values("event_timestamp")), np.float64, count)
        timestamp_given = np.ones(count, np.bool_)
        timestamp_given[decoded.untimed] = False
        references = np.full(count, None, object)
        for index, reference in decoded.refs.items():
            references[index] = reference
        return EventColumns(
            event_id=ids,
            event_ref=references,
            event_timestamp=np.rint(timestamps * MICROSECONDS).astype(np.int64),
            timestamp_given=timestamp_given,
            customer_id=self._identity.to_array(values(self._identity.attribute), count),
            customers={field.column.name: field.to_array(values(field.attribute), count) for field in self._inputs},
            true_churn_label=np.fromiter(
                (-1 if label is None else label for label in values("true_churn_label")), np.int16, count
            ),
            kafka_partition=np.array([message.partition() for message in decoded.messages], np.int32),
            kafka_offset=np.array([message.offset() for message in decoded.messages], np.int64),
        )

    def _wrong_values(self, columns: EventColumns) -> Iterator[tuple[int, str]]:
        """Yield the index of each event with a value that its type allows and the schema does not, and the reason."""
        yield from self._identity.wrong_values(columns.customer_id)
        for each in self._inputs:
            yield from each.wrong_values(columns.customers[each.column.name])


@cache
def event_decoder(schema: CustomerSchema) -> EventDecoder:
    """Return the decoder of a schema, the same one each time."""
    return EventDecoder(schema)


def dead_letter(message: Received, reason: str) -> DeadLetter:
    """Return the message as a dead letter, for this reason."""
    kind, milliseconds = message.timestamp()
    return DeadLetter(
        kafka_partition=partition_of(message),
        kafka_offset=offset_of(message),
        reason=reason,
        payload=message.value(),
        kafka_timestamp_ms=None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds,
    )


def kafka_time(message: Received, instead_of: str = "event_timestamp") -> datetime:
    """Return Kafka's time of a message, UTC, for a message whose value has no time.

    Args:
        message: the message.
        instead_of: name of the field that the value does not have.

    Raises:
        ValueError: Kafka has no time either, or one outside the calendar.
    """
    kind, milliseconds = message.timestamp()
    if kind == TIMESTAMP_NOT_AVAILABLE:
        raise ValueError(f"There is no {instead_of}, and the message has no Kafka timestamp either.")
    if milliseconds not in KNOWN_MILLISECONDS:
        raise ValueError(
            f"There is no {instead_of}, and Kafka's timestamp, {milliseconds} ms since 1970, is not in years 1 to "
            f"9999. Is it in microseconds or nanoseconds?"
        )
    return UNIX_EPOCH + timedelta(milliseconds=milliseconds)


def _ids(decoded: _Decoded) -> NDArray[np.void] | None:
    return uuid_bytes([event.event_id or "" for event in decoded.events])


def _identify(event: Event, message: Received, topic_id: str, index: int, refs: dict[int, str]) -> None:
    """Replace the id of an event by a UUID.

    Args:
        event: its id is a UUID in any form, another text, or None, for which its place in Kafka identifies it.
        message: of the event.
        topic_id: Kafka's id of the topic.
        index: of the event.
        refs: receives an id that is not a UUID.

    Raises:
        ValueError: PostgreSQL cannot store the id.
    """
    sent = event.event_id
    if sent is None:
        identity = positional_id(topic_id, partition_of(message), offset_of(message))
    elif (written := as_uuid(sent)) is not None:
        identity = written
    elif "\0" in sent:
        raise ValueError("event_id holds U+0000, which PostgreSQL cannot store as text.")
    else:
        identity, refs[index] = canonical_event_id(sent), sent
    event.event_id = str(identity)


def _wrong_times(columns: EventColumns, accepts_from: datetime, accepts_until: datetime) -> Iterator[tuple[int, str]]:
    """Yield the index of each event whose time is not accepted, and the reason."""
    early = columns.event_timestamp < round(accepts_from.timestamp() * MICROSECONDS)
    late = columns.event_timestamp > round(accepts_until.timestamp() * MICROSECONDS)
    for index in np.flatnonzero(early | late).tolist():
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
        yield index, f"{source} {moment}Z is {bound}"
