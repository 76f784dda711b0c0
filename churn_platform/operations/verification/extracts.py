"""What verification compares: ledger, rows, dead letters and published predictions, in a few bytes per event."""

import uuid
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import psycopg
from numpy.typing import NDArray

from churn_platform.database import erased_customers, stream_positions, verification
from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.database.stream_positions import Position
from churn_platform.database.verification import Integers
from churn_platform.kafka import clients, topics
from churn_platform.kafka.messages import KNOWN_MILLISECONDS
from churn_platform.kafka.reading import read_all
from churn_platform.kafka.topics import EARLIEST
from churn_platform.stream.config import StreamConfig

Progress = Callable[[str, int], None]

REPORTED_EVERY: Final = 100_000
# Fixed length, so that comparing them as strings compares all 16 bytes.
ID_TYPE: Final = "S16"


@dataclass(frozen=True)
class Batches:
    """The n batches of the ledger, by key."""

    keys: list[str]
    events: Integers
    predictions: Integers
    dead_letters: Integers
    duplicates: Integers
    erased: Integers
    replays: Integers
    archived: NDArray[np.bool_]


@dataclass(frozen=True)
class Ranges:
    """Offset ranges by batch and Kafka partition. `partition` is an index of Extract.partitions; -1 is none of them."""

    batch: Integers
    kafka_partition: Integers
    partition: Integers
    start: Integers
    end: Integers

    def partition_of(self, batch: Integers, kafka_partition: Integers, offset: Integers) -> Integers:
        """Return, for each of n offsets, the partition whose range in that batch contains it; -1 if there is none."""
        width = 1 + max(int(self.kafka_partition.max(initial=0)), int(kafka_partition.max(initial=0)))
        keys = self.batch.astype(np.int64) * width + self.kafka_partition
        wanted = batch.astype(np.int64) * width + kafka_partition
        first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
        found = np.full(len(wanted), -1, np.int32)
        for step in range(int((last - first).max(initial=0))):
            index = np.minimum(first + step, len(keys) - 1)
            inside = (first + step < last) & (self.start[index] <= offset) & (offset < self.end[index])
            found[inside] = self.partition[index[inside]]
        return found


@dataclass(frozen=True)
class Rows:
    """The n rows of churn_predictions. `batch` is an index of Extract.batches; -1 is none of them."""

    event_id: NDArray[np.bytes_]
    batch: Integers
    kafka_partition: Integers
    offset: Integers
    risk_score: NDArray[np.float32]


@dataclass(frozen=True)
class DeadLetters:
    """The n rows of dead_letter_events."""

    batch: Integers
    kafka_partition: Integers
    partition: Integers
    offset: Integers


@dataclass(frozen=True)
class Extract:
    """The stream's tables in one snapshot."""

    batches: Batches
    partitions: list[Position]
    ranges: Ranges
    rows: Rows
    dead_letters: DeadLetters
    erased: ErasedCustomers


@dataclass(frozen=True)
class Published:
    """The n published predictions, in the order of their ids. `batch` is an index of `batch_keys`.

    `newest` is when the last prediction of each of `batch_keys` was published, in milliseconds since 1970.
    `foreign` is the number of messages that are not predictions, such as tombstones, and `erased` that of predictions
    of erased customers. Both are not among the n.
    `deleted_until`: predictions published before this time, in milliseconds since 1970, may have been deleted by the
    topic's retention; None if none were deleted.
    `newest_of_key` is when the last message of each key was published, in milliseconds since 1970, if the topic is
    compacted: Kafka may have deleted the earlier ones. None if it is not compacted. The key is the customer's id.
    """

    event_id: NDArray[np.bytes_]
    risk_score: NDArray[np.float32]
    batch: Integers
    batch_keys: list[str]
    newest: NDArray[np.int64]
    foreign: int
    erased: int
    deleted_until: int | None
    newest_of_key: dict[bytes, int] | None


class _Prediction(msgspec.Struct):
    event_id: uuid.UUID
    customer_id: int | str
    risk_score: float
    batch: str


@dataclass
class _Gathered:
    """Published predictions, while the topic is read."""

    ids: bytearray = field(default_factory=bytearray)
    risks: "array[float]" = field(default_factory=lambda: array("f"))
    batches: "array[int]" = field(default_factory=lambda: array("i"))
    keys: dict[str, int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    oldest: dict[int, int] = field(default_factory=dict)
    foreign: int = 0
    erased: int = 0


def read_tables(connection: psycopg.Connection, progress: Progress) -> Extract:
    """Read the tables in the open transaction, which must be repeatable read for them to be consistent."""
    listed = verification.batch_counts(connection)
    columns = list(zip(*listed, strict=True)) if listed else [()] * 8
    events, predictions, dead_letters, duplicates, erased, replays = (
        np.array(column, np.int64) for column in columns[1:7]
    )
    partitions = stream_positions.positions(connection)
    ranges = verification.range_columns(connection)
    event_ids, risk_scores, places = verification.prediction_columns(
        connection, on_rows=lambda count: progress("Reading churn_predictions", count)
    )
    dead_letter_places = verification.dead_letter_columns(
        connection, on_rows=lambda count: progress("Reading dead_letter_events", count)
    )
    return Extract(
        batches=Batches(
            keys=[str(key) for key in columns[0]],
            events=events,
            predictions=predictions,
            dead_letters=dead_letters,
            duplicates=duplicates,
            erased=erased,
            replays=replays,
            archived=np.array(columns[7], np.bool_),
        ),
        partitions=partitions,
        ranges=Ranges(**ranges),
        rows=Rows(event_id=event_ids.view(ID_TYPE), risk_score=risk_scores, **places),
        dead_letters=DeadLetters(**dead_letter_places),
        erased=erased_customers.load(connection),
    )


def read_published(config: StreamConfig, erased: ErasedCustomers, progress: Progress) -> Published:
    """Return every committed prediction in the predictions topic, but those of erased customers.

    Raises:
        TopicMissingError: there is no such topic.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    admin = clients.admin(config.kafka.client)
    topic = topics.describe(admin, config.predictions_topic)
    beginnings = topics.list_offsets(admin, topic, EARLIEST)
    # Some 150 bytes per customer, which the check of a topic that is not compacted does not need.
    newest_of_key: dict[bytes, int] | None = {} if topics.retention(admin, topic).is_compacted else None
    decode = msgspec.json.Decoder(_Prediction).decode
    gathered = _Gathered()
    for number, message in enumerate(read_all(config.kafka, config.predictions_topic), 1):
        published, key = message.timestamp()[1], message.key()
        if newest_of_key is not None and key is not None:
            newest_of_key[key] = max(newest_of_key.get(key, published), published)
        try:
            prediction = decode(message.value() or b"")
        except (ValueError, RecursionError):  # also if it is not UTF-8, or nested thousands of levels deep
            gathered.foreign += 1
            continue
        if prediction.customer_id in erased:
            gathered.erased += 1
            continue
        gathered.ids += prediction.event_id.bytes
        gathered.risks.append(prediction.risk_score)
        gathered.batches.append(gathered.keys.setdefault(prediction.batch, len(gathered.keys)))
        gathered.newest[prediction.batch] = max(gathered.newest.get(prediction.batch, 0), published)
        gathered.oldest.setdefault(message.partition() or 0, published)
        if number % REPORTED_EVERY == 0:
            progress("Reading the predictions topic", number)
    ids = np.frombuffer(bytes(gathered.ids), ID_TYPE)
    order = np.argsort(ids)
    cut = [partition for partition, low in beginnings.items() if low > 0]
    return Published(
        event_id=ids[order],
        risk_score=np.array(gathered.risks, np.float32)[order],
        batch=np.array(gathered.batches, np.int32)[order],
        batch_keys=list(gathered.keys),
        newest=np.array([gathered.newest[key] for key in gathered.keys], np.int64),
        foreign=gathered.foreign,
        erased=gathered.erased,
        # If a partition is empty now, it is unknown when its messages were published.
        deleted_until=max((gathered.oldest.get(partition, KNOWN_MILLISECONDS[-1]) for partition in cut), default=None),
        newest_of_key=newest_of_key,
    )
