"""Topics as the brokers describe them: ids, partitions, offsets; and their creation and deletion."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported
    AdminClient,
    ListOffsetsResultInfo,
    NewTopic,
    OffsetSpec,
)

from churn_platform.kafka.clients import translate_kafka_errors
from churn_platform.kafka.config import KafkaConfig
from churn_platform.kafka.exceptions import TopicMissingError

REQUEST_SECONDS: Final = 10
PAUSE_SECONDS: Final = 0.05
# A partition that was just made, or whose broker went, has no leader for a moment, or one that does not know it yet.
LEADER_MOVING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
)
EARLIEST: Final[OffsetSpec] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: Final[OffsetSpec] = OffsetSpec.latest()  # type: ignore[no-untyped-call]
NEWEST: Final[OffsetSpec] = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Topic:
    """A topic by name and by Kafka's own id, with its partition numbers in order."""

    name: str
    topic_id: str
    partitions: tuple[int, ...]


def describe(admin: AdminClient, name: str) -> Topic:
    """The topic of this name.

    Raises:
        TopicMissingError: there is none.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    return ask(admin, name)()


def ask(admin: AdminClient, name: str) -> Callable[[], Topic]:
    """Ask the brokers for the topic, and go on meanwhile; what is returned waits for the answer, as describe() does."""
    future = admin.describe_topics(TopicCollection([name]), request_timeout=REQUEST_SECONDS)[name]

    def answer() -> Topic:
        try:
            with translate_kafka_errors(admin):
                described = future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicMissingError(
                    f"Topic {name!r} does not exist.",
                    remedy="Create it ('churn produce' does, too), or set EVENTS_TOPIC to another.",
                ) from error
            raise
        return Topic(name, str(described.topic_id), tuple(sorted(p.id for p in described.partitions)))

    return answer


def create_missing(admin: AdminClient, kafka: KafkaConfig, names: Sequence[str]) -> list[str]:
    """Create the topics that do not exist: no compaction, with the partitions, replicas and retention of the config.

    Returns:
        Names of the topics created.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    new = [
        NewTopic(
            name,
            num_partitions=kafka.partitions,
            replication_factor=kafka.replication,
            config={
                "cleanup.policy": "delete",
                "retention.ms": str(round(kafka.retention.total_seconds() * 1000)),
            },
        )
        for name in missing(admin, names)
    ]
    if not new:
        return []
    created = []
    for name, future in admin.create_topics(new, request_timeout=REQUEST_SECONDS).items():
        try:
            with translate_kafka_errors(admin):
                future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        else:
            created.append(name)
    return created


def missing(admin: AdminClient, names: Sequence[str]) -> list[str]:
    """Return those of the topics that do not exist.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    with translate_kafka_errors(admin):
        existing = admin.list_topics(timeout=REQUEST_SECONDS).topics
    return [name for name in names if name not in existing]


def delete(admin: AdminClient, topic: Topic) -> None:
    """Delete a topic, and wait until no topic of this id is known any more.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    with translate_kafka_errors(admin):
        admin.delete_topics([topic.name], request_timeout=REQUEST_SECONDS)[topic.name].result()
    deadline = time.monotonic() + REQUEST_SECONDS
    while True:
        try:
            if describe(admin, topic.name).topic_id != topic.topic_id or time.monotonic() > deadline:
                return
        except TopicMissingError:
            return
        time.sleep(PAUSE_SECONDS)


def describe_new(admin: AdminClient, name: str) -> Topic:
    """A topic that was made just now, as soon as the broker that is asked has heard of it."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while True:
        try:
            return describe(admin, name)
        except TopicMissingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def list_offsets(
    admin: AdminClient,
    topic: Topic,
    spec: OffsetSpec,
    *,
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> dict[int, int]:
    """One offset for each partition of the topic, as a reader of this isolation sees it; -1 where none fits.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    return {partition: found.offset for partition, found in _look_up(admin, topic, spec, isolation).items()}


def last_written(admin: AdminClient, topic: Topic) -> datetime | None:
    """When the newest message of the topic was written; None where it holds none.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    found = _look_up(admin, topic, NEWEST, IsolationLevel.READ_UNCOMMITTED)
    newest = max((each.timestamp for each in found.values()), default=-1)
    return None if newest < 0 else datetime.fromtimestamp(newest / 1000, UTC)


def _look_up(
    admin: AdminClient, topic: Topic, spec: OffsetSpec, isolation: IsolationLevel
) -> dict[int, ListOffsetsResultInfo]:
    asked = {TopicPartition(topic.name, partition): spec for partition in topic.partitions}
    deadline = time.monotonic() + REQUEST_SECONDS
    while True:
        futures = admin.list_offsets(asked, isolation_level=isolation, request_timeout=REQUEST_SECONDS)
        try:
            with translate_kafka_errors(admin):
                return {where.partition: future.result() for where, future in futures.items()}
        except KafkaException as error:
            if error.args[0].code() not in LEADER_MOVING or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def stable_ends(admin: AdminClient, topic: Topic) -> tuple[dict[int, int], dict[int, int]]:
    """Last stable offset by Kafka partition, and how many offsets behind it wait for an open transaction.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    # In this order: what is written in between would look as if it were held back.
    high = list_offsets(admin, topic, LATEST, isolation=IsolationLevel.READ_UNCOMMITTED)
    ends = list_offsets(admin, topic, LATEST)
    return ends, {partition: max(0, high[partition] - end) for partition, end in ends.items()}
