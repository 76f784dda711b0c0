"""Move the position of the outcomes topic forward: offsets that are lost or unwanted are skipped and recorded."""

from dataclasses import replace
from typing import Final

import psycopg

from churn_platform.database import stored_outcomes, stream_positions
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.kafka.topics import EARLIEST, LATEST
from churn_platform.operations.exceptions import ResetError
from churn_platform.operations.reset import EARLIEST_WORD, Move, named_offset
from churn_platform.positions.truncation import TRUNCATED_REMEDY, is_truncated
from churn_platform.stream.config import StreamConfig

NOTHING_CHANGED: Final = "Nothing was changed."


def plan(connection: psycopg.Connection, config: StreamConfig, *, topic: str, partition: int, to: str) -> Move | None:
    """Return what moving the position would drop; None if it is already there.

    Args:
        connection: to the platform's database.
        config: of the brokers.
        topic: name of the outcomes topic.
        partition: Kafka partition.
        to: an offset, earliest (the oldest that Kafka holds) or latest (the end).

    Raises:
        ResetError: the position cannot move there, or there is no such topic.
    """
    current = _current(connection, config, topic, partition)
    end = named_offset(to, oldest=current.oldest, last=current.end)
    where = f"{topic}[{partition}] is at offset {current.position}"
    if end > current.end:
        raise ResetError(f"{where} and ends at {current.end}: it cannot move to {end}, past its end.")
    if end == current.position and not current.truncated:
        return None
    if end < current.position:
        nothing_lost = (
            " Nothing is lost, because the oldest offset that Kafka holds was already read."
            if to == EARLIEST_WORD
            else ""
        )
        raise ResetError(f"{where}: it cannot move back to {end}, because each outcome counts once.{nothing_lost}")
    return replace(current, end=end)


def plan_skip(connection: psycopg.Connection, config: StreamConfig, *, topic: str, partition: int, offset: int) -> Move:
    """Return what skipping one unread offset would drop: a move from `position`, the offset, to `end`, the next one.

    Raises:
        ResetError: the offset was already read, or does not exist yet, or there is no such topic.
    """
    current = _current(connection, config, topic, partition)
    where = f"{topic}[{partition}] is at offset {current.position} and ends at {current.end}"
    if offset < current.position:
        raise ResetError(
            f"{where}: offset {offset} was already read.",
            remedy="Its outcome is in customer_outcomes or in refused_outcomes.",
        )
    if offset >= current.end:
        raise ResetError(f"{where}: there is no offset {offset} yet.")
    return replace(current, position=offset, end=offset + 1)


def apply(connection: psycopg.Connection, move: Move, *, reason: str) -> None:
    """Move the position, in one transaction that records the offsets with the reason.

    A run that is reading does not write its current chunk, and the next run continues from the new position.

    Raises:
        ResetError: the position was moved in the meantime.
    """
    with connection.transaction():
        stored_outcomes.lock(connection, move.topic_id)
        position = stored_outcomes.positions(connection, move.topic_id).get(move.kafka_partition)
        if position not in (None, move.position):
            raise ResetError(
                f"{move.topic}[{move.kafka_partition}] is no longer at offset {move.position} but at {position}: "
                f"outcomes were read in the meantime. {NOTHING_CHANGED}",
                remedy="Try again.",
            )
        if move.dropped:
            _record(connection, move, reason)
        if move.truncated:
            stream_positions.record_truncation(
                connection,
                topic_id=move.topic_id,
                kafka_partition=move.kafka_partition,
                position=move.position,
                reason=reason,
            )
        stored_outcomes.clear_last_record(connection, move.topic_id, move.kafka_partition)
        stored_outcomes.advance(connection, move.topic_id, move.topic, {move.kafka_partition: move.end}, {})


def apply_skip(connection: psycopg.Connection, move: Move, *, reason: str) -> None:
    """Record one offset as skipped. The next run does not read it.

    Raises:
        ResetError: the offset was read in the meantime.
    """
    with connection.transaction():
        stored_outcomes.lock(connection, move.topic_id)
        position = stored_outcomes.positions(connection, move.topic_id).get(move.kafka_partition, 0)
        if position > move.position:
            raise ResetError(
                f"Offset {move.position} of {move.topic}[{move.kafka_partition}] was read in the meantime. "
                f"{NOTHING_CHANGED}"
            )
        _record(connection, move, reason)


def _record(connection: psycopg.Connection, move: Move, reason: str) -> None:
    stored_outcomes.skip(
        connection, move.topic_id, move.kafka_partition, start=move.position, end=move.end, reason=reason
    )


def _current(connection: psycopg.Connection, config: StreamConfig, topic: str, partition: int) -> Move:
    """Return the position, the end and the oldest offset of a partition.

    Raises:
        ResetError: there is no such topic or partition, or it was truncated.
    """
    if topic == config.events_topic or stream_positions.is_known_topic(connection, topic):
        raise ResetError(
            f"{topic} is read as events, not as outcomes. Nothing was changed.",
            remedy="'churn stream reset' moves the position of an events topic.",
        )
    admin = clients.admin(config.kafka.client)
    try:
        described = topics.describe(admin, topic)
    except TopicMissingError as error:
        raise ResetError(
            f"Topic {topic!r} does not exist.",
            remedy="Create it ('churn outcomes send' creates it, too), or set OUTCOMES_TOPIC to another topic.",
        ) from error
    if partition not in described.partitions:
        raise ResetError(
            f"{topic} has no partition {partition}; it has {', '.join(map(str, described.partitions))}.",
            remedy="Name one of those.",
        )
    oldest = topics.list_offsets(admin, described, EARLIEST)[partition]
    last = topics.list_offsets(admin, described, LATEST)[partition]
    position = stored_outcomes.positions(connection, described.topic_id).get(partition, oldest)
    if last < position:
        raise ResetError(
            f"{topic}[{partition}] ends at offset {last}, but was read up to {position}: it was truncated. Moving "
            f"the position does not help, because offsets {last}..{position - 1} will be given to other outcomes.",
            remedy=TRUNCATED_REMEDY,
        )
    known = stored_outcomes.last_records(connection, described.topic_id)
    return Move(
        topic=topic,
        topic_id=described.topic_id,
        kafka_partition=partition,
        position=position,
        end=last,
        oldest=oldest,
        truncated=is_truncated(config.kafka, topic, partition, position, known),
    )
