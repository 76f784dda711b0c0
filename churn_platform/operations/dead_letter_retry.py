"""Correct dead letters and send the corrected events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec
import psycopg
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE

from churn_platform.database import dead_letter_events
from churn_platform.database.dead_letter_events import StoredDeadLetter
from churn_platform.decoding.event_ids import positional_id
from churn_platform.decoding.events import event_decoder
from churn_platform.kafka.sending import send
from churn_platform.operations.exceptions import DeadLetterError
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.config import StreamConfig


@dataclass(frozen=True)
class Correction:
    """The corrected event for a dead letter."""

    dead_letter: StoredDeadLetter
    event_id: UUID
    key: str
    value: bytes


@dataclass(frozen=True)
class _Draft:
    """A corrected event in the form that the decoder accepts. It has no Kafka timestamp before it is sent."""

    dead_letter: StoredDeadLetter
    content: bytes

    def value(self) -> bytes:
        return self.content

    def partition(self) -> int:
        return self.dead_letter.kafka_partition

    def offset(self) -> int:
        return self.dead_letter.kafka_offset

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_NOT_AVAILABLE, 0


def find_one(
    connection: psycopg.Connection, partition: int, offset: int, *, topic_id: str | None = None
) -> StoredDeadLetter:
    """Return the dead letter at this place.

    Args:
        topic_id: Kafka's id of the topic, if several topics have a dead letter at this place.

    Raises:
        DeadLetterError: none or several topics have one.
    """
    found = dead_letter_events.find_at(connection, partition=partition, offset=offset, topic_id=topic_id)
    if not found:
        raise DeadLetterError(
            f"There is no dead letter at {partition}:{offset}.", remedy="'churn dlq list' lists the dead letters."
        )
    if len(found) > 1:
        several = ", ".join(f"{each.topic_id} ({each.topic})" for each in found)
        raise DeadLetterError(
            f"Several topics have a dead letter at {partition}:{offset}: {several}.", remedy="Choose with --topic-id."
        )
    return found[0]


def read_event(file: Path, schema: CustomerSchema) -> dict[str, object]:
    """Return the event in a JSON file.

    Raises:
        DeadLetterError: the file cannot be read or does not hold a JSON object.
    """
    try:
        return _event_in(file.read_bytes(), schema)
    except OSError as error:
        raise DeadLetterError(
            f"{file} cannot be read: {error.strerror}.", remedy="Name a file with the corrected event in --file."
        ) from error
    except ValueError as error:
        raise DeadLetterError(
            f"{file} does not hold an event, which is a JSON object: {error}.",
            remedy="Start from the payload that 'churn dlq show' prints.",
        ) from error


def correct(
    dead_letter: StoredDeadLetter,
    config: StreamConfig,
    *,
    changes: Mapping[str, object],
    event: Mapping[str, object] | None = None,
) -> Correction:
    """Return the event to send for a dead letter: its own content, or `event`, with the changes.

    Its id derives from the place of the dead letter, so that a dead letter that is retried twice counts once. An id in
    the payload is not used. An event without a time gets Kafka's timestamp of the dead letter, and counts in that hour.

    Raises:
        DeadLetterError: the dead letter is resolved, its payload is not a JSON object, or the event would be a dead
            letter again.
    """
    place = dead_letter.place
    if dead_letter.resolved_at is not None:
        raise DeadLetterError(f"{place} was resolved at {dead_letter.resolved_at.isoformat()}: its event was scored.")
    if event is None:
        try:
            event = _event_in(dead_letter.payload, config.schema)
        except ValueError as error:
            raise DeadLetterError(
                f"{place}: the payload is not a JSON object ({error}), so single fields cannot be corrected.",
                remedy="Write the whole event to a file: --file corrected.json",
            ) from error
    event_id = positional_id(dead_letter.topic_id, dead_letter.kafka_partition, dead_letter.kafka_offset)
    corrected: dict[str, object] = {**event, **changes, "event_id": str(event_id)}
    if corrected.get("event_timestamp") is None and dead_letter.kafka_timestamp is not None:
        corrected["event_timestamp"] = dead_letter.kafka_timestamp.astimezone(UTC).isoformat()
    draft = _Draft(dead_letter, msgspec.json.encode(corrected))
    _, refused = event_decoder(config.schema).decode(
        [draft],
        topic_id=dead_letter.topic_id,
        accepts_from=config.epoch,
        accepts_until=config.accepts_until(datetime.now(UTC)),
    )
    if refused:
        raise DeadLetterError(f"{place} would be a dead letter again: {refused[0].reason}")
    return Correction(dead_letter, event_id, str(corrected[config.schema.id]), draft.content)


def retry(connection: psycopg.Connection, config: StreamConfig, corrections: Sequence[Correction]) -> None:
    """Mark the dead letters as retried, then send the corrected events.

    The mark comes first: if an event were scored before its dead letter is marked, that would stay unresolved forever.
    A mark without an event is harmless, because the next retry sends it.

    Args:
        connection: in autocommit mode.

    Raises:
        DeadLetterError: a dead letter was deleted or resolved meanwhile; nothing was sent.
        SendError: Kafka did not acknowledge an event. Retrying all of them again is safe.
    """
    with connection.transaction():
        marked = dead_letter_events.mark_retried(
            connection, [(each.dead_letter, each.event_id) for each in corrections]
        )
        if marked != len(corrections):
            raise DeadLetterError(
                f"{len(corrections) - marked} of {len(corrections)} dead letters were resolved or replayed in the "
                f"meantime. Nothing was sent.",
                remedy="List them again: 'churn dlq list'.",
            )
    send(config.kafka.client, config.events_topic, [(each.key, each.value) for each in corrections])


def count_unresolved(connection: psycopg.Connection, corrections: Sequence[Correction]) -> int:
    """Return how many of the dead letters of these events are not yet resolved."""
    return dead_letter_events.count_unresolved(connection, [each.event_id for each in corrections])


def _event_in(payload: bytes | None, schema: CustomerSchema) -> dict[str, object]:
    """Return the JSON object in a payload; of a {"timestamp", "data"} wrapper only the data.

    Raises:
        ValueError: there is none.
    """
    if payload is None:
        raise ValueError("it is empty, a tombstone")
    try:
        content = msgspec.json.decode(payload, type=dict[str, object])
        if "data" in content and schema.id not in content:
            content = msgspec.convert(content["data"], dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return content
