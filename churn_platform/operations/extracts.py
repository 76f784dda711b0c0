"""What verification compares: ledger, rows, dead letters and published predictions, as compact arrays."""

import uuid
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from churn_platform.database.bulk import read_columns
from churn_platform.kafka import clients, topics
from churn_platform.kafka.reading import read_all
from churn_platform.kafka.topics import EARLIEST
from churn_platform.stream.config import StreamConfig

Integers = NDArray[np.signedinteger[Any]]
Progress = Callable[[str, int], None]

REPORTED_EVERY: Final = 100_000
# Fixed length, so that comparing them as strings compares all 16 bytes.
ID_TYPE: Final = "S16"

_BATCHES: Final = """
    select batch, events, predictions, dead_letters, duplicates, replays, archived is not null
    from stream_batches order by batch
"""
_STREAMS: Final = """
    select topic_id, topic, kafka_partition, first_offset, covered_to, next_offset
    from stream_positions join stream_topics using (topic_id) order by topic_id, kafka_partition
"""
_NUMBERED: Final = sql.SQL("""
    with batches as (
        select batch, (row_number() over (order by batch) - 1)::integer as number from stream_batches
    ), streams as (
        select topic_id, kafka_partition,
            (row_number() over (order by topic_id, kafka_partition) - 1)::integer as number
        from stream_positions
    )
""")
_RANGES: Final = _NUMBERED + sql.SQL("""
    select b.number, r.kafka_partition, coalesce(s.number, -1), r.start_offset, r.end_offset
    from stream_ranges r join batches b using (batch) left join streams s using (topic_id, kafka_partition)
    order by b.number, r.kafka_partition, r.start_offset
""")
_ROWS: Final = _NUMBERED + sql.SQL("""
    select p.event_id, coalesce(b.number, -1), p.kafka_partition, p.kafka_offset, p.risk_score
    from churn_predictions p left join batches b using (batch)
""")
_LETTERS: Final = _NUMBERED + sql.SQL("""
    select coalesce(b.number, -1), d.kafka_partition, coalesce(s.number, -1), d.kafka_offset
    from dead_letter_events d left join batches b using (batch) left join streams s using (topic_id, kafka_partition)
""")


@dataclass(frozen=True)
class Batches:
    """n batches of the ledger, by key."""

    keys: list[str]
    events: Integers
    predictions: Integers
    dead_letters: Integers
    duplicates: Integers
    replays: Integers
    archived: NDArray[np.bool_]


@dataclass(frozen=True)
class Partition:
    """One Kafka partition of one topic, as the ledger has it."""

    topic_id: str
    topic: str
    kafka_partition: int
    first_offset: int
    covered_to: int
    next_offset: int

    def __str__(self) -> str:
        """topic[partition], with the topic's id."""
        return f"{self.topic}[{self.kafka_partition}] ({self.topic_id})"


@dataclass(frozen=True)
class Ranges:
    """Offset ranges by batch and Kafka partition. `partition` counts in Extract.partitions, -1 is none of them."""

    batch: Integers
    kafka_partition: Integers
    partition: Integers
    start: Integers
    end: Integers

    def partition_of(self, batch: Integers, kafka_partition: Integers, offset: Integers) -> Integers:
        """For each of n offsets the partition whose range of that batch holds it, -1 where none does."""
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
    """n rows of churn_predictions; `batch` counts in Extract.batches, -1 is none of them."""

    event_id: NDArray[np.bytes_]
    batch: Integers
    kafka_partition: Integers
    offset: Integers
    risk_score: NDArray[np.float32]


@dataclass(frozen=True)
class Letters:
    """n rows of dead_letter_events."""

    batch: Integers
    kafka_partition: Integers
    partition: Integers
    offset: Integers


@dataclass(frozen=True)
class Extract:
    """The stream's tables in one snapshot."""

    batches: Batches
    partitions: list[Partition]
    ranges: Ranges
    rows: Rows
    letters: Letters


@dataclass(frozen=True)
class Published:
    """n published predictions, in the order of their ids. `batch` counts in `batch_keys`.

    `newest` is when the last prediction of each of `batch_keys` was published, in milliseconds since 1970.
    `foreign` counts messages that are no prediction.
    `deleted_until`: what was published before this moment, in milliseconds since 1970, may have been deleted by the
    topic's retention; None when nothing was.
    """

    event_id: NDArray[np.bytes_]
    risk_score: NDArray[np.float32]
    batch: Integers
    batch_keys: list[str]
    newest: NDArray[np.int64]
    foreign: int
    deleted_until: int | None


class _Prediction(msgspec.Struct):
    event_id: uuid.UUID
    risk_score: float
    batch: str


@dataclass
class _Gathered:
    """Published predictions while the topic is read."""

    ids: bytearray = field(default_factory=bytearray)
    risks: "array[float]" = field(default_factory=lambda: array("f"))
    batches: "array[int]" = field(default_factory=lambda: array("i"))
    keys: dict[str, int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    oldest: dict[int, int] = field(default_factory=dict)
    foreign: int = 0


def read_tables(connection: psycopg.Connection, progress: Progress) -> Extract:
    """The tables as the open transaction sees them; all of them alike only if it is repeatable read."""
    listed = connection.execute(_BATCHES).fetchall()
    columns = list(zip(*listed, strict=True)) if listed else [()] * 7
    events, predictions, dead_letters, duplicates, replays = (np.array(column, np.int64) for column in columns[1:6])
    partitions = [Partition(*row) for row in connection.execute(_STREAMS).fetchall()]
    with connection.cursor() as cursor:
        ranges = read_columns(
            cursor,
            _RANGES,
            {
                "batch": "integer",
                "kafka_partition": "integer",
                "partition": "integer",
                "start": "bigint",
                "end": "bigint",
            },
        )
        rows = read_columns(
            cursor,
            _ROWS,
            {
                "event_id": "uuid",
                "batch": "integer",
                "kafka_partition": "integer",
                "offset": "bigint",
                "risk_score": "real",
            },
            on_rows=lambda count: progress("Reading churn_predictions", count),
        )
        letters = read_columns(
            cursor,
            _LETTERS,
            {"batch": "integer", "kafka_partition": "integer", "partition": "integer", "offset": "bigint"},
            on_rows=lambda count: progress("Reading dead_letter_events", count),
        )
    return Extract(
        batches=Batches(
            keys=list(columns[0]),
            events=events,
            predictions=predictions,
            dead_letters=dead_letters,
            duplicates=duplicates,
            replays=replays,
            archived=np.array(columns[6], np.bool_),
        ),
        partitions=partitions,
        ranges=Ranges(**_integers(ranges)),
        rows=Rows(
            event_id=rows.pop("event_id").view(ID_TYPE),
            risk_score=rows.pop("risk_score").astype(np.float32, copy=False),
            **_integers(rows),
        ),
        letters=Letters(**_integers(letters)),
    )


def _integers(columns: dict[str, NDArray[np.generic]]) -> dict[str, Integers]:
    return {name: values.astype(f"i{values.dtype.itemsize}", copy=False) for name, values in columns.items()}


def read_published(config: StreamConfig, progress: Progress) -> Published:
    """Every committed prediction that the predictions topic holds.

    Raises:
        TopicMissingError: there is no such topic.
    """
    admin = clients.admin(config.kafka.client)
    beginnings = topics.list_offsets(admin, topics.describe(admin, config.predictions_topic), EARLIEST)
    decode = msgspec.json.Decoder(_Prediction).decode
    gathered = _Gathered()
    for number, message in enumerate(read_all(config.kafka, config.predictions_topic), 1):
        try:
            prediction = decode(message.value() or b"")
        except (ValueError, RecursionError):  # not UTF-8, and nested by the thousands, too
            gathered.foreign += 1
            continue
        gathered.ids += prediction.event_id.bytes
        gathered.risks.append(prediction.risk_score)
        gathered.batches.append(gathered.keys.setdefault(prediction.batch, len(gathered.keys)))
        published = message.timestamp()[1]
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
        # A partition of which nothing is left may have held anything.
        deleted_until=max((gathered.oldest.get(partition, 2**62) for partition in cut), default=None),
    )
