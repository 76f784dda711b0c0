"""The published offsets: the position in the events topic up to which predictions have been published.

They are the committed offsets of the stream's consumer group. The Kafka transaction that publishes the predictions also
commits them, so both become visible together.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from churn_platform.environments.exceptions import LedgerBehindError
from churn_platform.kafka import clients
from churn_platform.kafka.clients import DiagnosticConsumer, translate_kafka_errors
from churn_platform.kafka.config import KafkaConfig
from churn_platform.kafka.exceptions import BrokersUnreachableError
from churn_platform.kafka.reading import make_consumer
from churn_platform.kafka.retries import retry_on
from churn_platform.kafka.topics import Topic

POLL_SECONDS: Final = 0.05
# A broker that has just started has no group coordinator for a moment. librdkafka reports that instead of waiting.
COORDINATOR_MOVING: Final = frozenset(
    {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE}
)


@dataclass(frozen=True)
class PublishedOffset:
    """How far one Kafka partition of the events topic is published.

    Attributes:
        offset: everything below it is published.
        environment: id of the environment that wrote it; empty if it was voided.
        highest: how far predictions were ever published. It is above `offset` while a recovery is active: then the
            events from `offset` on are scored again after the database was restored to an earlier state.
    """

    offset: int
    environment: str
    highest: int


def published_offset(topic: Topic, environment: str, partition: int, *, offset: int, highest: int) -> TopicPartition:
    """Return a published offset as it is committed.

    Its metadata has the topic's id, because the name may be used again, the writer, and `highest` if it is above the
    offset.

    Args:
        topic: the events topic.
        environment: id of the environment that writes the offset.
        partition: Kafka partition.
        offset: everything below it is published.
        highest: how far predictions were ever published.
    """
    metadata = f"{topic.topic_id} {environment}"
    return TopicPartition(topic.name, partition, offset, f"{metadata} {highest}" if highest > offset else metadata)


def make_offsets_consumer(kafka: KafkaConfig) -> DiagnosticConsumer:
    """Return a consumer that reads published offsets without waiting for an open transaction.

    Brokers make a read_committed consumer wait while a transaction holds offsets of the group. A run that is killed in
    its transaction leaves it open for 60 s. What that transaction would publish is not published yet, so nobody but the
    publisher, which settles it first, has to wait for it.
    """
    return make_consumer(kafka, isolation="read_uncommitted")


def published_offsets(consumer: Consumer, topic: Topic, *, seconds: float) -> dict[int, int]:
    """Return the position up to which predictions are published, by Kafka partition of the events topic.

    Partitions without a published offset are left out. An offset of a deleted topic with the same name does not count.

    Args and errors: see attributed_offsets().
    """
    return {
        partition: found.offset for partition, found in attributed_offsets(consumer, topic, seconds=seconds).items()
    }


def attributed_offsets(consumer: Consumer, topic: Topic, *, seconds: float) -> dict[int, PublishedOffset]:
    """Return the published offsets of a topic, by Kafka partition. Those of a deleted topic are left out.

    Args:
        consumer: of the group that carries the published offsets.
        topic: the events topic.
        seconds: longest wait for an answer.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    requested = [TopicPartition(topic.name, partition) for partition in topic.partitions]
    deadline = time.monotonic() + seconds

    def read_committed() -> list[TopicPartition]:
        with translate_kafka_errors(consumer):
            committed = consumer.committed(requested, max(deadline - time.monotonic(), POLL_SECONDS))
            _raise_first([found.error for found in committed])
            return committed

    try:
        committed = retry_on(COORDINATOR_MOVING, seconds=seconds)(read_committed)
    except BrokersUnreachableError:
        _raise_refusal(consumer)
        raise
    return _attributed(committed, topic)


def published_to_admin(admin: AdminClient, group: str, topic: Topic) -> dict[int, int]:
    """Return the published offsets as published_offsets() does, for a process that has no consumer.

    Args:
        admin: a client of the brokers.
        group: the consumer group that carries the published offsets.
        topic: the events topic.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    requested = ConsumerGroupTopicPartitions(group, [TopicPartition(topic.name, each) for each in topic.partitions])
    with translate_kafka_errors(admin):
        futures = admin.list_consumer_group_offsets([requested], request_timeout=clients.request_seconds(admin))
        committed = futures[group].result().topic_partitions
        _raise_first([found.error for found in committed])
    return {partition: found.offset for partition, found in _attributed(committed, topic).items()}


def _attributed(committed: Sequence[TopicPartition], topic: Topic) -> dict[int, PublishedOffset]:
    offsets: dict[int, PublishedOffset] = {}
    for found in committed:
        topic_id, environment, highest = [*(found.metadata or "").split(" "), "", ""][:3]
        if found.offset >= 0 and topic_id == topic.topic_id:
            offsets[found.partition] = PublishedOffset(found.offset, environment, int(highest or found.offset))
    return offsets


def require_not_ahead(
    topic: str, positions: Mapping[int, int], recovered: Mapping[int, int], published: Mapping[int, PublishedOffset]
) -> None:
    """Raise an error if the ledger is behind the published offsets.

    Predictions are published after the commit that holds them. So a published offset is ahead of the ledger only when
    the database was restored to an earlier state. Continuing would publish the offsets between them a second time.

    Args:
        topic: name of the events topic.
        positions: next offset to read, by Kafka partition.
        recovered: how far predictions had been published before restores that 'churn recover' has found, by Kafka
            partition. It also moves the published offsets back to the positions.
        published: the published offsets, by Kafka partition.

    Raises:
        LedgerBehindError: some partition was published further than it was read.
    """
    ahead = {
        partition: found.highest
        for partition, found in sorted(published.items())
        if partition in positions
        and (
            found.offset > positions[partition]
            or found.highest > max(positions[partition], recovered.get(partition, 0))
        )
    }
    if not ahead:
        return
    seen = "; ".join(
        f"{topic}[{partition}] was read up to offset {positions[partition]}, but published up to {offset}"
        for partition, offset in ahead.items()
    )
    raise LedgerBehindError(
        f"The database is behind the published offsets: {seen}. It was restored to an earlier state, or a "
        f"failover lost its last commits. Continuing would publish these predictions a second time.",
        remedy="Run 'churn recover': the events are scored again, and what is published is not published again.",
    )


def _raise_refusal(consumer: Consumer) -> None:
    """Raise the brokers' reason for refusing the consumer its group, if that is why it got no answer.

    Raises:
        BrokerRefusedError: the user has no rights on the group.
    """
    if isinstance(consumer, DiagnosticConsumer):
        settings = dict(consumer.errors.settings)
        refusal = clients.group_refusal(settings, str(settings.pop("group.id")))
        if refusal is not None:
            raise refusal


def _raise_first(errors: Sequence[KafkaError | None]) -> None:
    """Raise the error of a partition, which librdkafka returns beside the offsets of the others."""
    for error in errors:
        if error is not None:
            raise KafkaException(error)
