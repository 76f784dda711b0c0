"""Customer events: their schema, and the decoding of Kafka messages into columns and dead letters."""

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, cast

import msgspec
import numpy as np
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from numpy.typing import NDArray

from churn_platform.decoding.reasons import described, explain
from churn_platform.features.columns import INPUT_COLUMNS
from churn_platform.kafka.messages import KNOWN_MILLISECONDS, UNIX_EPOCH, Received
from churn_platform.schema.columns import COLUMNS_BY_NAME, CUSTOMER_ID, Column

# Namespace of ids that are not UUIDs. Fixed forever: the same text must map to the same event_id.
EVENT_NAMESPACE: Final = uuid.UUID("5f2f7f0e-5d0c-4c51-9b7a-0f3a6a0e7c11")
MICROSECONDS: Final = 1_000_000
UUID_CHARACTERS: Final = 36

_HYPHENS: Final = (8, 13, 18, 23)
_HEX: Final = "[0-9a-fA-F]"
_UUID_FORM: Final = re.compile(
    rf"(?P<brace>\{{)?(?:urn:uuid:)?(?:(?P<hyphened>{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}})|(?P<bare>{_HEX}{{32}}))"
    r"(?(brace)\})"
)

Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]


def _field(column: Column) -> tuple[str, Any]:
    """Name and type of the customer's field: what the files may have in this column, and null only if it is imputed."""
    bounds = msgspec.Meta(ge=column.minimum, le=column.maximum)
    literal: Any = Literal  # its values come from the column: too late for a type checker
    types = {"whole": Annotated[int, bounds], "number": Annotated[float, bounds]}
    kind = literal[column.categories] if column.kind == "category" else types[column.kind]
    return column.name, kind | None if column.missing == "imputed" else kind


class Event(msgspec.Struct, gc=False, kw_only=True):
    """An event as producers send it: any text as id, or none; with or without a time. Usually the id is a UUID.

    The customer's own fields are those of the schema, and so are the values that they may have; `CompleteEvent` has
    them. Other fields are ignored.
    """

    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    event_timestamp: Timestamp | None = None
    true_churn_label: Flag | None = None


class Envelope(msgspec.Struct):
    """An event wrapped as {"timestamp": ..., "data": {...}}."""

    data: Event


CUSTOMER_FIELDS: Final = (CUSTOMER_ID, *INPUT_COLUMNS)
_defined = msgspec.defstruct(
    "CompleteEvent",
    [_field(COLUMNS_BY_NAME[name]) for name in CUSTOMER_FIELDS],
    bases=(Event,),
    gc=False,
    kw_only=True,
)
CompleteEvent: Final = cast("type[Event]", _defined)
_enveloped = msgspec.defstruct("CompleteEnvelope", [("data", CompleteEvent)], bases=(Envelope,))


class _Wrapped(msgspec.Struct):
    timestamp: msgspec.Raw
    data: msgspec.Raw


_decode_event = msgspec.json.Decoder(CompleteEvent).decode
_decode_envelope = msgspec.json.Decoder(cast("type[Envelope]", _enveloped)).decode
_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode

# What the fields may hold, for the reasons of dead letters.
FIELDS: Final = described(CompleteEvent)
TOMBSTONE: Final = "The message has no value (null, a tombstone). An event is a JSON object."


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

    `customers` holds the raw columns that `FeatureTransform.transform` takes; Age is NaN where null.
    """

    event_id: NDArray[np.void]  # 16 bytes each
    event_ref: NDArray[np.object_]  # the id as sent, a str, where it was not a UUID; else None
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
    """Events that are valid but for their time, each with a UUID as 36 characters and a time, and their messages."""

    events: list[Event] = field(default_factory=list)
    messages: list[Received] = field(default_factory=list)
    refs: dict[int, str] = field(default_factory=dict)  # by index: ids as sent that were no UUID
    untimed: list[int] = field(default_factory=list)  # indices of those whose time is Kafka's own
    dead: list[DeadLetter] = field(default_factory=list)


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
    decoded = _decode_all(messages, topic_id, trust=True)
    ids = _uuid_bytes(decoded.events)
    if ids is None:  # among the texts of 36 characters is one that is no UUID
        decoded = _decode_all(messages, topic_id, trust=False)
        ids = _uuid_bytes(decoded.events)
    if ids is None:
        raise RuntimeError("Every id is a UUID now, yet not all of them can be read as such.")
    columns, dead = _columns(decoded, ids), decoded.dead
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


def canonical_event_id(sent: str) -> uuid.UUID:
    """The event_id that churn_predictions has for an id as it was sent: the same UUID, or one made of another text."""
    return _as_uuid(sent) or uuid.uuid5(EVENT_NAMESPACE, sent)


def _decode_all(messages: Sequence[Received], topic_id: str, *, trust: bool) -> _Decoded:
    """Events and dead letters. `trust`: 36 characters are taken for a UUID, to be checked for all events at once."""
    found = _Decoded()
    events, kept = found.events, found.messages
    for message in messages:
        value = message.value()
        try:
            if value is None:
                raise ValueError(TOMBSTONE)  # noqa: TRY301  one place for all that is no event
            try:
                event = _decode_event(value)
            except msgspec.ValidationError:
                event = _unwrapped(value)
            event_id = event.event_id
            if event_id is None or len(event_id) != UUID_CHARACTERS or not trust:
                _identify(event, message, topic_id, len(events), found.refs)
            if event.event_timestamp is None:
                event.event_timestamp = kafka_time(message)
                found.untimed.append(len(events))
        except (msgspec.DecodeError, ValueError, RecursionError) as problem:
            found.refs.pop(len(events), None)
            reason = TOMBSTONE if value is None else explain(value, problem, FIELDS)
            found.dead.append(dead_letter(message, reason))
        else:
            events.append(event)
            kept.append(message)
    return found


def _unwrapped(value: bytes) -> Event:
    """The event in an envelope.

    Raises:
        msgspec.ValidationError: what is wrong with it; for a value that is no envelope, what is wrong with the event.
    """
    try:
        _decode_wrapped(value)
    except msgspec.ValidationError:
        return _decode_event(value)
    return _decode_envelope(value).data


def _identify(event: Event, message: Received, topic_id: str, index: int, refs: dict[int, str]) -> None:
    """Give the event the UUID that its id is or stands for, or its position does; `refs` keeps an id that is none."""
    sent = event.event_id
    if sent is None:
        identity = positional_id(topic_id, _known(message.partition()), _known(message.offset()))
    elif (written := _as_uuid(sent)) is not None:
        identity = written
    elif "\0" in sent:
        raise ValueError("event_id holds U+0000, which PostgreSQL cannot store as text.")
    else:
        identity, refs[index] = canonical_event_id(sent), sent
    event.event_id = str(identity)


def _uuid_bytes(events: Sequence[Event]) -> NDArray[np.void] | None:
    """The ids, 36 characters each, as 16 bytes each; None if one of them is not written as a UUID usually is."""
    text = "\n".join([event.event_id or "" for event in events]) + "\n"
    raw = text.encode()
    if not events:
        return np.empty(0, "V16")
    if len(raw) != len(events) * (UUID_CHARACTERS + 1):
        return None
    characters = np.frombuffer(raw, np.uint8).reshape(len(events), UUID_CHARACTERS + 1)
    if not (characters[:, _HYPHENS] == ord("-")).all() or not (characters[:, -1] == ord("\n")).all():
        return None
    try:
        ids = bytes.fromhex(text.replace("-", ""))  # skips the line breaks
    except ValueError:
        return None
    return np.frombuffer(ids, "V16") if len(ids) == 16 * len(events) else None


def _as_uuid(text: str) -> uuid.UUID | None:
    """The UUID that a text is, in capitals, in braces or as a URN too; None where it is none."""
    written = _UUID_FORM.fullmatch(text)
    return None if written is None else uuid.UUID(written["hyphened"] or written["bare"])


def kafka_time(message: Received, instead_of: str = "event_timestamp") -> datetime:
    """Kafka's own time of a message, UTC, where it has none in its value.

    Raises:
        ValueError: there is none either, or one that no calendar knows.
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


def _columns(decoded: _Decoded, ids: NDArray[np.void]) -> EventColumns:
    events, count = decoded.events, len(decoded.events)

    def values(name: str) -> Iterator[Any]:
        return map(attrgetter(name), events)

    def numbers(name: str, kind: type[np.generic]) -> NDArray[np.generic]:
        return np.fromiter(values(name), kind, count)

    # One pass per field: about 4 ms each for 100,000 events, where a record array of tuples takes ten times that.
    customers: dict[str, NDArray[np.generic]] = {
        "CreditScore": numbers("CreditScore", np.int16),
        "Geography": np.array(list(values("Geography")), object),
        "Gender": np.array(list(values("Gender")), object),
        "Age": np.array(list(values("Age")), np.float32),  # null becomes NaN
        "Tenure": numbers("Tenure", np.int16),
        "Balance": numbers("Balance", np.float64),
        "NumOfProducts": numbers("NumOfProducts", np.int16),
        "HasCrCard": numbers("HasCrCard", np.int16),
        "IsActiveMember": numbers("IsActiveMember", np.int16),
        "EstimatedSalary": numbers("EstimatedSalary", np.float64),
    }
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
        customer_id=np.fromiter(values("CustomerId"), np.int64, count),
        customers=customers,
        true_churn_label=np.fromiter(
            (-1 if label is None else label for label in values("true_churn_label")), np.int16, count
        ),
        kafka_partition=np.array([message.partition() for message in decoded.messages], np.int32),
        kafka_offset=np.array([message.offset() for message in decoded.messages], np.int64),
    )
