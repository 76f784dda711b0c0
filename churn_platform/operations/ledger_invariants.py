"""The invariants of the ledger: each event counted once, each offset in one range, the log as it was read."""

from typing import Final

import numpy as np
import psycopg

from churn_platform.database import stream_positions
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import RangeLostError
from churn_platform.kafka.reading import make_consumer, read_ranges
from churn_platform.kafka.topics import EARLIEST, LATEST
from churn_platform.operations.event_ids import id_text
from churn_platform.operations.event_log import EventLog
from churn_platform.operations.extracts import Extract, Partition, Progress
from churn_platform.operations.invariant import Findings, Invariant
from churn_platform.positions.truncation import resume
from churn_platform.stream.config import StreamConfig

# More than any offset of a partition.
OFFSETS: Final = 2**44
MESSAGES_AT_ONCE: Final = 10_000
_SKIPS: Final = "select topic_id, kafka_partition, start_offset, end_offset from stream_skips"
_OPEN: Final = "select batch from stream_batches where opened is not null and closed is null"
_CHAMPIONS: Final = (
    "select 'version ' || version from model_versions where promoted_at is not null and retired_at is null"
)


def conservation(extract: Extract) -> Invariant:
    """Check events = predictions + dead letters + duplicates, for every batch and in total."""
    batches, found = extract.batches, Findings()
    parts = batches.predictions + batches.dead_letters + batches.duplicates
    wrong = np.flatnonzero(batches.events != parts)
    found.add(
        len(wrong), (f"batch {batches.keys[i]}: {batches.events[i]} events, {parts[i]} accounted for" for i in wrong)
    )
    events, predictions = int(batches.events.sum()), int(batches.predictions.sum())
    letters, duplicates = int(batches.dead_letters.sum()), int(batches.duplicates.sum())
    return found.invariant(
        "conservation",
        f"events = predictions + dead letters + duplicates: {events:,} = {predictions:,} + {letters:,} + "
        f"{duplicates:,}, in each of {len(batches.keys):,} batches",
        events=events,
        predictions=predictions,
        dead_letters=letters,
        duplicates=duplicates,
        batches=len(batches.keys),
    )


def rows_of_batches(extract: Extract) -> Invariant:
    """Check that each batch has as many rows and dead letters as it counts. An archived one has no rows."""
    batches, found = extract.batches, Findings()
    count = len(batches.keys)
    for what, recorded, origin in (
        ("predictions", np.where(batches.archived, 0, batches.predictions), extract.rows.batch),
        ("dead letters", batches.dead_letters, extract.letters.batch),
    ):
        there = np.bincount(origin[origin >= 0], minlength=count)
        wrong = np.flatnonzero(there != recorded)
        found.add(
            len(wrong), (f"batch {batches.keys[i]}: counts {recorded[i]} {what}, has {there[i]} rows" for i in wrong)
        )
        strange = int((origin < 0).sum())
        found.add(strange, [f"{strange} {what} are of batches that the ledger does not know"] if strange else [])
    archived = int(batches.archived.sum())
    moved = int(batches.predictions[batches.archived].sum())
    return found.invariant(
        "rows of batches",
        f"each batch's counts are its rows: {len(extract.rows.batch):,} predictions and "
        f"{len(extract.letters.batch):,} dead letters in the tables, {moved:,} predictions of {archived:,} batches "
        f"archived",
        rows=len(extract.rows.batch),
        letters=len(extract.letters.batch),
        archived_batches=archived,
        archived_predictions=moved,
    )


def unique(extract: Extract, progress: Progress) -> list[Invariant]:
    """Check that no event id and no offset of a topic occurs twice, and that each is in its batch's ranges."""
    rows, letters, names = extract.rows, extract.letters, extract.partitions
    progress("Comparing ids and offsets", len(rows.batch))
    ids = Findings()
    ordered = np.sort(rows.event_id)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    ids.add(len(twice), (f"event {id_text(ordered[i])} has several rows" for i in twice))
    outside, offsets = Findings(), Findings()
    of_rows = extract.ranges.partition_of(rows.batch, rows.kafka_partition, rows.offset)
    of_letters = extract.ranges.partition_of(letters.batch, letters.kafka_partition, letters.offset)
    stray = np.flatnonzero(of_rows < 0)
    outside.add(
        len(stray), (f"event {id_text(rows.event_id[i])}: {rows.kafka_partition[i]}:{rows.offset[i]}" for i in stray)
    )
    stray = np.flatnonzero((of_letters < 0) | (of_letters != letters.partition))
    outside.add(len(stray), (f"dead letter {letters.kafka_partition[i]}:{letters.offset[i]}" for i in stray))
    places = np.concatenate(
        [
            (of_rows.astype(np.int64) * OFFSETS + rows.offset)[of_rows >= 0],
            (letters.partition.astype(np.int64) * OFFSETS + letters.offset)[letters.partition >= 0],
        ]
    )
    places.sort()
    twice = np.flatnonzero(places[1:] == places[:-1])
    offsets.add(
        len(twice), (f"{names[places[i] // OFFSETS]} offset {places[i] % OFFSETS} became several rows" for i in twice)
    )
    return [
        ids.invariant("event ids", f"{len(rows.batch):,} predictions have as many event ids", rows=len(rows.batch)),
        offsets.invariant(
            "offsets once", f"{len(places):,} predictions and dead letters are from as many offsets", places=len(places)
        ),
        outside.invariant("offsets in ranges", "each of them lies in a range of its batch", places=len(places)),
    ]


def ledger_tiles(
    connection: psycopg.Connection, config: StreamConfig, extract: Extract, before: EventLog, progress: Progress
) -> Invariant:
    """Check that ranges and skips cover each partition from its first offset, exactly once, and no event follows."""
    progress("Checking the ledger", len(extract.partitions))
    found, ranges = Findings(), extract.ranges
    skips: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for topic_id, kafka_partition, start, end in connection.execute(_SKIPS):
        skips.setdefault((topic_id, kafka_partition), []).append((start, end))
    unknown = int((ranges.partition < 0).sum())
    found.add(unknown, [f"{unknown} ranges are of partitions that have no position"] if unknown else [])
    skipped = 0
    for number, partition in enumerate(extract.partitions):
        own = skips.get((partition.topic_id, partition.kafka_partition), [])
        skipped += sum(end - start for start, end in own)
        mine = ranges.partition == number
        pieces = sorted([*own, *zip(ranges.start[mine].tolist(), ranges.end[mine].tolist(), strict=True)])
        problems = _tiling_problems(partition, pieces)
        found.add(len(problems), problems)
    held = _events_after_ranges(config, extract, before)
    found.add(len(held), held)
    return found.invariant(
        "ledger",
        f"{len(ranges.batch):,} ranges and {sum(map(len, skips.values())):,} skips ({skipped:,} offsets) tile "
        f"{len(extract.partitions):,} partitions, and no event lies between them and the positions",
        ranges=len(ranges.batch),
        skipped_offsets=skipped,
        partitions=len(extract.partitions),
    )


def _tiling_problems(partition: Partition, pieces: list[tuple[int, int]]) -> list[str]:
    """Return what is wrong with these sorted [start, end) of a partition, as sentences."""
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


def _events_after_ranges(config: StreamConfig, extract: Extract, before: EventLog) -> list[str]:
    """Return, as sentences, events between the last range and the position of a partition: no batch has read them."""
    if before.topic is None:
        return []
    admin = clients.admin(config.kafka.client)
    oldest = topics.list_offsets(admin, before.topic, EARLIEST)
    ends = topics.list_offsets(admin, before.topic, LATEST)
    asked = {}
    for partition in extract.partitions:
        number = partition.kafka_partition
        if partition.topic_id == before.topic.topic_id and number in ends:
            start, end = max(partition.covered_to, oldest[number]), min(partition.next_offset, ends[number])
            if start < end:
                asked[number] = (start, end)
    if not asked:
        return []
    return [
        f"{before.topic.name}[{message.partition()}] offset {message.offset()} holds an event that no batch read"
        for messages in read_ranges(config.kafka, before.topic.name, asked, chunk=MESSAGES_AT_ONCE)
        for message in messages
    ]


def log(connection: psycopg.Connection, config: StreamConfig, before: EventLog) -> Invariant:
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
        f"{config.events_topic} holds what comes next, and the records that were read last from {compared:,} "
        f"partitions are still in it or were deleted by retention",
        partitions=compared,
    )


def lag(config: StreamConfig, extract: Extract, before: EventLog) -> Invariant:
    """Report the lag of the events topic. Any number is valid."""
    if before.topic is None:
        return Invariant("lag", True, f"there is no topic {config.events_topic} to read", figures={"waiting": 0})
    ends = topics.list_offsets(clients.admin(config.kafka.client), before.topic, LATEST)
    waiting = {
        partition.kafka_partition: max(0, ends[partition.kafka_partition] - partition.next_offset)
        for partition in extract.partitions
        if partition.topic_id == before.topic.topic_id and partition.kafka_partition in ends
    }
    return Invariant(
        "lag",
        True,
        f"{sum(waiting.values()):,} offsets of {before.topic.name} are not yet read (for information)",
        figures={"waiting": sum(waiting.values()), **{f"waiting_{number}": count for number, count in waiting.items()}},
    )


def singles(connection: psycopg.Connection) -> list[Invariant]:
    """Check that at most one batch is open and at most one model version is champion."""
    invariants = []
    for name, query in (("open batch", _OPEN), ("champion", _CHAMPIONS)):
        there = [value for (value,) in connection.execute(query)]
        holds = len(there) <= 1
        said = f"{', '.join(there) or 'none'}, of at most one"
        invariants.append(Invariant(name, holds, said, [] if holds else [", ".join(there)], {"count": len(there)}))
    return invariants
