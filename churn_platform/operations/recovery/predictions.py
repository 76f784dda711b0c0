"""Reconcile the ledger with the predictions topic, after the database or Kafka has lost data.

A database that was restored to an earlier state has lost rows whose predictions are in the topic. These are stored, so
that the stream scores their events again without publishing them again. A Kafka that has lost data lacks predictions
whose rows are in the table. These are published.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import polars as pl
import psycopg
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from churn_platform.database import (
    alert_outbox,
    churn_predictions,
    environments,
    recovered_predictions,
    stream_layouts,
    stream_positions,
)
from churn_platform.database.alert_outbox import DoubtfulMessage
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.database.recovered_predictions import PublishedPrediction
from churn_platform.environments.claims import claimed_since
from churn_platform.environments.published_offsets import (
    PublishedOffset,
    attributed_offsets,
    make_offsets_consumer,
    published_offset,
)
from churn_platform.kafka import topics
from churn_platform.kafka.messages import KNOWN_MILLISECONDS, UNIX_EPOCH, partition_of
from churn_platform.kafka.reading import make_consumer, read_all
from churn_platform.kafka.topics import EARLIEST, Topic
from churn_platform.kafka.transactions import TransactionalProducer, fence
from churn_platform.lanes import transactional_id
from churn_platform.positions import backlog
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.prediction_messages import messages_of
from churn_platform.stream.prediction_values import message_types

ANSWER_SECONDS: Final = 30.0
GRACE_SECONDS: Final = 10.0
# All missing predictions are one transaction, so that a reader sees all of them or none. Brokers allow 15 minutes.
TRANSACTION_SECONDS: Final = 900
CHUNK_ROWS: Final = 10_000
NEVER: Final = datetime.max.replace(tzinfo=UTC)
REPORTED_EVERY: Final = 100_000

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Reconciled:
    """What was found about the events topic and the predictions topic, and settled.

    Attributes:
        topic: name of the events topic.
        positions: next offset to read, by Kafka partition.
        published: how far predictions had been published, by Kafka partition; only those that are ahead of the ledger.
        lost: how many predictions were found in the predictions topic whose rows the database has lost.
        missing: how many rows were not in the predictions topic, and were published now. In a compacted topic, only
            rows of customers who have no later message there.
        doubtful: messages of the outbox that may have been sent after the state that was restored.
    """

    topic: str
    positions: Mapping[int, int]
    published: Mapping[int, int]
    lost: int
    missing: int
    doubtful: list[DoubtfulMessage]

    @property
    def found_restore(self) -> bool:
        """Whether the database was restored to an earlier state, which no earlier recovery has found."""
        return bool(self.published or self.lost)


class _Published(msgspec.Struct):
    """The fields of a published prediction that identify it."""

    event_id: UUID
    risk_score: float
    model_version: int
    batch: str
    kafka_partition: int
    kafka_offset: int


def reconcile(
    connection: psycopg.Connection, admin: AdminClient, config: StreamConfig, progress: Progress
) -> Reconciled:
    """Make the predictions topic, the table and the published offsets agree, and let the stream read lost events again.

    Published predictions whose rows are lost are stored, so that they are not published again, and the outbox is put in
    doubt. Rows that are missing in the topic are published, and the published offsets become the positions, in one
    Kafka transaction. The database commits first. If the process dies in between, the stream still refuses to start,
    and the next call does the rest.

    Args:
        connection: holds the stream's lock, in autocommit mode.
        admin: client of the brokers.
        config: of the stream.
        progress: called with the current step and its count.

    Raises:
        TopicMissingError: a topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    topic = topics.describe(admin, config.events_topic)
    positions = backlog.register(connection, admin, topic, config.start)
    client = {**config.kafka.client, "transaction.timeout.ms": TRANSACTION_SECONDS * 1000}
    producer = TransactionalProducer(
        replace(config.kafka, client=client),
        transactional_id(config.kafka.group, 0),
        call_seconds=ANSWER_SECONDS,
        grace_seconds=GRACE_SECONDS,
    )
    progress("Ending open transactions", 0)
    # A state from before LANES was raised knows fewer lanes than had producers.
    most = max(config.lanes, stream_layouts.layout(connection, topic.name).most)
    for number in range(1, most):
        fence(config.kafka, transactional_id(config.kafka.group, number), call_seconds=ANSWER_SECONDS)
    producer.initialize()  # after this, the published offsets and the predictions topic no longer change
    offsets = _published_offsets(config, topic)
    recovered = recovered_predictions.reached(connection, topic.topic_id)
    highest = {
        partition: max(recovered.get(partition, 0), offsets[partition].highest if partition in offsets else 0)
        for partition in positions
    }
    ahead = {
        partition: reached
        for partition, reached in highest.items()
        if reached > max(positions[partition], recovered.get(partition, 0))
    }
    claimed = claimed_since(admin, config, environments.find_id(connection))
    contents = _TopicContents(admin, config, progress)
    with connection.transaction():
        recovered_predictions.stage(connection, contents.read())
        lost = recovered_predictions.add_lost(connection, since=claimed)
        progress("Comparing the topic with the table", 0)
        missing = recovered_predictions.missing(
            connection, complete_since=contents.complete_since, tombstones=contents.tombstones
        )
        if contents.oldest is not None:
            recovered_predictions.prune(connection, before=contents.oldest)
        if ahead:
            recovered_predictions.record(connection, topic_id=topic.topic_id, positions=positions, published=ahead)
        doubtful = alert_outbox.doubt_open(connection) if ahead or lost else []
    environment = environments.identify(connection)
    moved = [
        published_offset(topic, environment, partition, offset=position, highest=highest[partition])
        for partition, position in positions.items()
        if partition not in offsets or offsets[partition].offset != position
    ]
    if missing or moved:
        _publish(connection, config, producer, missing, moved, progress)
    stream_positions.record_all_published(connection, topic.name)
    return Reconciled(topic.name, positions, ahead, lost, len(missing), doubtful)


def _published_offsets(config: StreamConfig, topic: Topic) -> dict[int, PublishedOffset]:
    consumer = make_offsets_consumer(config.kafka)
    try:
        return attributed_offsets(consumer, topic, seconds=ANSWER_SECONDS)
    finally:
        consumer.close()


class _TopicContents:
    """Every prediction in the predictions topic, while it is read once."""

    def __init__(self, admin: AdminClient, config: StreamConfig, progress: Progress) -> None:
        self._config = config
        self._progress = progress
        topic = topics.describe(admin, config.predictions_topic)
        oldest = topics.list_offsets(admin, topic, EARLIEST)
        self._cut = {partition for partition, low in oldest.items() if low > 0}
        self._oldest: dict[int, datetime] = {}
        self._tombstones: dict[bytes, datetime] | None = {} if topics.retention(admin, topic).is_compacted else None

    def read(self) -> Iterator[PublishedPrediction]:
        """Yield each prediction; skip messages of other producers."""
        decode = msgspec.json.Decoder(_Published).decode
        for number, message in enumerate(read_all(self._config.kafka, self._config.predictions_topic), 1):
            if number % REPORTED_EVERY == 0:
                self._progress("Reading the predictions topic", number)
            milliseconds = message.timestamp()[1]
            if milliseconds not in KNOWN_MILLISECONDS:
                continue
            published_at = UNIX_EPOCH + timedelta(milliseconds=milliseconds)
            self._oldest.setdefault(partition_of(message), published_at)
            key = message.key()
            try:
                found = decode(message.value() or b"")
            except (ValueError, RecursionError):
                if self._tombstones is not None and key is not None:
                    self._tombstones[key] = published_at
                continue
            yield PublishedPrediction(**msgspec.structs.asdict(found), published_at=published_at, message_key=key)

    @property
    def oldest(self) -> datetime | None:
        """When the oldest message that the topic holds was published, once it was read; None if it holds none."""
        return min(self._oldest.values(), default=None)

    @property
    def tombstones(self) -> Mapping[bytes, datetime] | None:
        """When the last tombstone, or other message that is no prediction, of each key was published, once it was read.

        None: the topic is not compacted.
        """
        return self._tombstones

    @property
    def complete_since(self) -> datetime | None:
        """Since when the topic holds everything that was published, once it was read; None: retention deleted nothing.

        If a partition is empty now, it is unknown when its messages were published.
        """
        return max((self._oldest.get(partition, NEVER) for partition in self._cut), default=None)


def _publish(
    connection: psycopg.Connection,
    config: StreamConfig,
    producer: TransactionalProducer,
    event_ids: Sequence[str],
    offsets: Sequence[TopicPartition],
    progress: Progress,
) -> None:
    """Publish the rows of these events, and commit the published offsets, in one transaction."""
    table = prediction_table(config.schema)
    consumer = make_consumer(config.kafka)
    try:
        producer.begin()
        for start in range(0, len(event_ids), CHUNK_ROWS):
            chunk = event_ids[start : start + CHUNK_ROWS]
            rows = churn_predictions.published_columns_of(connection, table, chunk)
            frame = pl.DataFrame(rows, schema=message_types(table), orient="row")
            producer.send(config.predictions_topic, messages_of(frame))
            producer.flush()
            progress("Publishing missing predictions", start + len(chunk))
        if offsets:
            producer.send_offsets(offsets, consumer.consumer_group_metadata())
        producer.commit()
    finally:
        consumer.close()
