"""The invariant of publishing: the predictions topic and the table hold the same predictions, each once."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from churn_platform.database import environments, recovered_predictions, stream_batches, verification
from churn_platform.database.connections import connect
from churn_platform.database.stream_positions import Position
from churn_platform.environments.claims import claimed_since
from churn_platform.kafka import clients
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.operations.verification.extracts import ID_TYPE, Extract, Progress, Published, read_published
from churn_platform.operations.verification.invariants import Findings, Invariant, id_text, raw_id
from churn_platform.operations.verification.ledger import KafkaStatus
from churn_platform.stream.config import StreamConfig

IDS_AT_ONCE: Final = 10_000
# Clocks differ, and Kafka cuts timestamps to milliseconds.
CLOCK_MILLISECONDS: Final = 1000


@dataclass(frozen=True)
class _Unpublished:
    """Numbers of rows without a published message, by reason.

    Attributes:
        waiting: not published yet.
        unknown: of a partition whose published offset is not known.
        deleted: perhaps deleted from the topic by retention.
        compacted: replaced in the compacted topic by a later message of the customer.
    """

    waiting: int
    unknown: int
    deleted: int
    compacted: int


def published(
    connection: psycopg.Connection, config: StreamConfig, extract: Extract, before: KafkaStatus, progress: Progress
) -> Invariant:
    """Check that the predictions topic and the table hold the same events, each once, with the same scores."""
    found, rows = Findings(), extract.rows
    try:
        topic = read_published(config, extract.erased, progress)
    except TopicMissingError:
        if len(rows.batch):
            found.add(1, [f"there is no topic {config.predictions_topic}, but {len(rows.batch):,} predictions"])
        return found.invariant("published", f"there is no topic {config.predictions_topic}")
    total = len(topic.event_id)
    topic = _own(connection, config, extract, topic)
    others = total - len(topic.event_id)
    twice = np.flatnonzero(topic.event_id[1:] == topic.event_id[:-1])
    found.add(len(twice), (f"event {id_text(topic.event_id[i])} was published twice" for i in twice))
    progress("Comparing the topic with the table", len(topic.event_id))
    order = np.argsort(rows.event_id)
    index = _index_in(rows.event_id[order], topic.event_id)
    known = index >= 0
    row = order[index[known]]
    recovered = np.array(sorted(recovered_predictions.event_ids(connection)), ID_TYPE)
    is_recovered = _index_in(recovered, topic.event_id) >= 0
    other_score = _check_scores(extract, topic, row, known, is_recovered, found)
    later, archived = _check_messages_without_row(config, topic, ~known & ~is_recovered, found)
    lost = int((~known & is_recovered).sum())
    in_topic = np.zeros(len(rows.batch), np.bool_)
    in_topic[row] = True
    missing = _check_rows_without_message(connection, extract, before, topic, in_topic, found)
    details = [
        f"{count:,} {what}"
        for count, what in (
            (missing.waiting, "not yet published"),
            (later, "newer than the snapshot"),
            (archived, "archived"),
            (other_score, "published with another score before the database was restored"),
            (lost, "published before the database was restored, with no row"),
            (missing.deleted, "deleted from the topic by retention"),
            (missing.compacted, "replaced by a later message of the customer in the compacted topic"),
            (missing.unknown, "whose published offset is not known"),
            (others, "published by another environment before this one took the topic over"),
            (topic.foreign, "messages that are not predictions"),
            (topic.erased, "of erased customers, whom the table does not have"),
        )
        if count
    ]
    return found.invariant(
        "published",
        f"{len(topic.event_id):,} predictions in {config.predictions_topic} match the table, each published once"
        + (f"; {', '.join(details)}" if details else ""),
        published=len(topic.event_id),
        not_yet_published=missing.waiting,
        newer=later,
        archived=archived,
        other_score=other_score,
        without_row=lost,
        deleted=missing.deleted,
        compacted=missing.compacted,
        unknown=missing.unknown,
        by_another_environment=others,
        foreign=topic.foreign,
        erased=topic.erased,
    )


def _own(connection: psycopg.Connection, config: StreamConfig, extract: Extract, topic: Published) -> Published:
    """Return the published predictions without those of environments that published to the topic before this one.

    The batches of those are not in the ledger, and their last predictions were published before this environment
    claimed the topic. A takeover requires that nothing was written to the topic for a while, measured by the clock
    that also dates the claim. If the ledger was restored to an earlier state, the claim is older than the lost
    batches, so their predictions are still reported.
    """
    unknown = ~np.isin(topic.batch_keys, extract.batches.keys)
    if not unknown.any():
        return topic
    since = claimed_since(clients.admin(config.kafka.client), config, environments.find_id(connection))
    if since is None:
        return topic
    own = ~(unknown & (topic.newest < round(since.timestamp() * 1000)))[topic.batch]
    return replace(topic, event_id=topic.event_id[own], risk_score=topic.risk_score[own], batch=topic.batch[own])


def _check_scores(
    extract: Extract,
    topic: Published,
    row: NDArray[np.intp],
    known: NDArray[np.bool_],
    recovered: NDArray[np.bool_],
    found: Findings,
) -> int:
    """Check that the scores of batches that were never replayed are the published ones.

    Events that were published before a restore of the database were scored again after it, perhaps by another version.

    Returns:
        How many of those have another score.
    """
    rows = extract.rows
    never_replayed = np.append(extract.batches.replays == 0, False)[rows.batch[row]]  # the last is for batch -1
    differs = never_replayed & (rows.risk_score[row] != topic.risk_score[known])
    wrong = row[differs & ~recovered[known]]
    found.add(len(wrong), (f"event {id_text(rows.event_id[i])} was published with another score" for i in wrong))
    return int((differs & recovered[known]).sum())


def _check_messages_without_row(
    config: StreamConfig, topic: Published, without_row: NDArray[np.bool_], found: Findings
) -> tuple[int, int]:
    """Find the rows of messages that have none in the snapshot: they must be in the table by now, or archived.

    Returns:
        How many are in the table by now, and how many are archived.
    """
    ids, batches = topic.event_id[without_row], topic.batch[without_row]
    later = archived = 0
    if not len(ids):
        return later, archived
    with connect(config.dsn, autocommit=True, application_name="churn verify") as now:
        stored: set[bytes] = set()
        for part in _parts(ids):
            stored.update(verification.stored_events(now, [id_text(each) for each in part]))
        archived_batches = stream_batches.archived_batches(now)
    for event_id, batch in zip(ids, batches.tolist(), strict=True):
        if raw_id(event_id) in stored:
            later += 1
        elif topic.batch_keys[batch] in archived_batches:
            archived += 1
        else:
            found.add(1, [f"event {id_text(event_id)} is published, but not in the table"])
    return later, archived


def _check_rows_without_message(
    connection: psycopg.Connection,
    extract: Extract,
    before: KafkaStatus,
    topic: Published,
    in_topic: NDArray[np.bool_],
    found: Findings,
) -> _Unpublished:
    """Find out why rows have no message.

    Below the published offset only retention and compaction may have deleted it.
    """
    rows = extract.rows
    missing = np.flatnonzero(~in_topic)
    limits = np.array([*(_published_to(partition, before) for partition in extract.partitions), -1], np.int64)
    limit = limits[
        extract.ranges.partition_of(rows.batch[missing], rows.kafka_partition[missing], rows.offset[missing])
    ]
    waiting = (limit >= 0) & (rows.offset[missing] >= limit)
    lost = missing[(limit >= 0) & ~waiting]
    deleted = compacted = 0
    for part in _parts(rows.event_id[lost]):
        for event_id, customer_id, milliseconds in verification.unpublished(connection, [id_text(i) for i in part]):
            if topic.deleted_until is not None and milliseconds < topic.deleted_until + CLOCK_MILLISECONDS:
                deleted += 1
            elif _is_superseded(topic, customer_id, milliseconds):
                compacted += 1
            else:
                found.add(1, [f"event {event_id} is in the table, but not published"])
    return _Unpublished(int(waiting.sum()), unknown=int((limit < 0).sum()), deleted=deleted, compacted=compacted)


def _is_superseded(topic: Published, customer_id: str, milliseconds: int) -> bool:
    """Return whether the compacted topic has a message of the customer that was published at this time or later."""
    return topic.newest_of_key is not None and topic.newest_of_key.get(customer_id.encode(), -1) >= milliseconds


def _published_to(partition: Position, before: KafkaStatus) -> int:
    """Return the offset up to which this partition was published before the snapshot; -1 if it is not known."""
    if before.topic is None or partition.topic_id != before.topic.topic_id:
        return -1
    return before.published_offsets.get(partition.kafka_partition, -1)


def _index_in(ordered: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> NDArray[np.intp]:
    """Return the index of each wanted id among ids that are in order; -1 if it is not among them."""
    if not len(ordered):
        return np.full(len(wanted), -1, np.intp)
    index = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[index] == wanted, index, -1)


def _parts(ids: NDArray[np.bytes_]) -> list[NDArray[np.bytes_]]:
    return [ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE)]
