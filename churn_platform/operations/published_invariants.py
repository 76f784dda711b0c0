"""The invariant of publishing: the predictions topic and the table hold the same predictions, each once."""

from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from churn_platform.database import environments
from churn_platform.database.connections import connect
from churn_platform.environments.claims import Claims, Kind
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.operations.event_ids import id_text, index_in, parts_of, raw_id
from churn_platform.operations.event_log import EventLog
from churn_platform.operations.extracts import Extract, Partition, Progress, Published, Rows, read_published
from churn_platform.operations.invariant import Findings, Invariant
from churn_platform.stream.config import StreamConfig

_STORED: Final = "select event_id from churn_predictions where event_id = any(%s)"
_ARCHIVED: Final = "select batch from stream_batches where archived is not null"
# A replay predicts again and publishes nothing, so the published predictions are at least as old as the batch.
# A second is added for clocks that differ and for timestamps that Kafka cuts to milliseconds.
_PREDICTED_BEFORE: Final = """
    select count(*) from churn_predictions p join stream_batches b using (batch)
    where p.event_id = any(%s)
      and case when b.replays > 0 then b.opened else p.predicted_at end
          < to_timestamp(%s::double precision / 1000) + interval '1 second'
"""


def published(
    connection: psycopg.Connection, config: StreamConfig, extract: Extract, before: EventLog, progress: Progress
) -> Invariant:
    """Check that the predictions topic and the table hold the same events, each once, with the same scores."""
    found, rows = Findings(), extract.rows
    try:
        topic = read_published(config, progress)
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
    where = index_in(rows.event_id[order], topic.event_id)
    known = where >= 0
    row = order[where[known]]
    _check_scores(extract, topic, row, known, found)
    later, archived = _check_unknown(config, topic, ~known, found)
    in_topic = np.zeros(len(rows.batch), np.bool_)
    in_topic[row] = True
    waiting, unknown, deleted = _check_missing(connection, extract, before, topic, in_topic, found)
    aside = [
        f"{count:,} {what}"
        for count, what in (
            (waiting, "not yet published"),
            (later, "newer than the snapshot"),
            (archived, "archived"),
            (deleted, "deleted from the topic by retention"),
            (unknown, "whose published position is not known"),
            (others, "published by another environment before this one took the topic over"),
            (topic.foreign, "foreign messages, which are not predictions"),
        )
        if count
    ]
    return found.invariant(
        "published",
        f"{len(topic.event_id):,} predictions in {config.predictions_topic} are those of the table, each once"
        + (f"; {', '.join(aside)}" if aside else ""),
        published=len(topic.event_id),
        not_yet_published=waiting,
        newer=later,
        archived=archived,
        deleted=deleted,
        unknown=unknown,
        by_another_environment=others,
        foreign=topic.foreign,
    )


def _own(connection: psycopg.Connection, config: StreamConfig, extract: Extract, topic: Published) -> Published:
    """What the topic holds without the predictions of environments that had it before this one.

    Those are of batches that this ledger does not know, of which the last prediction was published before this
    environment claimed the topic. A take-over needs a topic that has been silent, by the clock that its claim is dated
    by. A ledger that was restored to an earlier state has its claim from before what it lost, which stays a finding.
    """
    strange = ~np.isin(topic.batch_keys, extract.batches.keys)
    if not strange.any():
        return topic
    since = _claimed_since(connection, config)
    if since is None:
        return topic
    mine = ~(strange & (topic.newest < round(since.timestamp() * 1000)))[topic.batch]
    return replace(topic, event_id=topic.event_id[mine], risk_score=topic.risk_score[mine], batch=topic.batch[mine])


def _claimed_since(connection: psycopg.Connection, config: StreamConfig) -> datetime | None:
    """Return when this environment claimed the predictions topic; None if it does not claim it."""
    admin = clients.admin(config.kafka.client)
    own, topic_id = environments.find_id(connection), topics.describe(admin, config.predictions_topic).topic_id
    with Claims(admin, config) as claims:
        claims.read()
        holder = claims.holder(Kind.TOPIC, topic_id)
    return None if holder is None or holder.environment != own else holder.since


def _check_scores(
    extract: Extract, topic: Published, row: NDArray[np.intp], known: NDArray[np.bool_], found: Findings
) -> None:
    """Check that the scores of a batch that was never replayed are the published ones."""
    rows = extract.rows
    never = np.append(extract.batches.replays == 0, False)[rows.batch[row]]  # the last for batch -1
    wrong = row[never & (rows.risk_score[row] != topic.risk_score[known])]
    found.add(len(wrong), (f"event {id_text(rows.event_id[i])} was published with another score" for i in wrong))


def _check_unknown(
    config: StreamConfig, topic: Published, unknown_rows: NDArray[np.bool_], found: Findings
) -> tuple[int, int]:
    """Check that predictions missing in the snapshot are in the table by now or archived; return how many of each."""
    ids, batches = topic.event_id[unknown_rows], topic.batch[unknown_rows]
    later = archived = 0
    if not len(ids):
        return later, archived
    with connect(config.dsn, autocommit=True, application_name="churn verify") as now:
        stored: set[bytes] = set()
        for part in parts_of(ids):
            stored |= {event_id.bytes for (event_id,) in now.execute(_STORED, ([id_text(each) for each in part],))}
        gone = {batch for (batch,) in now.execute(_ARCHIVED)}
    for event_id, batch in zip(ids, batches.tolist(), strict=True):
        if raw_id(event_id) in stored:
            later += 1
        elif topic.batch_keys[batch] in gone:
            archived += 1
        else:
            found.add(1, [f"event {id_text(event_id)} is published, but not in the table"])
    return later, archived


def _check_missing(
    connection: psycopg.Connection,
    extract: Extract,
    before: EventLog,
    topic: Published,
    in_topic: NDArray[np.bool_],
    found: Findings,
) -> tuple[int, int, int]:
    """Count the rows missing in the topic: not yet published, of unknown position, deleted by retention."""
    rows = extract.rows
    missing = np.flatnonzero(~in_topic)
    limits = np.array([*(_published_to(partition, before) for partition in extract.partitions), -1], np.int64)
    limit = limits[extract.ranges.partition_of(*_places(rows, missing))]
    unknown = int((limit < 0).sum())
    waits = (limit >= 0) & (rows.offset[missing] >= limit)
    lost = missing[(limit >= 0) & ~waits]
    deleted = 0
    if len(lost) and topic.deleted_until is not None:
        for part in parts_of(rows.event_id[lost]):
            counted = connection.execute(_PREDICTED_BEFORE, ([id_text(each) for each in part], topic.deleted_until))
            deleted += _first(counted.fetchone())
    found.add(
        len(lost) - deleted, (f"event {id_text(rows.event_id[i])} is in the table, but not published" for i in lost)
    )
    return int(waits.sum()), unknown, deleted


def _places(rows: Rows, chosen: NDArray[np.intp]) -> tuple[Any, Any, Any]:
    return rows.batch[chosen], rows.kafka_partition[chosen], rows.offset[chosen]


def _published_to(partition: Partition, before: EventLog) -> int:
    """Return the published offset of this partition before the snapshot; -1 if it is unknown."""
    if before.topic is None or partition.topic_id != before.topic.topic_id:
        return -1
    return before.published_offsets.get(partition.kafka_partition, -1)


def _first(row: tuple[Any, ...] | None) -> int:
    return 0 if row is None else int(row[0])
