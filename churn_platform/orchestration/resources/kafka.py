"""The Kafka resource: one admin client per process, and the environment guard."""

import time
from functools import cache
from typing import Final

import dagster as dg
from confluent_kafka.admin import AdminClient

from churn_platform.database.connections import connect
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.environments.published_offsets import make_offsets_consumer, published_offsets
from churn_platform.kafka import clients
from churn_platform.kafka.topics import Topic
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig

ANSWER_SECONDS: Final = 10
# A check takes 22 ms and two new connections, which is too much for every tick. A streaming run checks separately.
CLAIM_SECONDS: Final = 60

_claimed: Final[dict[tuple[str, ...], float]] = {}


@cache
def _admin(kafka: tuple[tuple[str, clients.Setting], ...]) -> AdminClient:
    return clients.admin(dict(kafka))


class KafkaResource(dg.ConfigurableResource["KafkaResource"]):
    """The brokers and topics of the settings. It stores no secrets."""

    def admin(self) -> AdminClient:
        """Return the admin client, which connects once per process, so that a tick does not need a new connection."""
        return _admin(tuple(settings().kafka_client.items()))

    def claim(self) -> None:
        """Make sure that no other environment uses what this one writes to. The result is valid for CLAIM_SECONDS.

        Raises:
            EnvironmentConflictError: another one uses the predictions topic, the consumer group or the database.
        """
        config = self.stream()
        resources = (
            *(config.dsn, str(config.kafka.client["bootstrap.servers"]), config.claims_topic),
            *(config.events_topic, config.predictions_topic, config.kafka.group),
        )
        if time.monotonic() - _claimed.get(resources, float("-inf")) < CLAIM_SECONDS:
            return
        with (
            connect(config.dsn, autocommit=True, application_name="churn sensor") as connection,
            EnvironmentGuard(connection, self.admin(), config) as guard,
        ):
            guard.claim()
        _claimed[resources] = time.monotonic()

    def published(self, topic: Topic) -> dict[int, int]:
        """Return the offset of the events topic up to which predictions are published, by Kafka partition, if known."""
        consumer = make_offsets_consumer(self.stream().kafka)
        try:
            return published_offsets(consumer, topic, seconds=ANSWER_SECONDS)
        finally:
            consumer.close()

    def stream(self) -> StreamConfig:
        """Return the configuration of the stream."""
        return StreamConfig.from_settings(settings())
