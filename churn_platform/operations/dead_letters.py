"""Dead letters: find, correct and retry them, and keep their history through a replay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import psycopg
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.decoding.events import decode, positional_id
from churn_platform.kafka.sending import send
from churn_platform.operations.exceptions import DeadLetterError
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.exceptions import ReplayError

_STATE: Final = sql.SQL(
    "case when resolved_at is not null then 'resolved' when retry_event_id is not null then 'retried' else 'open' end"
)
_CHOSEN: Final = sql.SQL("""
    from dead_letter_events
    where (%(reason)s::text is null or position(lower(%(reason)s) in lower(reason)) > 0)
      and (%(since)s::timestamptz is null or received_at >= %(since)s)
      and (%(state)s::text is null or %(state)s = {})
""").format(_STATE)
_COLUMNS: Final = sql.SQL("""
    select topic_id, topic, kafka_partition, kafka_offset, batch, reason, payload, kafka_timestamp, received_at,
        retry_event_id, retried_at, resolved_at
""")
_FIND: Final = sql.SQL("{} {} order by received_at desc, kafka_partition, kafka_offset limit %(limit)s").format(
    _COLUMNS, _CHOSEN
)
_FIND_ONE: Final = sql.SQL("""
    {} from dead_letter_events
    where kafka_partition = %(partition)s and kafka_offset = %(offset)s
      and (%(topic_id)s::text is null or topic_id = %(topic_id)s)
""").format(_COLUMNS)
_COUNT: Final = sql.SQL("""
    select kind, count(*), count(*) filter (where state = 'open'), count(*) filter (where state = 'retried')
    from (select {} as state, dead_letter_kind(reason) as kind {}) as letters
    group by kind order by 2 desc, kind
""").format(_STATE, _CHOSEN)
_MARK: Final = """
    update dead_letter_events set retry_event_id = %s, retried_at = now()
    where topic_id = %s and kafka_partition = %s and kafka_offset = %s and resolved_at is null
"""
_UNRESOLVED: Final = """
    select count(*) from dead_letter_events where retry_event_id = any(%s) and resolved_at is null
"""

_CREATE_KEPT: Final = "create temp table kept_letters (like dead_letter_events) on commit drop"
_FORGET: Final = """
    with gone as (delete from dead_letter_events where batch = %s returning *)
    insert into kept_letters select * from gone
"""
_RESTORE: Final = """
    update dead_letter_events d set received_at = k.received_at, retry_event_id = k.retry_event_id,
        retried_at = k.retried_at, resolved_at = k.resolved_at
    from kept_letters k
    where (d.topic_id, d.kafka_partition, d.kafka_offset) = (k.topic_id, k.kafka_partition, k.kafka_offset)
"""
_NOT_MADE_AGAIN: Final = """
    select k.topic, k.kafka_partition, k.kafka_offset from kept_letters k
    where k.retry_event_id is not null and not exists (
        select from dead_letter_events d
        where (d.topic_id, d.kafka_partition, d.kafka_offset) = (k.topic_id, k.kafka_partition, k.kafka_offset)
    )
    order by 1, 2, 3
"""


class State(StrEnum):
    """The state of a dead letter."""

    OPEN = "open"
    RETRIED = "retried"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class DeadLetter:
    """A row of dead_letter_events. `retry_event_id`: of the corrected event. `resolved_at`: when it was scored."""

    topic_id: str
    topic: str
    kafka_partition: int
    kafka_offset: int
    batch: str
    reason: str
    payload: bytes | None
    kafka_timestamp: datetime | None
    received_at: datetime
    retry_event_id: UUID | None
    retried_at: datetime | None
    resolved_at: datetime | None

    @property
    def place(self) -> str:
        """The place of the message: topic[partition]@offset."""
        return f"{self.topic}[{self.kafka_partition}]@{self.kafka_offset}"

    @property
    def state(self) -> State:
        """Open, retried (the corrected event was sent and not scored yet) or resolved."""
        if self.resolved_at is not None:
            return State.RESOLVED
        return State.OPEN if self.retry_event_id is None else State.RETRIED

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON without the payload, with times in ISO 8601, UTC."""
        moments = ("kafka_timestamp", "received_at", "retried_at", "resolved_at")
        plain = {name: value for name, value in vars(self).items() if name not in ("payload", *moments)}
        for name in moments:
            moment: datetime | None = getattr(self, name)
            plain[name] = None if moment is None else moment.astimezone(UTC).isoformat()
        return {**plain, "retry_event_id": self.retry_event_id and str(self.retry_event_id), "state": self.state}


@dataclass(frozen=True)
class Kind:
    """How many dead letters have a reason of this kind, and how many of them are open or retried."""

    reason: str
    count: int
    open: int
    retried: int


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which dead letters: part of the reason (ignoring case), received since, state. None selects all."""

    reason: str | None = None
    since: datetime | None = None
    state: State | None = None


@dataclass(frozen=True)
class Corrected:
    """The corrected event of a dead letter."""

    letter: DeadLetter
    event_id: UUID
    key: str
    value: bytes


@dataclass(frozen=True)
class _Draft:
    """A corrected event in the form that the decoder reads. Without a Kafka timestamp, because it is not yet sent."""

    letter: DeadLetter
    content: bytes

    def value(self) -> bytes:
        return self.content

    def partition(self) -> int:
        return self.letter.kafka_partition

    def offset(self) -> int:
        return self.letter.kafka_offset

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_NOT_AVAILABLE, 0


def find(connection: psycopg.Connection, chosen: Selection, *, limit: int) -> list[DeadLetter]:
    """Return dead letters, the latest first."""
    with connection.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return cursor.execute(_FIND, {**vars(chosen), "limit": limit}).fetchall()


def kinds(connection: psycopg.Connection, chosen: Selection) -> list[Kind]:
    """Return the counts by kind, the most frequent first. In a kind, … stands for the parts of a reason that vary."""
    return [Kind(*row) for row in connection.execute(_COUNT, vars(chosen)).fetchall()]


def find_one(connection: psycopg.Connection, partition: int, offset: int, *, topic_id: str | None = None) -> DeadLetter:
    """Return the dead letter at this place.

    Args:
        topic_id: Kafka's id of the topic, if several topics have a dead letter at this place.

    Raises:
        DeadLetterError: none or several topics have one.
    """
    with connection.cursor(row_factory=class_row(DeadLetter)) as cursor:
        found = cursor.execute(_FIND_ONE, {"partition": partition, "offset": offset, "topic_id": topic_id}).fetchall()
    if not found:
        raise DeadLetterError(
            f"There is no dead letter at {partition}:{offset}.", remedy="'churn dlq list' lists the dead letters."
        )
    if len(found) > 1:
        several = ", ".join(f"{letter.topic_id} ({letter.topic})" for letter in found)
        raise DeadLetterError(
            f"Several topics have a dead letter at {partition}:{offset}: {several}.", remedy="Choose with --topic-id."
        )
    return found[0]


def read_event(file: Path) -> dict[str, object]:
    """Return the event in a JSON file.

    Raises:
        DeadLetterError: the file cannot be read or does not hold a JSON object.
    """
    try:
        return _event_in(file.read_bytes())
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
    letter: DeadLetter,
    config: StreamConfig,
    *,
    changes: Mapping[str, object],
    event: Mapping[str, object] | None = None,
) -> Corrected:
    """Return the event to send for a dead letter: its own content, or `event`, with the changes.

    Its id derives from the place of the dead letter, so that one that is retried twice counts once. An id in the
    payload is not used. Without a time of its own it gets Kafka's time of the dead letter, and counts in that hour.

    Raises:
        DeadLetterError: the dead letter is resolved, its payload is not a JSON object, or the event would be a dead
            letter again.
    """
    if letter.resolved_at is not None:
        raise DeadLetterError(f"{letter.place} was resolved at {letter.resolved_at.isoformat()}: its event counts.")
    if event is None:
        try:
            event = _event_in(letter.payload)
        except ValueError as error:
            raise DeadLetterError(
                f"{letter.place}: the payload is not a JSON object ({error}), so single fields cannot be corrected.",
                remedy="Write the whole event to a file: --file corrected.json",
            ) from error
    event_id = positional_id(letter.topic_id, letter.kafka_partition, letter.kafka_offset)
    corrected: dict[str, object] = {**event, **changes, "event_id": str(event_id)}
    if corrected.get("event_timestamp") is None and letter.kafka_timestamp is not None:
        corrected["event_timestamp"] = letter.kafka_timestamp.astimezone(UTC).isoformat()
    draft = _Draft(letter, msgspec.json.encode(corrected))
    _, refused = decode(
        [draft],
        topic_id=letter.topic_id,
        accepts_from=config.epoch,
        accepts_until=config.accepts_until(datetime.now(UTC)),
    )
    if refused:
        raise DeadLetterError(f"{letter.place} would be a dead letter again: {refused[0].reason}")
    return Corrected(letter, event_id, str(corrected["CustomerId"]), draft.content)


def retry(connection: psycopg.Connection, config: StreamConfig, events: Sequence[Corrected]) -> None:
    """Mark the dead letters as retried, then send the events.

    The mark comes first: if an event were scored before its dead letter is marked, that would stay unresolved forever.
    A mark without an event is harmless, because the next retry sends it.

    Args:
        connection: in autocommit mode.

    Raises:
        DeadLetterError: a dead letter was deleted or resolved meanwhile; nothing was sent.
        SendError: Kafka did not acknowledge an event. Retrying all of them again is safe.
    """
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            _MARK,
            [
                (each.event_id, each.letter.topic_id, each.letter.kafka_partition, each.letter.kafka_offset)
                for each in events
            ],
        )
        if cursor.rowcount != len(events):
            raise DeadLetterError(
                f"{len(events) - cursor.rowcount} of {len(events)} dead letters were resolved or replayed meanwhile. "
                f"Nothing was sent.",
                remedy="List them again: 'churn dlq list'.",
            )
    send(config.kafka.client, config.events_topic, [(each.key, each.value) for each in events])


def unresolved(connection: psycopg.Connection, events: Sequence[Corrected]) -> int:
    """Return how many of the dead letters of these events are not yet resolved."""
    row = connection.execute(_UNRESOLVED, ([each.event_id for each in events],)).fetchone()
    return 0 if row is None else row[0]


def set_aside(connection: psycopg.Connection, batch: str) -> None:
    """Delete the dead letters of a batch that is being replayed, with a copy until the transaction ends."""
    connection.execute(_CREATE_KEPT)
    connection.execute(_FORGET, (batch,))


def restore(connection: psycopg.Connection, batch: str) -> None:
    """Restore the history of dead letters that the replay has created again: when they arrived and their state.

    Raises:
        ReplayError: the replay scores an event whose dead letter was retried, so it would count twice.
    """
    connection.execute(_RESTORE)
    scored = [f"{topic}[{partition}]@{offset}" for topic, partition, offset in connection.execute(_NOT_MADE_AGAIN)]
    if scored:
        raise ReplayError(
            f"Batch {batch} cannot be replayed and was not changed: {len(scored)} of its dead letters would now be "
            f"valid events, but corrected events were already sent for them ('churn dlq retry'), and both would "
            f"count: {', '.join(scored[:5])}{', …' if len(scored) > 5 else ''}."
        )


def _event_in(payload: bytes | None) -> dict[str, object]:
    """Return the JSON object in a payload; of a {"timestamp", "data"} wrapper only the data.

    Raises:
        ValueError: there is none.
    """
    if payload is None:
        raise ValueError("it is empty, a tombstone")
    try:
        content = msgspec.json.decode(payload, type=dict[str, object])
        if "data" in content and "CustomerId" not in content:
            content = msgspec.convert(content["data"], dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return content
