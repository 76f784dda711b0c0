"""The invariant of the outcomes: each message that was read is stored, refused or skipped, once."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from churn_platform.database import stored_outcomes, verification
from churn_platform.database.connections import connect
from churn_platform.database.verification import ReadOutcomes
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import BrokerRefusedError, TopicMissingError
from churn_platform.kafka.messages import offset_of, partition_of
from churn_platform.kafka.reading import read_ranges
from churn_platform.kafka.topics import EARLIEST, LATEST, Topic
from churn_platform.operations.verification.extracts import Progress
from churn_platform.operations.verification.invariants import Findings, Invariant
from churn_platform.stream.config import StreamConfig

NAME: Final = "outcomes"
READ_AT_ONCE: Final = 10_000


def outcomes(
    config: StreamConfig,
    topic: str,
    *,
    complete_since: datetime,
    progress: Progress = lambda _stage, _count: None,
) -> Invariant:
    """Check messages read = outcomes stored + refused + skipped, for each partition of the outcomes topic.

    Every message counts, so one that was sent twice is stored twice. The comparison begins with the first reading since
    `complete_since`, because rows of earlier readings may have been deleted. It may run while outcomes are read: the
    tables are read in one snapshot, and Kafka up to the positions in it.

    Args:
        config: of the brokers and the database.
        topic: name of the outcomes topic.
        complete_since: rows received since then were not deleted because of their age.
        progress: called with the current step and the number of rows that it has processed.

    Raises:
        psycopg.Error, KafkaException: a server does not answer.
        BrokerRefusedError: this client may not read a topic that was read before.
        RangeLostError: the topic was truncated while it was read.
    """
    progress("Comparing outcomes", 0)
    admin = clients.admin(config.kafka.client)
    try:
        described = topics.describe(admin, topic)
    except TopicMissingError:
        return Invariant(NAME, True, f"there is no topic {topic} to read", figures={"messages": 0})
    except BrokerRefusedError:
        # Kafka also refuses if the topic does not exist and the client has no right to it.
        with connect(config.dsn, autocommit=True, application_name="churn verify") as connection:
            if stored_outcomes.was_read(connection, topic):
                raise
        return Invariant(
            NAME, True, f"{topic} was never read, and this client has no right to describe it", figures={"messages": 0}
        )
    with connect(config.dsn, autocommit=True, application_name="churn verify") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            read = verification.read_outcomes(connection, described.topic_id, since=complete_since)
    oldest, ends = topics.list_offsets(admin, described, EARLIEST), topics.list_offsets(admin, described, LATEST)
    ranges = {
        partition: (max(each.start, oldest[partition]), min(each.position, ends[partition]))
        for partition, each in read.items()
        if partition in ends
    }
    held = _read_offsets(
        config, described, {p: (start, end) for p, (start, end) in ranges.items() if start < end}, progress
    )
    return _compare(described, read, ends, held)


def _compare(
    topic: Topic, read: dict[int, ReadOutcomes], ends: dict[int, int], held: dict[int, NDArray[np.int64]]
) -> Invariant:
    found = Findings()
    messages = stored = refused = skipped = deleted = 0
    for partition, each in sorted(read.items()):
        where = f"{topic.name}[{partition}]"
        offsets = held.get(partition, np.empty(0, np.int64))
        is_skipped = np.array([any(offset in skip for skip in each.skips) for offset in offsets.tolist()], np.bool_)
        left_out = offsets[is_skipped]
        rows = np.concatenate([each.stored, each.refused, left_out])
        messages += len(np.union1d(offsets, rows))
        stored += len(each.stored)
        refused += len(each.refused)
        skipped += len(left_out)
        deleted += len(np.setdiff1d(rows, offsets))
        missing = np.setdiff1d(offsets, rows)
        found.add(
            len(missing), (f"{where} offset {offset} was read, but is neither stored nor refused" for offset in missing)
        )
        if partition in ends and ends[partition] < each.position:
            found.add(1, [f"{where} ends at {ends[partition]}, but was read up to {each.position}"])
        every, times = np.unique(rows, return_counts=True)
        twice = every[times > 1]
        found.add(len(twice), (f"{where} offset {offset} counts twice" for offset in twice))
        ahead = every[every >= each.position]
        found.add(
            len(ahead),
            (f"{where} offset {offset} is in a table, but the position is {each.position}" for offset in ahead),
        )
    return found.invariant(
        NAME,
        f"messages read = outcomes + refused + skipped: {messages:,} = {stored:,} + {refused:,} + {skipped:,}, in each "
        f"of {len(read):,} partitions of {topic.name}"
        + (f"; {deleted:,} of them deleted from the topic by retention or compaction" if deleted else ""),
        messages=messages,
        outcomes=stored,
        refused=refused,
        skipped=skipped,
        deleted=deleted,
        partitions=len(read),
    )


def _read_offsets(
    config: StreamConfig, topic: Topic, ranges: dict[int, tuple[int, int]], progress: Progress
) -> dict[int, NDArray[np.int64]]:
    """Return the offsets of the messages that Kafka holds in these [start, end), by Kafka partition."""
    if not ranges:
        return {}
    parts: dict[int, list[NDArray[np.int64]]] = {partition: [] for partition in ranges}
    count = 0
    for messages in read_ranges(config.kafka, topic.name, ranges, chunk=READ_AT_ONCE):
        count += len(messages)
        for partition, offsets in _by_partition((partition_of(each), offset_of(each)) for each in messages):
            parts[partition].append(offsets)
        progress("Reading the outcomes topic", count)
    return {p: np.concatenate([np.empty(0, np.int64), *arrays]) for p, arrays in parts.items()}


def _by_partition(places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    found: dict[int, list[int]] = {}
    for partition, offset in places:
        found.setdefault(partition, []).append(offset)
    for partition, offsets in found.items():
        yield partition, np.array(offsets, np.int64)
