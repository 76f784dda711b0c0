"""Move the stream's position forward: offsets that are lost or unwanted are skipped and recorded."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from churn_platform.database import advisory_locks, environments, ledger, stream_positions
from churn_platform.database.connections import connect
from churn_platform.environments import created_topics
from churn_platform.kafka import clients, topics
from churn_platform.kafka.topics import EARLIEST, LATEST
from churn_platform.operations.exceptions import ResetError, StreamIsLiveError
from churn_platform.positions.truncation import TRUNCATED_REMEDY, is_truncated
from churn_platform.stream.config import StreamConfig

ASK_SECONDS: Final = 0.05  # between two requests for the stream's lock
MAX_DIGITS: Final = 20  # of an offset, which has 64 bits
EARLIEST_WORD: Final = "earliest"
LATEST_WORD: Final = "latest"


@dataclass(frozen=True, kw_only=True)
class Move:
    """A move of one position forward. Offsets from `position` up to, but not including, `end` are dropped.

    `oldest` is the first offset of the partition that Kafka still holds. `truncated` is True if the log was truncated
    below the position and has grown past it again. Then the position may stay, and records below it are not read.
    """

    topic: str
    topic_id: str
    kafka_partition: int
    position: int
    end: int
    oldest: int
    truncated: bool

    @property
    def dropped(self) -> int:
        """Number of offsets that will never be read, transaction markers and aborted events included."""
        return self.end - self.position

    @property
    def still_held(self) -> int:
        """How many of them Kafka still holds: events that could have been scored."""
        return max(0, self.end - max(self.oldest, self.position))


@contextmanager
def hold_stream_lock(
    config: StreamConfig, topic: str, *, application: str = "churn reset", wait_seconds: float = 0.0
) -> Iterator[psycopg.Connection]:
    """Yield a connection that holds the stream's lock, so that no run reads or commits during the block.

    Args:
        config: of the stream.
        topic: name of the events topic.
        application: name of the session.
        wait_seconds: how long to wait for a run that holds the lock.

    Raises:
        StreamIsLiveError: a run holds it.
    """
    deadline = time.monotonic() + wait_seconds
    with connect(config.dsn, autocommit=True, application_name=application) as connection:
        while not advisory_locks.try_lock_stream(connection, topic):
            if time.monotonic() >= deadline:
                holder, _ = advisory_locks.lock_sessions(connection, topic)
                raise StreamIsLiveError(
                    f"The stream of {topic!r} is live: {holder or 'another session'} holds its lock.",
                    remedy="Pause it first ('churn stream pause'), try again after a few seconds, then resume it.",
                )
            time.sleep(ASK_SECONDS)
        yield connection


def plan(connection: psycopg.Connection, config: StreamConfig, *, topic: str, partition: int, to: str) -> Move | None:
    """Return what moving the position would drop; None if it is already there and the log was not truncated.

    Args:
        connection: holds the stream's lock.
        topic: name of the events topic.
        partition: Kafka partition.
        to: an offset, earliest (the oldest that Kafka holds) or latest (the end).

    Raises:
        ResetError: the position cannot move there.
        TopicMissingError: there is no such topic.
    """
    admin = clients.admin(config.kafka.client)
    described = topics.describe(admin, topic)
    positions = stream_positions.next_offsets(connection, described.topic_id)
    if partition not in positions:
        known = ", ".join(map(str, positions)) or "none"
        raise ResetError(
            f"The ledger has no position of {topic}[{partition}]; it has partitions {known} of topic id "
            f"{described.topic_id}.",
            remedy="Name one of those. STREAM_START decides where the stream starts to read a new topic.",
        )
    position = positions[partition]
    oldest = topics.list_offsets(admin, described, EARLIEST)[partition]
    last = topics.list_offsets(admin, described, LATEST)[partition]
    if last < position:
        raise ResetError(
            f"{topic}[{partition}] ends at offset {last}, but was read up to {position}: it was truncated. Moving "
            f"the position does not help, because offsets {last}..{position - 1} will be given to other events.",
            remedy=TRUNCATED_REMEDY,
        )
    records = stream_positions.last_records(connection, described.topic_id)
    truncated = is_truncated(config.kafka, topic, partition, position, records)
    end = named_offset(to, oldest=oldest, last=last)
    where = f"{topic}[{partition}] is at offset {position}"
    if end > last:
        raise ResetError(f"{where} and ends at {last}: it cannot move to {end}, past its end.")
    if end == position and not truncated:
        return None
    if end < position:
        back = f"{where}: moving it back to {end} would count events twice."
        if to == EARLIEST_WORD:
            raise ResetError(f"{back} Nothing is lost, because the oldest offset that Kafka holds was already read.")
        raise ResetError(
            back,
            remedy="To score events again, replay their batches: 'dg launch --assets churn_predictions --partition "
            "<batch>'. stream_ranges lists the offsets of each batch.",
        )
    return Move(
        topic=topic,
        topic_id=described.topic_id,
        kafka_partition=partition,
        position=position,
        end=end,
        oldest=oldest,
        truncated=truncated,
    )


def apply(connection: psycopg.Connection, move: Move, *, reason: str) -> None:
    """Skip the offsets, in one transaction that records them, and the truncation, with the reason.

    Raises:
        ResetError: the position was moved in the meantime.
    """
    topic_id, partition, position = move.topic_id, move.kafka_partition, move.position
    with connection.transaction():
        done = not move.truncated or stream_positions.accept_truncation(
            connection, topic_id=topic_id, kafka_partition=partition, position=position, reason=reason
        )
        if done and move.dropped:
            done = ledger.skip(
                connection,
                topic_id=topic_id,
                kafka_partition=partition,
                position=position,
                end=move.end,
                reason=reason,
            )
    if not done:
        raise ResetError(
            f"{move.topic}[{move.kafka_partition}] is no longer at offset {move.position}: its position was moved in "
            f"the meantime. Nothing was changed.",
            remedy="Check 'churn status' and try again.",
        )


def require_recreatable(
    connection: psycopg.Connection, config: StreamConfig, *, topic: str, kafka_is_embedded: bool
) -> topics.Topic:
    """Return the topic; refuse one that recreate_topic() may not delete.

    Args:
        connection: to the platform's database.
        config: of the brokers.
        topic: name of the events topic.
        kafka_is_embedded: whether this is the embedded Kafka, where all topics are the platform's.

    Raises:
        ResetError: it is not an events topic, or the platform did not create it.
        TopicMissingError: there is no such topic.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    if topic != config.events_topic and not stream_positions.is_known_topic(connection, topic):
        raise ResetError(
            f"{topic!r} is not read as events; EVENTS_TOPIC is {config.events_topic!r}. Nothing was changed.",
            remedy="Name the events topic whose log lost its end.",
        )
    described = topics.describe(clients.admin(config.kafka.client), topic)
    if not kafka_is_embedded and described.topic_id not in environments.created_topics(connection):
        raise ResetError(
            f"The platform did not create the topic {topic!r}, id {described.topic_id}. Nothing was changed.",
            remedy="Delete it and create it again with the tools of your Kafka.",
        )
    return described


def recreate_topic(
    connection: psycopg.Connection, config: StreamConfig, *, topic: str, kafka_is_embedded: bool
) -> topics.Topic:
    """Delete a topic that the platform created, with every event in it, and create it again.

    The stream reads a new topic id from its beginning. So it can continue after its log lost its end.

    Args:
        connection: holds the stream's lock.
        topic: name of the events topic.
        kafka_is_embedded: whether this is the embedded Kafka, where all topics are the platform's.

    Raises:
        ResetError, TopicMissingError: see require_recreatable().
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    described = require_recreatable(connection, config, topic=topic, kafka_is_embedded=kafka_is_embedded)
    admin = clients.admin(config.kafka.client)
    topics.delete(admin, described)
    created_topics.create_missing(admin, replace(config, events_topic=topic))
    return topics.describe(admin, topic)


def named_offset(to: str, *, oldest: int, last: int) -> int:
    """Return the offset that --to names: a number, earliest or latest.

    Raises:
        ResetError: it is none of these.
    """
    if to in (EARLIEST_WORD, LATEST_WORD):
        return oldest if to == EARLIEST_WORD else last
    if not (to.isascii() and to.isdigit() and len(to) <= MAX_DIGITS):
        raise ResetError(f"--to is {to!r}: expected an offset, {EARLIEST_WORD} or {LATEST_WORD}.")
    return int(to)
