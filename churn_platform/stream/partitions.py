"""The check that the events topic has a partition for each lane, before anything that streams is started."""

from confluent_kafka.admin import AdminClient

from churn_platform.kafka import topics
from churn_platform.lanes import require_lanes
from churn_platform.stream.config import StreamConfig


def require_partitions(admin: AdminClient, config: StreamConfig) -> None:
    """Refuse to start more lanes than the events topic, which exists, has partitions.

    Raises:
        LanesError: there are more.
        TopicMissingError: the topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    topic = topics.describe_new(admin, config.events_topic)
    require_lanes(config.lanes, topic=topic.name, partitions=len(topic.partitions))
