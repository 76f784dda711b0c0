"""The events topic when a verification begins: its id and the published offsets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from churn_platform.environments.published_offsets import make_offsets_consumer, published_offsets
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.kafka.topics import Topic
from churn_platform.stream.config import StreamConfig

ANSWER_SECONDS: Final = 10


@dataclass(frozen=True)
class EventLog:
    """The events topic (None if it does not exist) and its published offsets by Kafka partition."""

    topic: Topic | None
    published_offsets: Mapping[int, int]


def read_event_log(config: StreamConfig) -> EventLog:
    admin = clients.admin(config.kafka.client)
    try:
        topic = topics.describe(admin, config.events_topic)
    except TopicMissingError:
        return EventLog(None, {})
    consumer = make_offsets_consumer(config.kafka)
    try:
        return EventLog(topic, published_offsets(consumer, topic, seconds=ANSWER_SECONDS))
    finally:
        consumer.close()
