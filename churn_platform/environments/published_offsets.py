"""The published offsets: the position in the events topic up to which predictions have been published.

They are the committed offsets of the stream's consumer group. The Kafka transaction that publishes the predictions also
commits them, so both become visible together.
"""

import time
from collections.abc import Mapping, Sequence
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


def offset_metadata(topic: Topic, environment: str) -> str:
    """Return the metadata of a published offset: the topic's id, because its name may be used again, and the writer.

    Args:
        topic: the events topic.
        environment: id of the environment that writes the offset.
    """
    return f"{topic.topic_id} {environment}"


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
        partition: offset for partition, (offset, _) in attributed_offsets(consumer, topic, seconds=seconds).items()
    }


def attributed_offsets(consumer: Consumer, topic: Topic, *, seconds: float) -> dict[int, tuple[int, str]]:
    """Return the published offsets of a topic, each with the id of the environment that wrote it.

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
    return {partition: offset for partition, (offset, _) in _attributed(committed, topic).items()}


def _attributed(committed: Sequence[TopicPartition], topic: Topic) -> dict[int, tuple[int, str]]:
    metadata = {found.partition: (found.metadata or "").partition(" ") for found in committed}
    return {
        found.partition: (found.offset, metadata[found.partition][2])
        for found in committed
        if found.offset >= 0 and metadata[found.partition][0] == topic.topic_id
    }


def require_not_ahead(topic: str, positions: Mapping[int, int], published: Mapping[int, int]) -> None:
    """Raise an error if the ledger is behind the published offsets.

    Predictions are published after the commit that holds them. So a published offset is ahead of the ledger only when
    the database was restored to an earlier state. Continuing would publish the offsets between them a second time.

    Args:
        topic: name of the events topic.
        positions: next offset to read, by Kafka partition.
        published: offset up to which predictions were published, by Kafka partition.

    Raises:
        LedgerBehindError: some partition was published further than it was read.
    """
    ahead = {p: offset for p, offset in sorted(published.items()) if p in positions and offset > positions[p]}
    if not ahead:
        return
    seen = "; ".join(
        f"{topic}[{partition}] was read up to offset {positions[partition]}, but published up to {offset}"
        for partition, offset in ahead.items()
    )
    commands = "; ".join(
        f"'churn stream reset --topic {topic} --partition {partition} --to {offset}'"
        for partition, offset in ahead.items()
    )
    raise LedgerBehindError(
        f"The database is behind the published offsets: {seen}. It was restored to an earlier state, or a "
        f"failover lost its last commits. Continuing would publish these predictions a second time.",
        remedy=f"Restore a state of the database that has these offsets. Or give up their rows: the predictions stay "
        f"published, and churn_predictions never holds them: {commands}.",
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
