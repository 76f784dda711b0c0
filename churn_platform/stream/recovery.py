"""Recovery: finding and publishing predictions that an earlier run committed to PostgreSQL but did not publish."""

from collections.abc import Callable, Iterator, Mapping

import msgspec
import polars as pl
import psycopg
from confluent_kafka import Consumer

from churn_platform.database import churn_predictions, recovered_predictions, stream_batches, stream_positions
from churn_platform.database.connections import connect
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.environments.published_offsets import attributed_offsets, require_not_ahead
from churn_platform.kafka.reading import read_all
from churn_platform.kafka.topics import Topic
from churn_platform.lanes import Lane
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.prediction_values import message_types


class _PublishedPrediction(msgspec.Struct):
    """Where a published prediction came from."""

    batch: str
    kafka_partition: int
    kafka_offset: int


class Recovery:
    """Publishes the predictions of a lane between the published offsets and the ledger's positions.

    It runs only after init_transactions(), which settles the open transaction of a dead producer. After that, the
    published offsets are final.
    """

    def __init__(
        self,
        config: StreamConfig,
        topic: Topic,
        positions: Mapping[int, int],
        *,
        lane: Lane,
        require_lock: Callable[[psycopg.Connection], None],
        consumer: Consumer,
        seconds: float,
        most: int,
        send: Callable[[pl.DataFrame, Mapping[int, int]], None],
    ) -> None:
        """Create the recovery.

        Args:
            config: the stream.
            topic: the events topic, with the partitions of the lane alone.
            positions: next offset to read in the ledger, by Kafka partition.
            lane: whose predictions are published.
            require_lock: raises an error unless the run still holds the lock.
            consumer: of the group that carries the published offsets.
            seconds: longest wait for the published offsets.
            most: a transaction covers at most this many offsets.
            send: publishes predictions and offsets in one transaction.
        """
        self._config = config
        self._table = prediction_table(config.schema)
        self._topic = topic
        self._positions = positions
        self._lane = lane
        self._require_lock = require_lock
        self._consumer = consumer
        self._seconds = seconds
        self._most = most
        self._send = send

    def run(self) -> None:
        """Publish what is not published yet.

        Raises:
            LedgerBehindError: more was published than the ledger has read.
            LockLostError: the run no longer holds the lock; nothing was published.
        """
        with connect(self._config.dsn, autocommit=True, application_name="churn publisher") as connection:
            # If the lock is held now, whoever takes it later fences the producer that is initialized by now.
            self._require_lock(connection)
            for topic_id in stream_positions.unpublished_topics(
                connection, self._topic.name, self._lane, other_than=self._topic.topic_id
            ):
                self._publish_deleted_topic(connection, topic_id)
            published = self._published(connection)
            for rows, ends in self._unpublished(connection, self._topic.topic_id, published, self._positions):
                self._send(self._frame(rows), ends)

    def _publish_deleted_topic(self, connection: psycopg.Connection, topic_id: str) -> None:
        """Publish the unpublished predictions of a deleted topic with the same name.

        Its published offsets were deleted with it, but the predictions topic still shows what was published.
        """
        known = self._lane.select(stream_positions.published_to(connection, topic_id))
        found = self._positions_in_topic(connection, topic_id)
        published = {partition: max(offset, found.get(partition, 0)) for partition, offset in known.items()}
        positions = self._lane.select(stream_positions.next_offsets(connection, topic_id))
        for rows, _ in self._unpublished(connection, topic_id, published, positions):
            if rows:
                self._send(self._frame(rows), {})
        stream_positions.record_published(connection, topic_id, lane=self._lane)

    def _unpublished(
        self,
        connection: psycopg.Connection,
        topic_id: str,
        published: Mapping[int, int],
        positions: Mapping[int, int],
    ) -> Iterator[tuple[list[tuple[object, ...]], dict[int, int]]]:
        """Yield the rows of offsets from `published` up to `positions` in parts, and the positions after each part.

        An engine may have committed millions of rows at once, which neither memory nor a transaction could hold. Parts
        without rows, such as offsets that were skipped, are joined with the next one.
        """
        ends: dict[int, int] = {}
        for offsets in _parts({p: range(published.get(p, 0), end) for p, end in positions.items()}, self._most):
            rows = churn_predictions.published_columns(connection, self._table, topic_id, offsets)
            ends.update({partition: each.stop for partition, each in offsets.items()})
            if rows:
                yield rows, ends
                ends = {}
        if ends:
            yield [], ends

    def _published(self, connection: psycopg.Connection) -> dict[int, int]:
        """Return the position up to which everything is published, by Kafka partition.

        The ledger records what was published when a batch last closed. The published offsets record the rest.
        """
        known = stream_positions.published_to(connection, self._topic.topic_id)
        offsets = attributed_offsets(self._consumer, self._topic, seconds=self._seconds)
        # Check again: init_transactions() may have settled a transaction that moved the published offsets.
        recovered = recovered_predictions.reached(connection, self._topic.topic_id)
        require_not_ahead(self._topic.name, self._positions, recovered, offsets)
        found = {partition: each.offset for partition, each in offsets.items()}
        if any(position > known.get(p, 0) and p not in found for p, position in self._positions.items()):
            # Published offsets expire after seven days without a commit.
            found = {**self._positions_in_topic(connection, self._topic.topic_id), **found}
        return {partition: max(known.get(partition, 0), found.get(partition, 0)) for partition in self._positions}

    def _positions_in_topic(self, connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
        """Return the position up to which everything is published, read from the predictions topic itself."""
        own = stream_batches.batches_of_topic(connection, topic_id)
        if not own:
            return {}
        found: dict[int, int] = {}
        decode = msgspec.json.Decoder(_PublishedPrediction).decode
        for message in read_all(self._config.kafka, self._config.predictions_topic):
            try:
                source = decode(message.value() or b"")
            except (ValueError, RecursionError):  # a message of another producer
                continue
            if source.batch in own:
                found[source.kafka_partition] = max(found.get(source.kafka_partition, 0), source.kafka_offset + 1)
        return found

    def _frame(self, rows: list[tuple[object, ...]]) -> pl.DataFrame:
        return pl.DataFrame(rows, schema=message_types(self._table), orient="row")


def _parts(offsets: Mapping[int, range], most: int) -> Iterator[dict[int, range]]:
    """Divide offsets of Kafka partitions into parts of at most this many, in their order."""
    part: dict[int, range] = {}
    room = most
    for partition, left in offsets.items():
        rest = left
        while rest:
            part[partition], rest = rest[:room], rest[room:]
            room -= len(part[partition])
            if not room:
                yield part
                part, room = {}, most
    if part:
        yield part
