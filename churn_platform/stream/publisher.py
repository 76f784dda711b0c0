"""Publishing of predictions: one Kafka transaction per commit, which carries its own marker."""

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import polars as pl
import psycopg
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from churn_platform.database import ledger
from churn_platform.database.connections import connect
from churn_platform.environments.config import LANE
from churn_platform.environments.exceptions import LedgerBehindError
from churn_platform.environments.published_offsets import offset_metadata, published_offsets
from churn_platform.kafka import clients
from churn_platform.kafka.reading import make_consumer, read_all
from churn_platform.kafka.topics import Topic
from churn_platform.stream import faults
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.exceptions import PublishError
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.scoring import ScoredEvents
from churn_platform.transience import is_transient

KAFKA_SECONDS: Final = 15
# librdkafka may forget to return: a coordinator that goes at the wrong moment lets send_offsets_to_transaction() wait
# for ever. So long after its time-out, a call is taken for lost.
GRACE_SECONDS: Final = 5
# While so many predictions wait for Kafka, the next commit waits too: memory stays what it is.
QUEUED_PREDICTIONS: Final = 200_000
# Commits that wait are published together, up to about this many predictions in one transaction.
TRANSACTION_PREDICTIONS: Final = 50_000

# The rows between a marker and the ledger, in the order that they were read. A row belongs to the topic of its
# batch's range: the same offsets may exist in a topic that was deleted and made anew.
_UNPUBLISHED: Final = """
    select p.event_id::text, p.customer_id, p.prediction, p.probability, p.risk_score, p.model_version,
        p.event_timestamp, p.predicted_at, p.geography, p.gender, p.age, p.balance, p.batch, p.kafka_partition,
        p.kafka_offset
    from stream_ranges r
    join churn_predictions p
      on p.batch = r.batch and p.kafka_partition = r.kafka_partition
      and p.kafka_offset >= r.start_offset and p.kafka_offset < r.end_offset
    where r.topic_id = %s and r.kafka_partition = %s and r.end_offset > %s
      and p.kafka_offset >= %s and p.kafka_offset < %s
    order by p.kafka_offset
"""
_OWN_BATCHES: Final = "select distinct batch from stream_ranges where topic_id = %s"

SCHEMA: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "event_id": pl.String,
    "customer_id": pl.Int64,
    "prediction": pl.Int16,
    "probability": pl.Float32,
    "risk_score": pl.Float32,
    "model_version": pl.Int32,
    "event_timestamp": pl.Datetime("us", "UTC"),
    "predicted_at": pl.Datetime("us", "UTC"),
    "geography": pl.String,
    "gender": pl.String,
    "age": pl.Float32,
    "balance": pl.Float64,
    "batch": pl.String,
    "kafka_partition": pl.Int32,
    "kafka_offset": pl.Int64,
}


class _Published(msgspec.Struct):
    """What a published prediction says of where it came from."""

    batch: str
    kafka_partition: int
    kafka_offset: int


@dataclass(frozen=True)
class Publication:
    """What a commit has for Kafka: its predictions, and the position after it, by partition of the events topic."""

    batch: str
    predictions: ScoredEvents | None
    ends: Mapping[int, int]

    def __len__(self) -> int:
        return 0 if self.predictions is None else len(self.predictions)


def prediction_frame(batch: str, scored: ScoredEvents) -> pl.DataFrame:
    """Predictions as they are published, one row each, with the columns of SCHEMA."""
    events = scored.events
    hexadecimal = pl.Series("event_id", events.event_id.tolist(), pl.Binary).bin.encode("hex")
    groups = [hexadecimal.str.slice(start, length) for start, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    frame = pl.DataFrame(
        {
            "event_id": groups[0] + "-" + groups[1] + "-" + groups[2] + "-" + groups[3] + "-" + groups[4],
            "customer_id": events.customer_id,
            "prediction": scored.prediction,
            "probability": scored.risk_score,
            "risk_score": scored.risk_score,
            "model_version": pl.repeat(scored.model_version, len(scored), dtype=pl.Int32, eager=True),
            "event_timestamp": pl.Series(events.event_timestamp).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "predicted_at": pl.repeat(scored.predicted_at, len(scored), dtype=pl.Int64, eager=True)
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
            "geography": pl.Series(events.customers["Geography"].tolist(), dtype=pl.String),
            "gender": pl.Series(events.customers["Gender"].tolist(), dtype=pl.String),
            "age": events.customers["Age"],
            "balance": events.customers["Balance"],
            "batch": pl.repeat(batch, len(scored), dtype=pl.String, eager=True),
            "kafka_partition": events.kafka_partition,
            "kafka_offset": events.kafka_offset,
        },
        schema=SCHEMA,
    )
    return frame.with_columns(pl.col("age").fill_nan(None))


def messages_of(predictions: pl.DataFrame) -> list[dict[str, Any]]:
    """The predictions as Producer.produce_batch() takes them: key CustomerId, value flat JSON, times in ISO 8601."""
    times = pl.col("event_timestamp", "predicted_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    values = predictions.with_columns(times).select(pl.struct(*SCHEMA).struct.json_encode()).to_series().to_list()
    keys = predictions["customer_id"].cast(pl.String).to_list()
    return [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]


class Publisher(threading.Thread):
    """Publishes commits in their order, each exactly once, from a thread of its own.

    Started only by the run that holds the stream's lock: init_transactions() fences whoever published before. A
    transaction that fails, or whose end is not known, ends the thread: the next publisher has a new producer, which
    settles what this one left open, and reads from the marker what became of it.
    """

    def __init__(self, config: StreamConfig, environment: str) -> None:
        """Make the clients; nothing is sent before begin().

        Args:
            environment: id of the environment, which published_offsets carry.
        """
        super().__init__(name="publisher", daemon=True)
        self._config = config
        self._environment = environment
        self._queue: queue.SimpleQueue[Publication | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._queued = 0
        self._released = False
        self._consumer = make_consumer(config.kafka)
        # Asked from this thread while the main thread polls, the group's metadata would come seconds late.
        self._group = self._consumer.consumer_group_metadata()
        self._producer = clients.producer(
            {
                **config.kafka.client,
                "transactional.id": f"{config.kafka.group}-{LANE}",
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 0,
                "retry.backoff.ms": 5,  # the default of 100 turns 7 ms of sending the marker into 98 ms
                "batch.size": 1_000_000,
                "batch.num.messages": 100_000,
                "queue.buffering.max.messages": 1_000_000,
                "partitioner": "murmur2_random",  # as Java clients do, so a customer's messages share a partition
                "log_level": 3,  # a broker that still loads its transaction log makes harmless noise below error
            }
        )
        self.error: BaseException | None = None
        self._overdue = math.inf
        self.published = 0
        self.recovered = 0

    def warm_up(self) -> None:
        """Find the brokers of the predictions topic, which has to exist, before there is something to send."""
        self._producer.list_topics(self._config.predictions_topic, KAFKA_SECONDS)

    def require_not_ahead(self, topic: Topic, positions: Mapping[int, int]) -> None:
        """Refuse to go on where more was published than the ledger has read. Only before begin().

        Args:
            topic: that the events come from.
            positions: next offset to read, by Kafka partition.

        Raises:
            LedgerBehindError: the database was restored to an earlier state.
        """
        require_not_ahead(topic.name, positions, published_offsets(self._consumer, topic, seconds=KAFKA_SECONDS))

    def begin(self, topic: Topic, positions: Mapping[int, int]) -> None:
        """Start the thread. First it publishes what lies between the marker and these positions of the ledger.

        Args:
            topic: that the events come from.
            positions: next offset to read, by Kafka partition.
        """
        self._topic = topic
        self._positions = dict(positions)
        self.start()

    def put(self, publication: Publication) -> None:
        """Hand over a commit; waits while too many predictions wait already.

        Raises:
            PublishError: the thread has failed.
        """
        with self._room:
            while self._queued > QUEUED_PREDICTIONS:
                self.check()
                self._room.wait(0.5)
            self._queued += len(publication)
        self._queue.put(publication)

    def check(self) -> None:
        """Raise what stopped the thread, if it has stopped, or if a call of it does not return.

        Raises:
            PublishError: Kafka did not take a transaction.
        """
        error = self.error
        if error is None and time.monotonic() > self._overdue:
            # The thread is left where it is: the next publisher's init_transactions() fences its producer.
            lost = f"a call has not returned for {KAFKA_SECONDS + GRACE_SECONDS} s, its time-out was {KAFKA_SECONDS} s"
            error = KafkaException(KafkaError(KafkaError._TIMED_OUT, lost))
        if error is not None:
            raise PublishError(
                f"Predictions could not be published to {self._config.predictions_topic!r}: {error}. "
                f"They are safe in churn_predictions and are published before anything that follows.",
                transient=is_transient(error),
            ) from error

    def finish(self, meanwhile: Callable[[], object], *, every: float) -> None:
        """Wait until everything handed over is published, and end the thread.

        Args:
            meanwhile: called while it lasts, every so many seconds.

        Raises:
            PublishError: something was not.
        """
        self._queue.put(None)
        while self.is_alive():
            self.join(every)
            if self.is_alive():
                meanwhile()
                self.check()
        self.check()

    def release(self) -> None:
        """Let the thread end as soon as it can, whatever is still queued."""
        self._released = True
        self._queue.put(None)
        if self.ident is None:  # never started: nothing else closes it
            self._consumer.close()

    def run(self) -> None:
        """The thread's work; see begin()."""
        try:
            self._within(self._producer.init_transactions, KAFKA_SECONDS)
            self._recover()
            while (publications := self._take()) is not None:
                if publications:
                    self._send_all(publications)
        except BaseException as error:  # handed to the main thread, which raises it
            self.error = error
        finally:
            self._consumer.close()

    def _take(self) -> list[Publication] | None:
        """What waits, at least one commit; None at the end."""
        first = self._queue.get()
        if first is None or self._released:
            return None
        taken = [first]
        while sum(map(len, taken)) < TRANSACTION_PREDICTIONS:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                self._queue.put(None)  # the end: seen again by the next call
                break
            taken.append(following)
        with self._room:
            self._queued -= sum(map(len, taken))
            self._room.notify()
        return taken

    def _send_all(self, publications: Sequence[Publication]) -> None:
        ends: dict[int, int] = {}
        frames = [pl.DataFrame(schema=SCHEMA)]
        for publication in publications:
            ends.update(publication.ends)
            if publication.predictions is not None:
                frames.append(prediction_frame(publication.batch, publication.predictions))
        self._send(pl.concat(frames), ends)

    def _send(self, predictions: pl.DataFrame, ends: Mapping[int, int]) -> None:
        """One transaction: the predictions and, as their marker, the position that they reach."""
        self._producer.begin_transaction()
        if len(predictions):
            messages = messages_of(predictions)
            self._producer.produce_batch(self._config.predictions_topic, messages)
            refused = [message["_error"] for message in messages if "_error" in message]  # set by produce_batch()
            if refused:
                raise KafkaException(refused[0])
        if ends:
            note = offset_metadata(self._topic, self._environment)
            marker = [TopicPartition(self._topic.name, partition, end, note) for partition, end in ends.items()]
            self._within(self._producer.send_offsets_to_transaction, marker, self._group, KAFKA_SECONDS)
        faults.reach(FaultPoint.BEFORE_KAFKA_COMMIT)
        self._within(self._producer.commit_transaction, KAFKA_SECONDS)
        faults.reach(FaultPoint.AFTER_KAFKA_COMMIT)
        self.published += len(predictions)

    def _within(self, call: Callable[..., object], *arguments: object) -> None:
        """Make a call that is to return within KAFKA_SECONDS; check() tells when it does not."""
        self._overdue = time.monotonic() + KAFKA_SECONDS + GRACE_SECONDS
        call(*arguments)
        self._overdue = math.inf

    def _recover(self) -> None:
        """Publish what a former run committed to PostgreSQL and not to Kafka.

        Only after init_transactions(), which settles the open transaction of a dead producer: the marker is final.
        """
        with connect(self._config.dsn, autocommit=True, application_name="churn publisher") as connection:
            for topic_id in ledger.unpublished_topics(connection, self._topic.name, other_than=self._topic.topic_id):
                # Its published_offsets went with the topic. What the predictions topic itself holds cannot be mistaken.
                known, found = (
                    ledger.published_to(connection, topic_id),
                    self._published_positions(connection, topic_id),
                )
                published = {partition: max(offset, found.get(partition, 0)) for partition, offset in known.items()}
                self._catch_up(connection, topic_id, published, ledger.positions_of(connection, topic_id), marked=False)
                ledger.mark_published(connection, topic_id)
            published = self._published(connection)
            self._catch_up(connection, self._topic.topic_id, published, self._positions, marked=True)

    def _catch_up(
        self,
        connection: psycopg.Connection,
        topic_id: str,
        published: Mapping[int, int],
        positions: Mapping[int, int],
        *,
        marked: bool,
    ) -> None:
        """Publish the predictions of offsets from `published` up to `positions`, by Kafka partition."""
        behind = {p: position for p, position in positions.items() if published.get(p, 0) < position}
        if not behind:
            return
        rows: list[tuple[object, ...]] = []
        for partition, position in behind.items():
            start = published.get(partition, 0)
            rows += connection.execute(_UNPUBLISHED, (topic_id, partition, start, start, position)).fetchall()
        if rows or marked:
            self._send(pl.DataFrame(rows, schema=SCHEMA, orient="row"), behind if marked else {})
        self.recovered += len(rows)

    def _published(self, connection: psycopg.Connection) -> dict[int, int]:
        """Position up to which everything is published, by Kafka partition.

        The ledger knows as much of it as was published when a batch last closed; the marker knows the rest.
        """
        known = ledger.published_to(connection, self._topic.topic_id)
        found = published_offsets(self._consumer, self._topic, seconds=KAFKA_SECONDS)
        # Again: the transaction that init_transactions() has settled may have moved them.
        require_not_ahead(self._topic.name, self._positions, found)
        if any(position > known.get(p, 0) and p not in found for p, position in self._positions.items()):
            # Markers expire after seven days without a commit.
            found = {**self._published_positions(connection, self._topic.topic_id), **found}
        return {partition: max(known.get(partition, 0), found.get(partition, 0)) for partition in self._positions}

    def _published_positions(self, connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
        """Position up to which everything is published, from the predictions topic itself."""
        own = {batch for (batch,) in connection.execute(_OWN_BATCHES, (topic_id,))}
        if not own:
            return {}
        found: dict[int, int] = {}
        decode = msgspec.json.Decoder(_Published).decode
        for message in read_all(self._config.kafka, self._config.predictions_topic):
            try:
                source = decode(message.value() or b"")
            except (ValueError, RecursionError):  # somebody else's message, of which nothing follows
                continue
            if source.batch in own:
                found[source.kafka_partition] = max(found.get(source.kafka_partition, 0), source.kafka_offset + 1)
        return found


def require_not_ahead(topic: str, positions: Mapping[int, int], published: Mapping[int, int]) -> None:
    """Refuse a ledger that stands before what was published from it.

    Predictions are published after the commit that holds them, so a published offset is never ahead of the ledger,
    unless the ledger is an earlier one. Going on would publish the offsets between for a second time.

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
        f"The database stands before what was published from it: {seen}. It was restored to an earlier state, or a "
        f"failover lost its last commits. Going on would publish these predictions a second time.",
        remedy=f"Restore a state of the database that has these offsets. Or give up their rows: the predictions stay "
        f"published, and churn_predictions never holds them: {commands}.",
    )
