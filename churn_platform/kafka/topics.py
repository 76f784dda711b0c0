"""Topics as the brokers describe them: ids, partitions and offsets. Also their creation and deletion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    ListOffsetsResultInfo,
    NewTopic,
    OffsetSpec,
    ResourceType,
)
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from churn_platform.kafka.clients import request_seconds, translate_kafka_errors
from churn_platform.kafka.config import KafkaConfig
from churn_platform.kafka.exceptions import BrokerRefusedError, TopicMissingError
from churn_platform.kafka.retries import PAUSE_SECONDS, retry_on
from churn_platform.lanes import Lane

# For a moment, a partition that is new or whose broker went away has no leader, or one that does not know it yet.
LEADER_MOVING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
)
EARLIEST: Final[OffsetSpec] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # not annotated
LATEST: Final[OffsetSpec] = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # not annotated
NEWEST: Final[OffsetSpec] = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]  # not annotated


@dataclass(frozen=True)
class Topic:
    """A topic by name and by Kafka's own id, with its partition numbers in order."""

    name: str
    topic_id: str
    partitions: tuple[int, ...]


def part_of(topic: Topic, lane: Lane) -> Topic:
    """Return the topic with the partitions of a lane alone."""
    return replace(topic, partitions=tuple(each for each in topic.partitions if lane.owns(each)))


@dataclass(frozen=True)
class Retention:
    """How long Kafka keeps the messages of a topic.

    Attributes:
        is_deleted: whether it deletes messages by age or size.
        is_compacted: whether it keeps only the last message of each key.
        time: after which a message is deleted; None if it is not deleted by age.
    """

    is_deleted: bool
    is_compacted: bool
    time: timedelta | None


def retention(admin: AdminClient, topic: Topic) -> Retention:
    """Return how long the brokers keep the messages of a topic.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    try:
        with translate_kafka_errors(admin):
            found = admin.describe_configs([resource], request_timeout=request_seconds(admin))[resource].result()
    except BrokerRefusedError as error:
        raise BrokerRefusedError(
            error.problem,
            remedy=f"Grant the user DescribeConfigs on topic {topic.name}: what Kafka deletes from it has to be known.",
        ) from error
    policy = str(found["cleanup.policy"].value)
    milliseconds = int(found["retention.ms"].value)
    is_deleted = "delete" in policy
    return Retention(
        is_deleted=is_deleted,
        is_compacted="compact" in policy,
        time=timedelta(milliseconds=milliseconds) if is_deleted and milliseconds >= 0 else None,
    )


def describe(admin: AdminClient, name: str) -> Topic:
    """Return the topic with this name.

    Raises:
        TopicMissingError: it does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    return describe_async(admin, name)()


def describe_async(admin: AdminClient, name: str) -> Callable[[], Topic]:
    """Request a topic's description and return at once. The returned function waits for the answer; see describe()."""
    future = admin.describe_topics(TopicCollection([name]), request_timeout=request_seconds(admin))[name]

    def answer() -> Topic:
        try:
            with translate_kafka_errors(admin):
                described = future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicMissingError(
                    f"Topic {name!r} does not exist.",
                    remedy="Create it ('churn produce' does so, too), or set EVENTS_TOPIC to another one.",
                ) from error
            raise
        return Topic(name, str(described.topic_id), tuple(sorted(p.id for p in described.partitions)))

    return answer


def create_missing(admin: AdminClient, kafka: KafkaConfig, names: Sequence[str]) -> list[str]:
    """Create the topics that do not exist, with the partitions, replicas and retention of the config. No compaction.

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
    for name, future in admin.create_topics(new, request_timeout=request_seconds(admin)).items():
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
        existing = admin.list_topics(timeout=request_seconds(admin)).topics
    return [name for name in names if name not in existing]


def delete(admin: AdminClient, topic: Topic) -> None:
    """Delete a topic, and wait until the brokers no longer know a topic with its id.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    seconds = request_seconds(admin)
    with translate_kafka_errors(admin):
        admin.delete_topics([topic.name], request_timeout=seconds)[topic.name].result()

    def is_known() -> bool:
        try:
            return describe(admin, topic.name).topic_id == topic.topic_id
        except TopicMissingError:
            return False

    Retrying(
        retry=retry_if_result(bool),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(PAUSE_SECONDS),
        retry_error_callback=lambda _: None,  # Kafka has accepted the deletion, so it will happen
    )(is_known)


def describe_new(admin: AdminClient, name: str) -> Topic:
    """Return a topic that was created just now, as soon as the broker that answers knows it."""
    return Retrying(
        retry=retry_if_exception_type(TopicMissingError),
        stop=stop_after_delay(request_seconds(admin)),
        wait=wait_fixed(PAUSE_SECONDS),
        reraise=True,
    )(describe, admin, name)


def list_offsets(
    admin: AdminClient,
    topic: Topic,
    spec: OffsetSpec,
    *,
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> dict[int, int]:
    """Return one offset for each partition of the topic, as a reader of this isolation sees it; -1 where none matches.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    return {partition: found.offset for partition, found in _look_up(admin, topic, spec, isolation).items()}


def last_written(admin: AdminClient, topic: Topic) -> datetime | None:
    """Return when the newest message of the topic was written; None where it holds none.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    found = _look_up(admin, topic, NEWEST, IsolationLevel.READ_UNCOMMITTED)
    newest = max((each.timestamp for each in found.values()), default=-1)
    return None if newest < 0 else datetime.fromtimestamp(newest / 1000, UTC)


def _look_up(
    admin: AdminClient, topic: Topic, spec: OffsetSpec, isolation: IsolationLevel
) -> dict[int, ListOffsetsResultInfo]:
    requested = {TopicPartition(topic.name, partition): spec for partition in topic.partitions}
    seconds = request_seconds(admin)

    def look_up() -> dict[int, ListOffsetsResultInfo]:
        futures = admin.list_offsets(requested, isolation_level=isolation, request_timeout=seconds)
        with translate_kafka_errors(admin):
            return {where.partition: future.result() for where, future in futures.items()}

    return retry_on(LEADER_MOVING, seconds=seconds)(look_up)


def stable_ends(admin: AdminClient, topic: Topic) -> tuple[dict[int, int], dict[int, int]]:
    """Return the last stable offset by Kafka partition, and how many offsets after it wait for an open transaction.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    # In this order: offsets written between the two requests must not look as if a transaction held them back.
    high = list_offsets(admin, topic, LATEST, isolation=IsolationLevel.READ_UNCOMMITTED)
    ends = list_offsets(admin, topic, LATEST)
    return ends, {partition: max(0, high[partition] - end) for partition, end in ends.items()}
