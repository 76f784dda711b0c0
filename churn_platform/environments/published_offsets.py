"""The published offsets: up to which position of the events topic predictions are on the predictions topic.

They are the committed offsets of the stream's consumer group. They are committed in the Kafka transaction that carries
the predictions, so both appear together.
"""

import time
from collections.abc import Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from churn_platform.kafka import clients
from churn_platform.kafka.clients import DiagnosticConsumer, translate_kafka_errors
from churn_platform.kafka.exceptions import BrokersUnreachableError
from churn_platform.kafka.topics import Topic

POLL_SECONDS: Final = 0.05
# A broker that has just started has no group coordinator for a moment; librdkafka hands that on instead of waiting.
COORDINATOR_MOVING: Final = frozenset(
    {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE}
)


def offset_metadata(topic: Topic, environment: str) -> str:
    """What a marker says beside its offset: the topic's id, since one of its name may follow it, and whose it is.

    Args:
        environment: id of the environment that writes it.
    """
    return f"{topic.topic_id} {environment}"


def published_offsets(consumer: Consumer, topic: Topic, *, seconds: float) -> dict[int, int]:
    """Position up to which predictions are published, by Kafka partition of the events topic; only those that say so.

    A marker that another topic of the same name has left is none.

    Args and errors: see attributed_offsets().
    """
    return {
        partition: offset for partition, (offset, _) in attributed_offsets(consumer, topic, seconds=seconds).items()
    }


def attributed_offsets(consumer: Consumer, topic: Topic, *, seconds: float) -> dict[int, tuple[int, str]]:
    """The markers of a topic, each with the id of the environment that wrote it.

    Args:
        consumer: of the group that carries the markers.
        seconds: longest wait for an answer.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    asked = [TopicPartition(topic.name, partition) for partition in topic.partitions]
    deadline = time.monotonic() + seconds
    while True:
        try:
            with translate_kafka_errors(consumer):
                committed = consumer.committed(asked, max(deadline - time.monotonic(), POLL_SECONDS))
                _raise_first([found.error for found in committed])
        except KafkaException as error:
            if error.args[0].code() not in COORDINATOR_MOVING or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        except BrokersUnreachableError:
            _raise_refusal(consumer)
            raise
        else:
            notes = {found.partition: (found.metadata or "").partition(" ") for found in committed}
            return {
                found.partition: (found.offset, notes[found.partition][2])
                for found in committed
                if found.offset >= 0 and notes[found.partition][0] == topic.topic_id
            }


def _raise_refusal(consumer: Consumer) -> None:
    """Raise why the brokers refuse the consumer its group, if it is that what it waited for in vain.

    Raises:
        BrokerRefusedError: the user has no rights on the group.
    """
    if isinstance(consumer, DiagnosticConsumer):
        settings = dict(consumer.complaints.settings)
        refusal = clients.group_refusal(settings, str(settings.pop("group.id")))
        if refusal is not None:
            raise refusal


def _raise_first(errors: Sequence[KafkaError | None]) -> None:
    """Raise what the brokers say of a partition; librdkafka hands that back beside the offsets of the others."""
    for error in errors:
        if error is not None:
            raise KafkaException(error)
