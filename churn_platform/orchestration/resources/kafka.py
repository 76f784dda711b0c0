"""Kafka for sensors: one admin client for the life of the code server."""

import time
from functools import cache
from typing import Final

import dagster as dg
from confluent_kafka.admin import AdminClient

from churn_platform.database.connections import connect
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.environments.published_offsets import published_offsets
from churn_platform.kafka import clients
from churn_platform.kafka.reading import make_consumer
from churn_platform.kafka.topics import Topic
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig

ANSWER_SECONDS: Final = 10
# To ask takes 22 ms and two new connections: not at every tick. A streaming run asks by itself.
CLAIMED_SECONDS: Final = 60

_claimed: Final[dict[tuple[str, ...], float]] = {}


@cache
def _admin(kafka: tuple[tuple[str, clients.Setting], ...]) -> AdminClient:
    return clients.admin(dict(kafka))


class KafkaResource(dg.ConfigurableResource["KafkaResource"]):
    """The brokers and topics that the settings name. It holds no secret of its own."""

    def admin(self) -> AdminClient:
        """An admin client, connected once: a tick must not pay for a connection."""
        return _admin(tuple(settings().kafka_client.items()))

    def claim(self) -> None:
        """Make sure that no other environment has what this one writes to; asked again after CLAIMED_SECONDS.

        Raises:
            EnvironmentConflictError: another has the predictions topic, the consumer group or the database.
        """
        config = self.stream()
        asked = (
            *(config.dsn, str(config.kafka.client["bootstrap.servers"]), config.claims_topic),
            *(config.events_topic, config.predictions_topic, config.kafka.group),
        )
        if time.monotonic() - _claimed.get(asked, float("-inf")) < CLAIMED_SECONDS:
            return
        with (
            connect(config.dsn, autocommit=True, application_name="churn sensor") as connection,
            EnvironmentGuard(connection, self.admin(), config) as guard,
        ):
            guard.claim()
        _claimed[asked] = time.monotonic()

    def published(self, topic: Topic) -> dict[int, int]:
        """Position up to which the events topic's predictions are published, by Kafka partition, where one is known."""
        consumer = make_consumer(self.stream().kafka)
        try:
            return published_offsets(consumer, topic, seconds=ANSWER_SECONDS)
        finally:
            consumer.close()

    def stream(self) -> StreamConfig:
        """The stream that the settings describe."""
        return StreamConfig.from_settings(settings())
