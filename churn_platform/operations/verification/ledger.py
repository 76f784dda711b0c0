"""Invariants of the ledger and the events topic: every offset is in one range or skip, and the log is the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import psycopg

from churn_platform.database import stream_batches, stream_positions
from churn_platform.database.stream_positions import Position
from churn_platform.environments.published_offsets import make_offsets_consumer, published_offsets
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import RangeLostError, TopicMissingError
from churn_platform.kafka.reading import make_consumer, read_ranges
from churn_platform.kafka.topics import EARLIEST, LATEST, Topic
from churn_platform.operations.verification.extracts import Extract, Progress
from churn_platform.operations.verification.invariants import Findings, Invariant
from churn_platform.positions.truncation import resume
from churn_platform.stream.config import StreamConfig

ANSWER_SECONDS: Final = 10
MESSAGES_AT_ONCE: Final = 10_000


@dataclass(frozen=True)
class KafkaStatus:
    """The events topic, or None if it does not exist, and the published offsets by Kafka partition."""

    topic: Topic | None
    published_offsets: Mapping[int, int]


def collect_kafka_status(config: StreamConfig) -> KafkaStatus:
    """Return the current status of the events topic."""
    admin = clients.admin(config.kafka.client)
    try:
        topic = topics.describe(admin, config.events_topic)
    except TopicMissingError:
        return KafkaStatus(None, {})
    consumer = make_offsets_consumer(config.kafka)
    try:
        return KafkaStatus(topic, published_offsets(consumer, topic, seconds=ANSWER_SECONDS))
    finally:
        consumer.close()


def coverage(
    connection: psycopg.Connection, config: StreamConfig, extract: Extract, before: KafkaStatus, progress: Progress
) -> Invariant:
    """Check that ranges and skips cover each partition exactly once, from its first offset up to its last event.

    Each range is of a partition of its batch's lane.
    """
    progress("Checking the ledger", len(extract.partitions))
    found, ranges = Findings(), extract.ranges
    skips = stream_positions.skips(connection)
    unknown = int((ranges.partition < 0).sum())
    found.add(unknown, [f"{unknown} ranges are of partitions that have no position"] if unknown else [])
    skipped = 0
    for number, partition in enumerate(extract.partitions):
        own = skips.get((partition.topic_id, partition.kafka_partition), [])
        skipped += sum(end - start for start, end in own)
        mine = ranges.partition == number
        pieces = sorted([*own, *zip(ranges.start[mine].tolist(), ranges.end[mine].tolist(), strict=True)])
        problems = _coverage_problems(partition, pieces)
        found.add(len(problems), problems)
    strays = [
        f"batch {batch} has read partition {number}, which is not of its lane"
        for batch, number in stream_batches.ranges_of_other_lanes(connection)
    ]
    found.add(len(strays), strays)
    unread = _events_after_ranges(config, extract, before)
    found.add(len(unread), unread)
    return found.invariant(
        "ledger",
        f"{len(ranges.batch):,} ranges and {sum(map(len, skips.values())):,} skips ({skipped:,} offsets) cover "
        f"{len(extract.partitions):,} partitions once, and no event is between them and the positions",
        ranges=len(ranges.batch),
        skipped_offsets=skipped,
        partitions=len(extract.partitions),
    )


def _coverage_problems(partition: Position, pieces: list[tuple[int, int]]) -> list[str]:
    """Return the gaps and overlaps of these sorted [start, end) of a partition, as sentences."""
    problems, reached = [], partition.first_offset
    for start, end in pieces:
        if start > reached:
            problems.append(f"{partition}: offsets {reached}..{start - 1} are in no range")
        elif start < reached:
            problems.append(
                f"{partition}: offsets {start}..{min(reached, end) - 1} are in two ranges, or before the first"
            )
        reached = max(reached, end)
    if reached != partition.covered_to:
        problems.append(f"{partition}: ranges end at {reached}, covered_to is {partition.covered_to}")
    if partition.covered_to > partition.next_offset:
        problems.append(f"{partition}: covered_to {partition.covered_to} is past the position {partition.next_offset}")
    return problems


def _events_after_ranges(config: StreamConfig, extract: Extract, before: KafkaStatus) -> list[str]:
    """Return, as sentences, the events between the last range and the position of a partition: no batch has them."""
    if before.topic is None:
        return []
    admin = clients.admin(config.kafka.client)
    oldest = topics.list_offsets(admin, before.topic, EARLIEST)
    ends = topics.list_offsets(admin, before.topic, LATEST)
    unread = {}
    for partition in extract.partitions:
        number = partition.kafka_partition
        if partition.topic_id == before.topic.topic_id and number in ends:
            start, end = max(partition.covered_to, oldest[number]), min(partition.next_offset, ends[number])
            if start < end:
                unread[number] = (start, end)
    if not unread:
        return []
    return [
        f"{before.topic.name}[{message.partition()}] offset {message.offset()} holds an event that no batch has read"
        for messages in read_ranges(config.kafka, before.topic.name, unread, chunk=MESSAGES_AT_ONCE)
        for message in messages
    ]


def log(connection: psycopg.Connection, config: StreamConfig, before: KafkaStatus) -> Invariant:
    """Check that the events topic still holds the records that were read last, at the same offsets."""
    found, compared = Findings(), 0
    if before.topic is not None:
        topic = before.topic
        positions = stream_positions.next_offsets(connection, topic.topic_id)
        known = stream_positions.last_records(connection, topic.topic_id)
        compared = len(known)
        for partition, position in positions.items():
            consumer = make_consumer(config.kafka)
            try:
                resume(consumer, topic.name, {partition: position}, known)
            except RangeLostError as error:
                found.add(1, [str(error)])
            finally:
                consumer.close()
    return found.invariant(
        "log",
        f"{config.events_topic} holds the next offsets, and the last records read from {compared:,} partitions are "
        f"still in it or were deleted by retention",
        partitions=compared,
    )


def lag(config: StreamConfig, extract: Extract, before: KafkaStatus) -> Invariant:
    """Report the lag of the events topic. Any number is valid."""
    if before.topic is None:
        return Invariant("lag", True, f"there is no topic {config.events_topic} to read", figures={"waiting": 0})
    ends = topics.list_offsets(clients.admin(config.kafka.client), before.topic, LATEST)
    waiting = {
        partition.kafka_partition: max(0, ends[partition.kafka_partition] - partition.next_offset)
        for partition in extract.partitions
        if partition.topic_id == before.topic.topic_id and partition.kafka_partition in ends
    }
    total = sum(waiting.values())
    return Invariant(
        "lag",
        True,
        f"{total:,} offsets of {before.topic.name} are not yet read (for information)",
        figures={"waiting": total, **{f"waiting_{number}": count for number, count in waiting.items()}},
    )
