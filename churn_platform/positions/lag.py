"""How far the stream is behind the events topic, and the outcomes behind theirs.

Only reads; backlog.py also registers new partitions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from confluent_kafka.admin import AdminClient

from churn_platform.database import stored_outcomes, stream_positions
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.kafka.topics import EARLIEST, LATEST, Topic, describe, list_offsets, stable_ends
from churn_platform.lanes import WHOLE, Lane


@dataclass(frozen=True)
class Lag:
    """How far the stream is behind a topic.

    Attributes:
        topic: the events topic.
        positions: next offset to read, by Kafka partition; the oldest offset where nothing was ever read.
        ends: last stable offset, by Kafka partition.
        held: number of offsets after it that wait for an open transaction, by Kafka partition.
    """

    topic: Topic
    positions: Mapping[int, int]
    ends: Mapping[int, int]
    held: Mapping[int, int]

    @property
    def waiting(self) -> int:
        """Number of waiting offsets in all partitions."""
        return self.waiting_of(WHOLE)

    def waiting_of(self, lane: Lane) -> int:
        """Return the number of waiting offsets in the partitions of a lane."""
        return sum(max(0, end - self.positions[partition]) for partition, end in lane.select(self.ends).items())


def read_lag(connection: psycopg.Connection, admin: AdminClient, topic: str) -> Lag:
    """Return the lag of the stream now.

    Raises:
        TopicMissingError: the topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    described = describe(admin, topic)
    # In this order: offsets that are read between the two requests must not look as if they were waiting.
    ends, held = stable_ends(admin, described)
    positions = stream_positions.next_offsets(connection, described.topic_id)
    if ends.keys() - positions.keys():
        positions = {**list_offsets(admin, described, EARLIEST), **positions}
    return Lag(described, positions, ends, held)


def read_outcomes_waiting(connection: psycopg.Connection, admin: AdminClient, topic: str) -> int | None:
    """Return the number of offsets of the outcomes topic that are not read yet; None if there is no such topic.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    try:
        described = describe(admin, topic)
    except TopicMissingError:
        return None
    ends = list_offsets(admin, described, LATEST)
    positions = stored_outcomes.positions(connection, described.topic_id)
    if ends.keys() - positions.keys():
        positions = {**list_offsets(admin, described, EARLIEST), **positions}
    return sum(max(0, end - positions[partition]) for partition, end in ends.items())
