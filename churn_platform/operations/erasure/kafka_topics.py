"""The customer's messages in Kafka: tombstones where a topic is compacted, and until when it keeps the others."""

from collections.abc import Iterator
from datetime import UTC, datetime

from confluent_kafka.admin import AdminClient

from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import BrokerRefusedError, TopicMissingError
from churn_platform.kafka.sending import Sender
from churn_platform.kafka.topics import Retention
from churn_platform.operations.erasure.config import ErasureConfig
from churn_platform.operations.erasure.report import Remains


def send_tombstone(admin: AdminClient, config: ErasureConfig, customer_id: int | str) -> int:
    """Send a tombstone to the predictions topic if it is compacted; return how many were sent.

    Its messages have the customer's id as key. Kafka then deletes the earlier ones when it compacts the partition.

    Raises:
        SendError: Kafka did not acknowledge it.
    """
    environment = config.environment
    try:
        retention = topics.retention(admin, topics.describe(admin, environment.predictions_topic))
    except (TopicMissingError, BrokerRefusedError):  # remaining() reports the second
        return 0
    if not retention.is_compacted:
        return 0
    sender = Sender(environment.kafka.client, environment.predictions_topic)
    sender.send(str(customer_id), None)
    sender.flush()
    return sender.sent


def remaining(admin: AdminClient, config: ErasureConfig, *, now: datetime) -> Iterator[Remains]:
    """Yield what the topics may still hold of a customer, and until when."""
    environment = config.environment
    for name, what in (
        (environment.events_topic, "events"),
        (environment.predictions_topic, "predictions"),
        (config.outcomes_topic, "outcomes"),
    ):
        try:
            retention = topics.retention(admin, topics.describe(admin, name))
        except TopicMissingError:
            continue
        except BrokerRefusedError as error:
            yield Remains(f"Kafka topic {name}", f"How long Kafka keeps {what} is not known: {error.problem}")
            continue
        is_predictions = name == environment.predictions_topic
        yield Remains(
            f"Kafka topic {name}", _reason(retention, what, has_tombstone=is_predictions), _until(retention, now)
        )


def _reason(retention: Retention, what: str, *, has_tombstone: bool) -> str:
    if retention.is_compacted and has_tombstone:
        return f"Kafka deletes the customer's {what} when it compacts the topic: a tombstone was sent."
    if retention.is_compacted and not retention.is_deleted:
        return (
            f"The topic is compacted, and Kafka keeps the last {what} of each key. Send tombstones from your producer."
        )
    if retention.time is None:
        return f"Kafka keeps {what} without a limit of time (retention.ms is -1). Set one, or delete the records."
    period = str(retention.time).removesuffix(", 0:00:00")  # of whole days
    return f"Kafka deletes {what} by age only: retention.ms of the topic is {period}."


def _until(retention: Retention, now: datetime) -> datetime | None:
    if retention.time is None or not retention.is_deleted:
        return None
    return (now + retention.time).astimezone(UTC)
