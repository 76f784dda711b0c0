"""Configuration of an environment: its Kafka, its database and its topics."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from churn_platform.kafka.config import KafkaConfig
from churn_platform.schema.current import schema_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import Settings

# Producers' clocks may be ahead. An event may be this much later than the longest life of the batch that holds it.
CLOCK_TOLERANCE: Final = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """One environment: a Kafka, a database, and the topics between them.

    Attributes:
        kafka: the brokers, the consumer group, and how topics are created.
        dsn: connection string of the database.
        environment: its name, for people. An id in its database identifies it: see environment_guard.
        start: where a new topic is read from: earliest, latest, or an ISO 8601 timestamp.
        epoch: earliest event time that is accepted.
        schema: of the customers in the events.
    """

    kafka: KafkaConfig
    dsn: str
    environment: str
    events_topic: str
    predictions_topic: str
    claims_topic: str
    start: str
    epoch: datetime
    schema: CustomerSchema

    @classmethod
    def from_settings(cls, settings: Settings) -> "EnvironmentConfig":
        """Return the environment that the settings describe.

        Raises:
            SettingsError: Kafka or PostgreSQL is neither configured nor up.
            SchemaError: the customer schema is missing or invalid.
        """
        return cls(
            kafka=kafka_config(settings),
            dsn=settings.postgres_dsn,
            environment=settings.platform.environment_name,
            events_topic=settings.topics.events,
            predictions_topic=settings.topics.predictions,
            claims_topic=settings.topics.claims,
            start=settings.stream.start,
            epoch=settings.stream.epoch,
            schema=schema_of(settings),
        )


def kafka_config(settings: Settings) -> KafkaConfig:
    """Return the Kafka cluster that the settings describe.

    Raises:
        SettingsError: Kafka is neither configured nor up.
    """
    return KafkaConfig(
        client=settings.kafka_client,
        group=settings.stream.group,
        partitions=settings.topics.partitions,
        replication=settings.topics.replication,
        retention=timedelta(days=settings.lifecycle.retention_days),
    )
