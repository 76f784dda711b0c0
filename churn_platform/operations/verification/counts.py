"""Invariants of the counts and places of rows: nothing is lost, and nothing is stored twice."""

from typing import Final

import numpy as np

from churn_platform.operations.verification.extracts import Extract, Progress
from churn_platform.operations.verification.invariants import Findings, Invariant, id_text

# More than any offset of a partition.
OFFSETS: Final = 2**44


def conservation(extract: Extract) -> Invariant:
    """Check events = predictions + dead letters + duplicates + erased, for every batch and in total."""
    batches, found = extract.batches, Findings()
    parts = batches.predictions + batches.dead_letters + batches.duplicates + batches.erased
    wrong = np.flatnonzero(batches.events != parts)
    found.add(
        len(wrong), (f"batch {batches.keys[i]}: {batches.events[i]} events, {parts[i]} accounted for" for i in wrong)
    )
    events, predictions = int(batches.events.sum()), int(batches.predictions.sum())
    dead_letters, duplicates = int(batches.dead_letters.sum()), int(batches.duplicates.sum())
    erased = int(batches.erased.sum())
    return found.invariant(
        "conservation",
        f"events = predictions + dead letters + duplicates + erased: {events:,} = {predictions:,} + {dead_letters:,} + "
        f"{duplicates:,} + {erased:,}, in each of {len(batches.keys):,} batches",
        events=events,
        predictions=predictions,
        dead_letters=dead_letters,
        duplicates=duplicates,
        erased=erased,
        batches=len(batches.keys),
    )


def rows_of_batches(extract: Extract) -> Invariant:
    """Check that each batch has as many rows and dead letters as it counts. An archived one has no predictions."""
    batches, found = extract.batches, Findings()
    count = len(batches.keys)
    for what, recorded, origin in (
        ("predictions", np.where(batches.archived, 0, batches.predictions), extract.rows.batch),
        ("dead letters", batches.dead_letters, extract.dead_letters.batch),
    ):
        counted = np.bincount(origin[origin >= 0], minlength=count)
        wrong = np.flatnonzero(counted != recorded)
        found.add(
            len(wrong), (f"batch {batches.keys[i]}: counts {recorded[i]} {what}, has {counted[i]} rows" for i in wrong)
        )
        unknown = int((origin < 0).sum())
        found.add(unknown, [f"{unknown} {what} are of batches that are not in the ledger"] if unknown else [])
    archived = int(batches.archived.sum())
    moved = int(batches.predictions[batches.archived].sum())
    return found.invariant(
        "rows of batches",
        f"each batch's counts match its rows: {len(extract.rows.batch):,} predictions and "
        f"{len(extract.dead_letters.batch):,} dead letters in the tables, {moved:,} predictions of {archived:,} "
        f"batches archived",
        rows=len(extract.rows.batch),
        dead_letters=len(extract.dead_letters.batch),
        archived_batches=archived,
        archived_predictions=moved,
    )


def unique(extract: Extract, progress: Progress) -> list[Invariant]:
    """Check that no event id and no offset of a topic occurs twice, and that each is in its batch's ranges."""
    rows, dead_letters, names = extract.rows, extract.dead_letters, extract.partitions
    progress("Comparing ids and offsets", len(rows.batch))
    ids = Findings()
    ordered = np.sort(rows.event_id)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    ids.add(len(twice), (f"event {id_text(ordered[i])} has several rows" for i in twice))
    outside, offsets = Findings(), Findings()
    of_rows = extract.ranges.partition_of(rows.batch, rows.kafka_partition, rows.offset)
    of_dead_letters = extract.ranges.partition_of(dead_letters.batch, dead_letters.kafka_partition, dead_letters.offset)
    stray = np.flatnonzero(of_rows < 0)
    outside.add(
        len(stray), (f"event {id_text(rows.event_id[i])}: {rows.kafka_partition[i]}:{rows.offset[i]}" for i in stray)
    )
    stray = np.flatnonzero((of_dead_letters < 0) | (of_dead_letters != dead_letters.partition))
    outside.add(len(stray), (f"dead letter {dead_letters.kafka_partition[i]}:{dead_letters.offset[i]}" for i in stray))
    places = np.concatenate(
        [
            (of_rows.astype(np.int64) * OFFSETS + rows.offset)[of_rows >= 0],
            (dead_letters.partition.astype(np.int64) * OFFSETS + dead_letters.offset)[dead_letters.partition >= 0],
        ]
    )
    places.sort()
    twice = np.flatnonzero(places[1:] == places[:-1])
    offsets.add(
        len(twice), (f"{names[places[i] // OFFSETS]} offset {places[i] % OFFSETS} has several rows" for i in twice)
    )
    return [
        ids.invariant(
            "event ids", f"{len(rows.batch):,} predictions, each with its own event id", rows=len(rows.batch)
        ),
        offsets.invariant(
            "offsets once", f"{len(places):,} predictions and dead letters, each at its own offset", places=len(places)
        ),
        outside.invariant("offsets in ranges", "each of them is in a range of its batch", places=len(places)),
    ]
