"""Whether the events topic is still the log that was read: see positions/truncation.py."""

import psycopg
from confluent_kafka.admin import AdminClient

from churn_platform.database import stream_positions
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import RangeLostError
from churn_platform.kafka.reading import make_consumer
from churn_platform.positions.truncation import resume
from churn_platform.stream.config import StreamConfig


def find_problems(connection: psycopg.Connection, admin: AdminClient, config: StreamConfig) -> list[str]:
    """Return why the stream cannot continue at its positions, one text for each partition with a problem.

    Raises:
        TopicMissingError: the topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    topic = topics.describe(admin, config.events_topic)
    records = stream_positions.last_records(connection, topic.topic_id)
    problems = []
    for partition, position in stream_positions.next_offsets(connection, topic.topic_id).items():
        consumer = make_consumer(config.kafka)
        try:
            resume(consumer, topic.name, {partition: position}, records)
        except RangeLostError as error:
            problems.append(str(error))
        finally:
            consumer.close()
    return problems
