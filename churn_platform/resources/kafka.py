"""Kafka for sensors: one admin client for the life of the code server."""

from functools import cache

import dagster as dg
from confluent_kafka.admin import AdminClient

from churn_platform.settings import settings
from churn_platform.streaming.config import StreamConfig


@cache
def _admin() -> AdminClient:
    return AdminClient(settings().kafka_client)


class KafkaResource(dg.ConfigurableResource["KafkaResource"]):
    """The brokers and topics that the settings name. It holds no secret of its own."""

    def admin(self) -> AdminClient:
        """An admin client, connected once: a tick must not pay for a connection."""
        return _admin()

    def stream(self) -> StreamConfig:
        """The stream that the settings describe."""
        return StreamConfig.from_settings(settings())
