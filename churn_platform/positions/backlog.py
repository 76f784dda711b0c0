"""Where the stream's positions begin, and how large its backlog is."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from confluent_kafka.admin import AdminClient, OffsetSpec

from churn_platform.database import stream_positions
from churn_platform.environments.config import EnvironmentConfig
from churn_platform.errors import PlatformError
from churn_platform.kafka.topics import EARLIEST, LATEST, Topic, describe, list_offsets, stable_ends


@dataclass(frozen=True)
class Backlog:
    """The backlog of a topic.

    Attributes:
        topic: the events topic.
        positions: next offset to read, by Kafka partition.
        ends: last stable offset, by Kafka partition.
        held: number of offsets after the last stable one, which an open transaction holds back, by Kafka partition.
    """

    topic: Topic
    positions: Mapping[int, int]
    ends: Mapping[int, int]
    held: Mapping[int, int]

    @property
    def lag(self) -> dict[int, int]:
        """Number of waiting offsets, by Kafka partition. A transaction marker has an offset, but is not an event."""
        return {partition: max(0, end - self.positions[partition]) for partition, end in self.ends.items()}

    @property
    def waiting(self) -> int:
        """Number of waiting offsets in all partitions."""
        return sum(self.lag.values())


def load_backlog(connection: psycopg.Connection, admin: AdminClient, config: EnvironmentConfig) -> Backlog:
    """Load the backlog of the events topic.

    Raises:
        TopicMissingError: the topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    topic = describe(admin, config.events_topic)
    positions = register(connection, admin, topic, config.start)
    ends, held = stable_ends(admin, topic)
    return Backlog(topic, positions, ends, held)


def register(connection: psycopg.Connection, admin: AdminClient, topic: Topic, start: str) -> dict[int, int]:
    """Return the positions of all partitions of the topic, after registering new ones in the ledger.

    A new topic begins at `start`. A partition added to a known topic, and a topic recreated under a known name, begin
    at their oldest offset, because nothing of them was ever read.

    Args:
        connection: connection to the ledger's database.
        admin: client of the brokers.
        topic: the events topic.
        start: earliest, latest, or an ISO 8601 timestamp (UTC if it has no time zone).

    Returns:
        Next offset to read, by Kafka partition.
    """
    known = stream_positions.next_offsets(connection, topic.topic_id)
    if not set(topic.partitions) - known.keys():
        return known
    spec = EARLIEST if stream_positions.is_known_topic(connection, topic.name) else _start(start)
    earliest = list_offsets(admin, topic, EARLIEST)
    found = list_offsets(admin, topic, spec)
    ends = list_offsets(admin, topic, LATEST)
    starts = {
        # A timestamp later than every message has no offset: such a partition begins at its end.
        partition: max(earliest[partition], found[partition] if found[partition] >= 0 else ends[partition])
        for partition in topic.partitions
        if partition not in known
    }
    with connection.transaction():
        stream_positions.add_positions(connection, topic=topic.name, topic_id=topic.topic_id, starts=starts)
    return stream_positions.next_offsets(connection, topic.topic_id)


def _start(start: str) -> OffsetSpec:
    if start == "earliest":
        return EARLIEST
    if start == "latest":
        return LATEST
    try:
        moment = datetime.fromisoformat(start)
    except ValueError as error:
        raise PlatformError(
            f"STREAM_START is {start!r}: expected earliest, latest or an ISO 8601 timestamp, "
            f"such as 2026-11-24T00:00:00Z."
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    spec: OffsetSpec = OffsetSpec.for_timestamp(round(moment.timestamp() * 1000))
    return spec
