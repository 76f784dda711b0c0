"""Topics as the brokers describe them: ids, partitions, watermarks, and the creation of ours."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import psycopg
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

from churn_platform.database import ledger
from churn_platform.database.connections import connect
from churn_platform.kafka.clients import translate_kafka_errors
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.exceptions import StreamError, TopicMissingError

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


@dataclass(frozen=True)
class Backlog:
    """What waits in a topic. Offsets by Kafka partition: where the stream stands, and the last stable offset.

    `held` counts the offsets behind that one: a transaction that is still open holds them back.
    """

    topic: Topic
    positions: Mapping[int, int]
    ends: Mapping[int, int]
    held: Mapping[int, int]

    @property
    def lag(self) -> dict[int, int]:
        """Offsets that wait, by Kafka partition. A transaction's marker is an offset too, though not an event."""
        return {partition: max(0, end - self.positions[partition]) for partition, end in self.ends.items()}

    @property
    def waiting(self) -> int:
        """Offsets that wait in all partitions together."""
        return sum(self.lag.values())


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


def create_missing(admin: AdminClient, config: StreamConfig, *names: str) -> list[str]:
    """Create topics where they do not exist, and record that they are the platform's own.

    Topics that exist are left as they are, and neither a right to create any nor the database is needed then.

    Args:
        admin: of the brokers.
        config: how many partitions and replicas a new topic has, and where it is recorded.
        names: of the topics; without one, those of the events and of the predictions.

    Returns:
        Names of the topics created.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        StreamError: the database has no table to record them in; nothing was created.
    """
    if not _missing(admin, config, names):
        return []
    with connect(config.dsn, autocommit=True, application_name="churn topics") as connection:
        try:
            ledger.created_topics(connection)
        except psycopg.errors.UndefinedTable as error:
            raise StreamError(
                "Topics that the platform creates are recorded in the table created_topics, which the database does "
                "not have.",
                remedy="Apply the migrations first: 'churn db upgrade'.",
            ) from error
        created = create_unrecorded(admin, config, *names)
        for name in created:
            ledger.record_topic(connection, topic_id=describe_new(admin, name).topic_id, topic=name)
    return created


def create_unrecorded(admin: AdminClient, config: StreamConfig, *names: str) -> list[str]:
    """Create the topics where they do not exist, in a Kafka that is the platform's own as a whole.

    No compaction, and retention as configured.

    Returns:
        Names of the topics created.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    new = _missing(admin, config, names)
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


def _missing(admin: AdminClient, config: StreamConfig, names: Sequence[str]) -> list[NewTopic]:
    """Those of the topics that do not exist, as they are to be made."""
    with translate_kafka_errors(admin):
        existing = admin.list_topics(timeout=REQUEST_SECONDS).topics
    return [
        NewTopic(
            name,
            num_partitions=config.topic_partitions,
            replication_factor=config.topic_replication,
            config={
                "cleanup.policy": "delete",
                "retention.ms": str(round(config.retention.total_seconds() * 1000)),
            },
        )
        for name in names or (config.events_topic, config.predictions_topic)
        if name not in existing
    ]


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


def register(connection: psycopg.Connection, admin: AdminClient, topic: Topic, start: str) -> dict[int, int]:
    """Positions of all partitions of the topic, registering those that the ledger does not know yet.

    A topic never seen begins at `start`. A partition added to a known topic, and a topic made anew under a known
    name, begin at their oldest offset: what they hold was never read.

    Args:
        start: earliest, latest, or an ISO 8601 timestamp (UTC unless it says otherwise).

    Returns:
        Next offset to read, by Kafka partition.
    """
    known = ledger.positions_of(connection, topic.topic_id)
    if not set(topic.partitions) - known.keys():
        return known
    spec = EARLIEST if ledger.is_known_topic(connection, topic.name) else _start(start)
    earliest = list_offsets(admin, topic, EARLIEST)
    found = list_offsets(admin, topic, spec)
    ends = list_offsets(admin, topic, LATEST)
    starts = {
        # A timestamp later than every event has no offset: such a partition begins at its end.
        partition: max(earliest[partition], found[partition] if found[partition] >= 0 else ends[partition])
        for partition in topic.partitions
        if partition not in known
    }
    with connection.transaction():
        ledger.add_positions(connection, topic=topic.name, topic_id=topic.topic_id, starts=starts)
    return ledger.positions_of(connection, topic.topic_id)


def backlog(connection: psycopg.Connection, admin: AdminClient, config: StreamConfig) -> Backlog:
    """What waits in the events topic.

    Raises:
        TopicMissingError: there is no such topic.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    topic = describe(admin, config.events_topic)
    positions = register(connection, admin, topic, config.start)
    ends, held = stable_ends(admin, topic)
    return Backlog(topic, positions, ends, held)


def stable_ends(admin: AdminClient, topic: Topic) -> tuple[dict[int, int], dict[int, int]]:
    """Last stable offset by Kafka partition, and how many offsets behind it wait for an open transaction.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    # In this order: what is written in between would look as if it were held back.
    high = list_offsets(admin, topic, LATEST, isolation=IsolationLevel.READ_UNCOMMITTED)
    ends = list_offsets(admin, topic, LATEST)
    return ends, {partition: max(0, high[partition] - end) for partition, end in ends.items()}


def _start(start: str) -> OffsetSpec:
    if start == "earliest":
        return EARLIEST
    if start == "latest":
        return LATEST
    try:
        moment = datetime.fromisoformat(start)
    except ValueError as error:
        raise StreamError(
            f"STREAM_START is {start!r}: expected earliest, latest or an ISO 8601 timestamp, "
            f"such as 2026-11-24T00:00:00Z."
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    spec: OffsetSpec = OffsetSpec.for_timestamp(round(moment.timestamp() * 1000))
    return spec
