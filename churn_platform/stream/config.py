"""What the stream has to know to run. Made from the settings by its callers; the stream itself reads no environment."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from churn_platform.settings import Settings

# Clocks of producers run ahead: an event may be this much later than the batch that holds it can last.
CLOCK_TOLERANCE = timedelta(minutes=5)
# Risk score from which a prediction is high risk; the views and the partial index of churn_predictions hold it too.
HIGH_RISK_THRESHOLD = 0.7
# Which part of the topic a run streams. There is one part, the whole topic.
LANE = "0"


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One stream: a topic in, a topic out, a database.

    Durations are in seconds, counts in events. `kafka` holds librdkafka settings shared by all clients. `environment`
    is what people call it. What it is known by is an id in its database; see environment_guard.
    """

    kafka: dict[str, str | int | float | bool]
    dsn: str
    environment: str
    events_topic: str
    predictions_topic: str
    claims_topic: str
    topic_partitions: int
    topic_replication: int
    retention: timedelta
    group: str
    start: str
    epoch: datetime
    commit_events: int
    linger: float
    batch_events: int
    batch_seconds: float
    idle_seconds: float
    scoring_threads: int
    high_risk_threshold: float = HIGH_RISK_THRESHOLD

    @classmethod
    def from_settings(cls, settings: Settings) -> "StreamConfig":
        """The stream that the settings describe.

        Raises:
            SettingsError: Kafka or PostgreSQL is neither configured nor up.
        """
        return cls(
            kafka=settings.kafka_client,
            dsn=settings.postgres_dsn,
            environment=settings.environment,
            events_topic=settings.events_topic,
            predictions_topic=settings.predictions_topic,
            claims_topic=settings.claims_topic,
            topic_partitions=settings.topic_partitions,
            topic_replication=settings.topic_replication,
            retention=timedelta(days=settings.retention_days),
            group=settings.stream_group,
            start=settings.stream_start,
            epoch=settings.stream_epoch,
            commit_events=settings.commit_events,
            linger=settings.linger_ms / 1000,
            batch_events=settings.batch_events,
            batch_seconds=settings.batch_seconds,
            idle_seconds=settings.idle_seconds,
            scoring_threads=settings.scoring_threads,
        )

    def accepts_until(self, opened: datetime) -> datetime:
        """Latest event time that a batch opened then takes: its longest life, plus CLOCK_TOLERANCE."""
        return opened.astimezone(UTC) + timedelta(seconds=self.batch_seconds) + CLOCK_TOLERANCE
