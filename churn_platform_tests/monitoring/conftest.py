"""Fixtures: a topic of outcomes and a stream for each test."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from churn_platform.monitoring import outcomes
from churn_platform.monitoring.outcomes import CHUNK, DecodeMessage, IngestResult
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.features.customers import BANK
from churn_platform_tests.stream.streams import Stream, admin_client, new_stream

_number = itertools.count(1)


@dataclass
class Outcomes:
    """A topic of outcomes, and the database that it is ingested into."""

    topic: str
    connection: psycopg.Connection
    admin: AdminClient
    schema: CustomerSchema = BANK

    def send(self, *values: Mapping[str, object] | bytes | None, partition: int | None = None, **fields: Any) -> None:
        """Send messages to both partitions in turn or to one, and wait until Kafka has them.

        Args:
            values: values of the messages.
            partition: the only partition to send to; None for both in turn.
            fields: key, headers or timestamp of every message.
        """
        producer = Producer({**settings().kafka_client, "acks": "all"})
        for number, value in enumerate(values):
            payload = json.dumps(value).encode() if isinstance(value, Mapping) else value
            producer.produce(self.topic, payload, partition=number % 2 if partition is None else partition, **fields)
        assert producer.flush(30) == 0

    @property
    def config(self) -> StreamConfig:
        """The configuration of the settings."""
        return replace(StreamConfig.from_settings(settings()), schema=self.schema)

    def ingest(self, *, chunk: int = CHUNK, decode_message: DecodeMessage | None = None) -> IngestResult:
        """Ingest all outcomes of the topic."""
        return outcomes.ingest(
            self.connection, self.admin, self.config, self.topic, chunk=chunk, decode_message=decode_message
        )

    def lag(self) -> int:
        """Return the lag of the topic."""
        return outcomes.load_lag(self.connection, self.admin, self.topic)

    def delete_before(self, offset: int, *, partition: int = 0) -> None:
        """Delete the messages before an offset, as retention does."""
        for future in self.admin.delete_records([TopicPartition(self.topic, partition, offset)]).values():
            future.result()

    def rejected(self) -> dict[tuple[int, int], str]:
        """Return the reasons of the rejected outcomes by Kafka partition and offset."""
        found = self.connection.execute("select kafka_partition, kafka_offset, reason from refused_outcomes")
        return {(partition, offset): reason for partition, offset, reason in found}

    def create(self) -> None:
        """Create the topic."""
        for future in self.admin.create_topics([NewTopic(self.topic, 2, 1)]).values():
            future.result()


@pytest.fixture
def outcome_topic(database: str) -> Iterator[Outcomes]:
    """An outcomes topic that has not been created yet."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield Outcomes(f"outcomes-{next(_number)}", connection, admin_client(settings().kafka_client))


@pytest.fixture
def stream(database: str, bundle_uri: str) -> Iterator[Stream]:
    """A stream with a champion and empty topics."""
    with new_stream(database, bundle_uri) as stream:
        yield stream
