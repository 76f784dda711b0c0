"""A topic of outcomes for each test."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported

from churn_platform.settings import settings
from churn_platform.streaming.config import StreamConfig
from churn_platform.watching import outcomes
from churn_platform.watching.outcomes import Taken
from churn_platform_tests.streaming.conftest import new_stream
from churn_platform_tests.streaming.stream import Stream

_number = itertools.count(1)


@dataclass
class Outcomes:
    """The topic, and the database that it is read into."""

    topic: str
    connection: psycopg.Connection
    admin: AdminClient

    def send(self, *values: Mapping[str, object] | bytes | None) -> None:
        """Send messages, in turns to both partitions, and wait until Kafka has them."""
        producer = Producer({**settings().kafka_client, "acks": "all"})
        for number, value in enumerate(values):
            payload = json.dumps(value).encode() if isinstance(value, Mapping) else value
            producer.produce(self.topic, payload, partition=number % 2)
        assert producer.flush(30) == 0

    def take(self) -> Taken:
        """Read what waits."""
        return outcomes.take(self.connection, self.admin, StreamConfig.from_settings(settings()), self.topic)

    def waiting(self) -> int:
        """Offsets that wait."""
        return outcomes.waiting(self.connection, self.admin, self.topic)

    def make(self) -> None:
        """Create the topic."""
        for future in self.admin.create_topics([NewTopic(self.topic, 2, 1)]).values():
            future.result()


@pytest.fixture
def outcome_topic(database: str) -> Iterator[Outcomes]:
    """Not created yet."""
    with psycopg.connect(database) as connection:
        yield Outcomes(f"outcomes-{next(_number)}", connection, AdminClient(settings().kafka_client))


@pytest.fixture
def stream(database: str, bundle_uri: str) -> Iterator[Stream]:
    """A stream with a champion and empty topics."""
    with new_stream(database, bundle_uri) as stream:
        yield stream
