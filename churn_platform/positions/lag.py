"""How far the stream is behind the events topic. Only reads; backlog.py also registers new partitions."""

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from confluent_kafka.admin import AdminClient

from churn_platform.database import stream_positions
from churn_platform.kafka.topics import EARLIEST, Topic, describe, list_offsets, stable_ends


@dataclass(frozen=True)
class Lag:
    """How far the stream is behind a topic.

    Attributes:
        topic: the events topic.
        positions: next offset to read, by Kafka partition; the oldest offset where nothing was ever read.
        ends: last stable offset, by Kafka partition.
    """

    topic: Topic
    positions: Mapping[int, int]
    ends: Mapping[int, int]

    @property
    def waiting(self) -> int:
        """Number of waiting offsets in all partitions."""
        return sum(max(0, end - self.positions[partition]) for partition, end in self.ends.items())


def read_lag(connection: psycopg.Connection, admin: AdminClient, topic: str) -> Lag:
    """Return the lag of the stream now.

    Raises:
        TopicMissingError: the topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    described = describe(admin, topic)
    # In this order: offsets that are read between the two requests must not look as if they were waiting.
    ends, _ = stable_ends(admin, described)
    positions = stream_positions.next_offsets(connection, described.topic_id)
    if ends.keys() - positions.keys():
        positions = {**list_offsets(admin, described, EARLIEST), **positions}
    return Lag(described, positions, ends)
