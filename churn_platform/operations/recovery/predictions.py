"""Reconcile the ledger with Kafka after the database was restored to an earlier state.

The predictions topic shows what was published after that state. These predictions are stored, so that the stream scores
their events again without publishing them again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import psycopg
from confluent_kafka.admin import AdminClient, OffsetSpec

from churn_platform.database import environments, recovered_predictions, stream_batches
from churn_platform.database.recovered_predictions import PublishedPrediction
from churn_platform.environments.claims import claimed_since
from churn_platform.environments.config import LANE
from churn_platform.environments.published_offsets import (
    PublishedOffset,
    attributed_offsets,
    make_offsets_consumer,
    published_offset,
)
from churn_platform.kafka import topics
from churn_platform.kafka.messages import KNOWN_MILLISECONDS, UNIX_EPOCH
from churn_platform.kafka.reading import make_consumer, read_all
from churn_platform.kafka.topics import EARLIEST, LATEST, Topic
from churn_platform.kafka.transactions import TransactionalProducer
from churn_platform.positions import backlog
from churn_platform.stream.config import StreamConfig

ANSWER_SECONDS: Final = 30.0
GRACE_SECONDS: Final = 10.0
# Predictions of lost rows were published after the last commit that the database has. Kafka's timestamps are from the
# clock of the run that published, which may differ from that of the run that committed.
CLOCK_TOLERANCE: Final = timedelta(hours=1)
REPORTED_EVERY: Final = 100_000

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Reconciled:
    """What was found about the events topic and its predictions.

    Attributes:
        topic: name of the events topic.
        positions: next offset to read, by Kafka partition.
        published: how far predictions had been published, by Kafka partition; only those that are ahead of the ledger.
        predictions: how many predictions of lost rows were found in the predictions topic now.
    """

    topic: str
    positions: Mapping[int, int]
    published: Mapping[int, int]
    predictions: int

    @property
    def offsets(self) -> int:
        """Number of offsets that are read again, transaction markers included."""
        return sum(end - self.positions[partition] for partition, end in self.published.items())


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
    """Store the published predictions whose rows are lost, and let the stream read their events again.

    It can be repeated: what is stored is not stored twice. First the database commits, then the published offsets move
    back to the positions. If the process dies in between, the stream still refuses to start.

    Args:
        connection: holds the stream's lock, in autocommit mode.
        admin: client of the brokers.
        config: of the stream.
        progress: called with the current step and the number of messages that it has read.

    Raises:
        TopicMissingError: the events topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    topic = topics.describe(admin, config.events_topic)
    positions = backlog.register(connection, admin, topic, config.start)
    producer = TransactionalProducer(
        config.kafka,
        f"{config.kafka.group}-{LANE}",
        call_seconds=ANSWER_SECONDS,
        grace_seconds=GRACE_SECONDS,
    )
    progress("Ending open transactions", 0)
    producer.initialize()  # after this, the published offsets and the predictions topic no longer change
    offsets = _published_offsets(config, topic)
    recovered = recovered_predictions.reached(connection, topic.topic_id)
    ahead = {
        partition: found.highest
        for partition, found in offsets.items()
        if found.highest > max(positions[partition], recovered.get(partition, 0))
    }
    published = _published_since(connection, admin, config, progress)
    with connection.transaction():
        lost = recovered_predictions.add_lost(connection, published)
        if ahead:
            recovered_predictions.record(connection, topic_id=topic.topic_id, positions=positions, published=ahead)
    environment = environments.identify(connection)
    _move_published_offsets_back(config, topic, producer, environment, positions=positions, offsets=offsets)
    return Reconciled(topic.name, positions, ahead, lost)


def _published_offsets(config: StreamConfig, topic: Topic) -> dict[int, PublishedOffset]:
    consumer = make_offsets_consumer(config.kafka)
    try:
        return attributed_offsets(consumer, topic, seconds=ANSWER_SECONDS)
    finally:
        consumer.close()


def _published_since(
    connection: psycopg.Connection, admin: AdminClient, config: StreamConfig, progress: Progress
) -> Iterator[PublishedPrediction]:
    """Return the predictions that this environment has published since shortly before the ledger's last commit.

    The connection is not used when they are read.
    """
    claimed = claimed_since(admin, config, environments.find_id(connection))
    committed = stream_batches.last_commit(connection)
    since = max((moment for moment in (claimed, committed) if moment is not None), default=None)
    topic = topics.describe(admin, config.predictions_topic)
    starts = topics.list_offsets(admin, topic, EARLIEST)
    if since is not None:
        ends = topics.list_offsets(admin, topic, LATEST)
        moment = round((since - CLOCK_TOLERANCE).timestamp() * 1000)
        found = topics.list_offsets(admin, topic, OffsetSpec.for_timestamp(moment))
        starts = {partition: found[partition] if found[partition] >= 0 else ends[partition] for partition in starts}
    return _read_predictions(config, starts, progress, since=claimed)


def _read_predictions(
    config: StreamConfig, starts: Mapping[int, int], progress: Progress, *, since: datetime | None
) -> Iterator[PublishedPrediction]:
    decode = msgspec.json.Decoder(_Published).decode
    for number, message in enumerate(read_all(config.kafka, config.predictions_topic, starts), 1):
        if number % REPORTED_EVERY == 0:
            progress("Reading the predictions topic", number)
        milliseconds = message.timestamp()[1]
        if milliseconds not in KNOWN_MILLISECONDS:
            continue
        published_at = UNIX_EPOCH + timedelta(milliseconds=milliseconds)
        if since is not None and published_at < since:
            continue  # of another environment, which published to the topic before this one
        try:
            found = decode(message.value() or b"")
        except (ValueError, RecursionError):  # a message of another producer
            continue
        yield PublishedPrediction(**msgspec.structs.asdict(found), published_at=published_at)


def _move_published_offsets_back(
    config: StreamConfig,
    topic: Topic,
    producer: TransactionalProducer,
    environment: str,
    *,
    positions: Mapping[int, int],
    offsets: Mapping[int, PublishedOffset],
) -> None:
    """Commit the positions as published offsets where these are ahead. They keep how far they were."""
    ahead = {partition: found for partition, found in offsets.items() if found.offset > positions[partition]}
    if not ahead:
        return
    consumer = make_consumer(config.kafka)
    try:
        producer.begin()
        producer.send_offsets(
            [
                published_offset(topic, environment, partition, offset=positions[partition], highest=found.highest)
                for partition, found in ahead.items()
            ],
            consumer.consumer_group_metadata(),
        )
        producer.commit()
    finally:
        consumer.close()
