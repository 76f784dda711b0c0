"""The laws of the stream, checked against Kafka and PostgreSQL as they are. It changes nothing and stops nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from churn_platform.database import environments, ledger
from churn_platform.database.connections import connect
from churn_platform.environments.claims import Claims, Kind
from churn_platform.environments.published_offsets import published_offsets
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import RangeLostError, TopicMissingError
from churn_platform.kafka.reading import make_consumer, read_ranges
from churn_platform.kafka.topics import EARLIEST, LATEST, Topic
from churn_platform.operations.extracts import (
    ID_TYPE,
    Extract,
    Partition,
    Progress,
    Published,
    Rows,
    read_published,
    read_tables,
)
from churn_platform.positions.truncation import resume
from churn_platform.stream.config import StreamConfig

ANSWER_SECONDS: Final = 10
EXAMPLES: Final = 5
LOOKED_UP_AT_ONCE: Final = 10_000
MARKERS_AT_ONCE: Final = 10_000
# Sums of floating point numbers depend on their order in the last digits.
TOLERANCE: Final = 1e-6
# More than any offset of a partition.
OFFSETS: Final = 2**44

# Each side of a full join may lack a row; then its counts differ from the other's.
_BATCH_HOURS: Final = """
    with recount as (
        select batch, date_trunc('hour', event_timestamp, 'UTC') as hour_timestamp, count(*) as total_predictions,
            sum(prediction)::bigint as churn_count, sum(risk_score::double precision) as risk_sum,
            count(*) filter (where risk_score::double precision >= %(threshold)s) as high_risk_count,
            count(age) as age_count, coalesce(sum(age::double precision), 0) as age_sum, sum(balance) as balance_sum,
            sum(tenure)::double precision as tenure_sum
        from churn_predictions group by 1, 2
    ), kept as (
        select h.* from churn_batch_hours h left join stream_batches b using (batch) where b.archived is null
    )
    select format('batch %%s, hour %%s', batch, hour_timestamp at time zone 'UTC'),
        (r.total_predictions, r.churn_count, r.high_risk_count, r.age_count)
            is distinct from (k.total_predictions, k.churn_count, k.high_risk_count, k.age_count)
        or abs(r.risk_sum - k.risk_sum) > %(tolerance)s * (1 + abs(r.risk_sum))
        or abs(r.age_sum - k.age_sum) > %(tolerance)s * (1 + abs(r.age_sum))
        or abs(r.balance_sum - k.balance_sum) > %(tolerance)s * (1 + abs(r.balance_sum))
        or abs(r.tenure_sum - k.tenure_sum) > %(tolerance)s * (1 + abs(r.tenure_sum)),
        false
    from recount r full join kept k using (batch, hour_timestamp)
"""
# Wrong: current and other figures than their parts, newer than every change, or of an hour that was never changed.
_HOURS: Final = """
    with sums as (
        select hour_timestamp, sum(total_predictions) as total_predictions, sum(churn_count) as churn_count,
            sum(high_risk_count) as high_risk_count, sum(age_count) as age_count, sum(risk_sum) as risk_sum,
            sum(age_sum) as age_sum, sum(balance_sum) as balance_sum, sum(tenure_sum) as tenure_sum
        from churn_batch_hours group by 1
    )
    select format('hour %%s', hour_timestamp at time zone 'UTC'),
        d.version is null or m.version > d.version or (m.version = d.version and (
            (m.total_predictions, m.churn_count, m.high_risk_count, m.age_count) is distinct from (
                coalesce(s.total_predictions, 0), coalesce(s.churn_count, 0), coalesce(s.high_risk_count, 0),
                coalesce(s.age_count, 0)
            )
            or abs(m.churn_rate * m.total_predictions - 100 * s.churn_count) > %(tolerance)s * (1 + s.churn_count)
            or abs(m.avg_risk_score * m.total_predictions - s.risk_sum) > %(tolerance)s * (1 + abs(s.risk_sum))
            or abs(m.avg_age * m.age_count - s.age_sum) > %(tolerance)s * (1 + abs(s.age_sum))
            or abs(m.avg_balance * m.total_predictions - s.balance_sum) > %(tolerance)s * (1 + abs(s.balance_sum))
            or abs(m.avg_tenure * m.total_predictions - s.tenure_sum) > %(tolerance)s * (1 + abs(s.tenure_sum))
        )),
        m.version is null or m.version < d.version
    from dirty_hours d full join churn_metrics_hourly m using (hour_timestamp) full join sums s using (hour_timestamp)
"""
_DAYS: Final = """
    with hours as (
        select (hour_timestamp at time zone 'UTC')::date as date, sum(version) as version,
            sum(total_predictions) as total_predictions, sum(churn_count) as churn_count,
            sum(high_risk_count) as high_risk_count, sum(age_count) as age_count,
            coalesce(sum(avg_risk_score * total_predictions), 0) as risk_sum,
            coalesce(sum(avg_age * age_count), 0) as age_sum,
            coalesce(sum(avg_balance * total_predictions), 0) as balance_sum,
            coalesce(sum(avg_tenure * total_predictions), 0) as tenure_sum
        from churn_metrics_hourly group by 1
    )
    select format('day %%s', date),
        h.version is null or d.version > h.version or (d.version = h.version and (
            (d.total_predictions, d.churn_count, d.high_risk_count, d.age_count)
                is distinct from (h.total_predictions, h.churn_count, h.high_risk_count, h.age_count)
            or abs(d.churn_rate * d.total_predictions - 100 * h.churn_count) > %(tolerance)s * (1 + h.churn_count)
            or abs(d.avg_risk_score * d.total_predictions - h.risk_sum) > %(tolerance)s * (1 + abs(h.risk_sum))
            or abs(d.avg_age * d.age_count - h.age_sum) > %(tolerance)s * (1 + abs(h.age_sum))
            or abs(d.avg_balance * d.total_predictions - h.balance_sum) > %(tolerance)s * (1 + abs(h.balance_sum))
            or abs(d.avg_tenure * d.total_predictions - h.tenure_sum) > %(tolerance)s * (1 + abs(h.tenure_sum))
        )),
        d.version is null or d.version < h.version
    from hours h full join churn_metrics_daily d using (date)
"""
# An alert that went out is history: its row stays, whatever became of the prediction.
_HIGH_RISK: Final = """
    select format('event %%s', event_id),
        case when p.event_id is null then not h.alert_sent and b.archived is null
            when h.event_id is null then true
            when p.risk_score::double precision < %(threshold)s then not h.alert_sent
            else h.risk_score <> p.risk_score end,
        false
    from (select event_id, risk_score from churn_predictions where risk_score::double precision >= %(threshold)s) as r
    full join high_risk_customers h using (event_id)
    left join churn_predictions p using (event_id)
    left join stream_batches b on b.batch = h.batch
"""
_COUNTED: Final = """
    select count(*), count(*) filter (where wrong), count(*) filter (where outdated and wrong is not true),
        (array_agg(place) filter (where wrong))[1:%(examples)s::integer]
    from ({}) as each (place, wrong, outdated)
"""
_SKIPS: Final = "select topic_id, kafka_partition, start_offset, end_offset from stream_skips"
_OPEN: Final = "select batch from stream_batches where opened is not null and closed is null"
_CHAMPIONS: Final = (
    "select 'version ' || version from model_versions where promoted_at is not null and retired_at is null"
)
_STORED: Final = "select event_id from churn_predictions where event_id = any(%s)"
_ARCHIVED: Final = "select batch from stream_batches where archived is not null"
# A replay predicts anew and publishes nothing: what was published is at least as old as the batch then. A second, for
# clocks that differ and timestamps that Kafka cuts to milliseconds.
_PREDICTED_BEFORE: Final = """
    select count(*) from churn_predictions p join stream_batches b using (batch)
    where p.event_id = any(%s)
      and case when b.replays > 0 then b.opened else p.predicted_at end
          < to_timestamp(%s::double precision / 1000) + interval '1 second'
"""


@dataclass(frozen=True)
class Law:
    """One law: whether it holds, in words with its numbers, and the first few places where it does not."""

    name: str
    holds: bool
    says: str
    broken: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kafka:
    """The events topic at the beginning: None when there is none. Positions by Kafka partition."""

    topic: Topic | None
    published_offsets: Mapping[int, int]


class Findings:
    """Collects what is wrong with one law: counts, and a few places."""

    def __init__(self) -> None:
        self.count = 0
        self.places: list[str] = []

    def add(self, count: int, places: Iterable[str]) -> None:
        """So many findings, of which some places are named."""
        self.count += count
        for place in places:
            if len(self.places) >= EXAMPLES:
                return
            self.places.append(place)

    def law(self, name: str, says: str, **figures: int) -> Law:
        """The law with these findings."""
        return Law(name, self.count == 0, says, self.places, {**figures, "broken": self.count})


def verify(config: StreamConfig, progress: Progress = lambda _stage, _count: None) -> list[Law]:
    """Check every law, also while the stream is live: what moves meanwhile is told from what is wrong.

    The published positions are looked up before the snapshot of the tables is taken, and the predictions topic is read
    after it. So all that those positions cover is in both, and what is in the topic alone must be in the tables by
    then.

    Args:
        progress: called with what is being done, and how many rows of it.

    Returns:
        The laws, each once, whether they hold or not.

    Raises:
        psycopg.Error, KafkaException: a server does not answer.
        RangeLostError: the predictions topic was cut while it was read.
    """
    before = _collect_kafka_status(config)
    with connect(config.dsn, autocommit=True, application_name="churn verify") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            extract = read_tables(connection, progress)
            return [
                conservation(extract),
                rows_of_batches(extract),
                *unique(extract, progress),
                ledger_tiles(connection, config, extract, before, progress),
                log(connection, config, before),
                lag(config, extract, before),
                *hours(connection, config, progress),
                published(connection, config, extract, before, progress),
                high_risk(connection, config, progress),
                *singles(connection),
            ]


def conservation(extract: Extract) -> Law:
    """events = predictions + dead letters + duplicates, for every batch and in sum."""
    batches, found = extract.batches, Findings()
    parts = batches.predictions + batches.dead_letters + batches.duplicates
    wrong = np.flatnonzero(batches.events != parts)
    found.add(
        len(wrong), (f"batch {batches.keys[i]}: {batches.events[i]} events, {parts[i]} accounted for" for i in wrong)
    )
    events, predictions = int(batches.events.sum()), int(batches.predictions.sum())
    letters, duplicates = int(batches.dead_letters.sum()), int(batches.duplicates.sum())
    return found.law(
        "conservation",
        f"events = predictions + dead letters + duplicates: {events:,} = {predictions:,} + {letters:,} + "
        f"{duplicates:,}, in each of {len(batches.keys):,} batches",
        events=events,
        predictions=predictions,
        dead_letters=letters,
        duplicates=duplicates,
        batches=len(batches.keys),
    )


def rows_of_batches(extract: Extract) -> Law:
    """Each batch has as many rows and letters as it counts; an archived one has no rows left."""
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
    return found.law(
        "rows of batches",
        f"each batch's counts are its rows: {len(extract.rows.batch):,} predictions and "
        f"{len(extract.letters.batch):,} dead letters in the tables, {moved:,} predictions of {archived:,} batches "
        f"archived",
        rows=len(extract.rows.batch),
        letters=len(extract.letters.batch),
        archived_batches=archived,
        archived_predictions=moved,
    )


def unique(extract: Extract, progress: Progress) -> list[Law]:
    """No event id twice; no offset twice among rows and letters of a topic; each within its batch's ranges."""
    rows, letters, names = extract.rows, extract.letters, extract.partitions
    progress("Comparing ids and offsets", len(rows.batch))
    ids = Findings()
    ordered = np.sort(rows.event_id)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    ids.add(len(twice), (f"event {_uuid(ordered[i])} has several rows" for i in twice))
    outside, offsets = Findings(), Findings()
    of_rows = extract.ranges.partition_of(rows.batch, rows.kafka_partition, rows.offset)
    of_letters = extract.ranges.partition_of(letters.batch, letters.kafka_partition, letters.offset)
    stray = np.flatnonzero(of_rows < 0)
    outside.add(
        len(stray), (f"event {_uuid(rows.event_id[i])}: {rows.kafka_partition[i]}:{rows.offset[i]}" for i in stray)
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
        ids.law("event ids", f"{len(rows.batch):,} predictions have as many event ids", rows=len(rows.batch)),
        offsets.law(
            "offsets once", f"{len(places):,} predictions and dead letters are from as many offsets", places=len(places)
        ),
        outside.law("offsets in ranges", "each of them lies in a range of its batch", places=len(places)),
    ]


def ledger_tiles(
    connection: psycopg.Connection, config: StreamConfig, extract: Extract, before: _Kafka, progress: Progress
) -> Law:
    """Ranges and skips cover each partition from its first offset, without gap or overlap; no event follows them."""
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
    return found.law(
        "ledger",
        f"{len(ranges.batch):,} ranges and {sum(map(len, skips.values())):,} skips ({skipped:,} offsets) tile "
        f"{len(extract.partitions):,} partitions, and no event lies between them and the positions",
        ranges=len(ranges.batch),
        skipped_offsets=skipped,
        partitions=len(extract.partitions),
    )


def _tiling_problems(partition: Partition, pieces: list[tuple[int, int]]) -> list[str]:
    """What is wrong with these [start, end) of a partition, in order; in words."""
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


def _events_after_ranges(config: StreamConfig, extract: Extract, before: _Kafka) -> list[str]:
    """Events that Kafka holds between the last range and the position of a partition: read over and lost; in words."""
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
        for messages in read_ranges(config.kafka, before.topic.name, asked, chunk=MARKERS_AT_ONCE)
        for message in messages
    ]


def log(connection: psycopg.Connection, config: StreamConfig, before: _Kafka) -> Law:
    """The events topic has the records that were read last, and nothing else was read at their offsets."""
    found, compared = Findings(), 0
    if before.topic is not None:
        topic = before.topic
        positions = ledger.positions_of(connection, topic.topic_id)
        known = ledger.last_records_of(connection, topic.topic_id)
        compared = len(known)
        for partition, position in positions.items():
            consumer = make_consumer(config.kafka)
            try:
                resume(consumer, topic.name, {partition: position}, known)
            except RangeLostError as error:
                found.add(1, [str(error)])
            finally:
                consumer.close()
    return found.law(
        "log",
        f"{config.events_topic} holds what comes next, and the records that were read last from {compared:,} "
        f"partitions are still in it or were deleted by retention",
        partitions=compared,
    )


def lag(config: StreamConfig, extract: Extract, before: _Kafka) -> Law:
    """What waits in the events topic. It can be any number; only said, never wrong."""
    if before.topic is None:
        return Law("lag", True, f"there is no topic {config.events_topic} to read", figures={"waiting": 0})
    ends = topics.list_offsets(clients.admin(config.kafka.client), before.topic, LATEST)
    waiting = {
        partition.kafka_partition: max(0, ends[partition.kafka_partition] - partition.next_offset)
        for partition in extract.partitions
        if partition.topic_id == before.topic.topic_id and partition.kafka_partition in ends
    }
    return Law(
        "lag",
        True,
        f"{sum(waiting.values()):,} offsets of {before.topic.name} waited (a fact, not a law)",
        figures={"waiting": sum(waiting.values()), **{f"waiting_{number}": count for number, count in waiting.items()}},
    )


def hours(connection: psycopg.Connection, config: StreamConfig, progress: Progress) -> list[Law]:
    """Sums per batch and hour are those of the rows, hours those of their batches, days those of their hours."""
    progress("Counting hours anew", 0)
    laws = []
    for name, query, says in (
        ("hours of batches", _BATCH_HOURS, "{count:,} sums per batch and hour are those of their predictions"),
        ("hours", _HOURS, "{current:,} hours are the sums of their batches; {outdated:,} more are out of date"),
        ("days", _DAYS, "{current:,} days are the sums of their hours; {outdated:,} more are out of date"),
    ):
        found, count, outdated = _count(connection, config, query)
        figures = {"count": count, "current": count - outdated - found.count, "outdated": outdated}
        laws.append(found.law(name, says.format(**figures), count=count, outdated=outdated))
    return laws


def high_risk(connection: psycopg.Connection, config: StreamConfig, progress: Progress) -> Law:
    """high_risk_customers holds the predictions at the threshold, with their scores."""
    progress("Comparing high-risk predictions", 0)
    found, count, _ = _count(connection, config, _HIGH_RISK)
    return found.law(
        "high-risk predictions",
        f"{count:,} rows of high_risk_customers are the predictions from {config.high_risk_threshold:g}, or have their "
        f"alert",
        count=count,
    )


def singles(connection: psycopg.Connection) -> list[Law]:
    """At most one batch is open, at most one model version champion."""
    laws = []
    for name, query in (("open batch", _OPEN), ("champion", _CHAMPIONS)):
        there = [value for (value,) in connection.execute(query)]
        holds = len(there) <= 1
        said = f"{', '.join(there) or 'none'}, of at most one"
        laws.append(Law(name, holds, said, [] if holds else [", ".join(there)], {"count": len(there)}))
    return laws


def published(
    connection: psycopg.Connection, config: StreamConfig, extract: Extract, before: _Kafka, progress: Progress
) -> Law:
    """The predictions topic and the table hold the same events, each once, with the same scores."""
    found, rows = Findings(), extract.rows
    try:
        topic = read_published(config, progress)
    except TopicMissingError:
        if len(rows.batch):
            found.add(1, [f"there is no topic {config.predictions_topic}, but {len(rows.batch):,} predictions"])
        return found.law("published", f"there is no topic {config.predictions_topic}")
    total = len(topic.event_id)
    topic = _own(connection, config, extract, topic)
    others = total - len(topic.event_id)
    twice = np.flatnonzero(topic.event_id[1:] == topic.event_id[:-1])
    found.add(len(twice), (f"event {_uuid(topic.event_id[i])} was published twice" for i in twice))
    progress("Comparing the topic with the table", len(topic.event_id))
    order = np.argsort(rows.event_id)
    where = _index_in(rows.event_id[order], topic.event_id)
    known = where >= 0
    row = order[where[known]]
    _check_scores(extract, topic, row, known, found)
    later, archived = _check_strangers(config, topic, ~known, found)
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
    return found.law(
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
    """When this environment claimed the predictions topic; None where it has not, or no longer."""
    admin = clients.admin(config.kafka.client)
    own, topic_id = environments.find_id(connection), topics.describe(admin, config.predictions_topic).topic_id
    with Claims(admin, config) as claims:
        claims.read()
        holder = claims.holder(Kind.TOPIC, topic_id)
    return None if holder is None or holder.environment != own else holder.since


def _check_scores(
    extract: Extract, topic: Published, row: NDArray[np.intp], known: NDArray[np.bool_], found: Findings
) -> None:
    """The scores of a batch that was never replayed are those that were published."""
    rows = extract.rows
    never = np.append(extract.batches.replays == 0, False)[rows.batch[row]]  # the last for batch -1
    wrong = row[never & (rows.risk_score[row] != topic.risk_score[known])]
    found.add(len(wrong), (f"event {_uuid(rows.event_id[i])} was published with another score" for i in wrong))


def _check_strangers(
    config: StreamConfig, topic: Published, strangers: NDArray[np.bool_], found: Findings
) -> tuple[int, int]:
    """Predictions that the snapshot does not have must be in the table by now, or archived; how many are either."""
    ids, batches = topic.event_id[strangers], topic.batch[strangers]
    later = archived = 0
    if not len(ids):
        return later, archived
    with connect(config.dsn, autocommit=True, application_name="churn verify") as now:
        stored: set[bytes] = set()
        for part in _parts(ids):
            stored |= {event_id.bytes for (event_id,) in now.execute(_STORED, ([_uuid(each) for each in part],))}
        gone = {batch for (batch,) in now.execute(_ARCHIVED)}
    for event_id, batch in zip(ids, batches.tolist(), strict=True):
        if _raw(event_id) in stored:
            later += 1
        elif topic.batch_keys[batch] in gone:
            archived += 1
        else:
            found.add(1, [f"event {_uuid(event_id)} is published, but not in the table"])
    return later, archived


def _check_missing(
    connection: psycopg.Connection,
    extract: Extract,
    before: _Kafka,
    topic: Published,
    in_topic: NDArray[np.bool_],
    found: Findings,
) -> tuple[int, int, int]:
    """Rows that the topic does not hold: how many wait, have no known marker, may have been deleted by retention."""
    rows = extract.rows
    missing = np.flatnonzero(~in_topic)
    limits = np.array([*(_published_to(partition, before) for partition in extract.partitions), -1], np.int64)
    limit = limits[extract.ranges.partition_of(*_places(rows, missing))]
    unknown = int((limit < 0).sum())
    waits = (limit >= 0) & (rows.offset[missing] >= limit)
    lost = missing[(limit >= 0) & ~waits]
    deleted = 0
    if len(lost) and topic.deleted_until is not None:
        for part in _parts(rows.event_id[lost]):
            counted = connection.execute(_PREDICTED_BEFORE, ([_uuid(each) for each in part], topic.deleted_until))
            deleted += _first(counted.fetchone())
    found.add(
        len(lost) - deleted, (f"event {_uuid(rows.event_id[i])} is in the table, but not published" for i in lost)
    )
    return int(waits.sum()), unknown, deleted


def _places(rows: Rows, chosen: NDArray[np.intp]) -> tuple[Any, Any, Any]:
    return rows.batch[chosen], rows.kafka_partition[chosen], rows.offset[chosen]


def _published_to(partition: Partition, before: _Kafka) -> int:
    """Offset up to which predictions of this partition were published before the snapshot; -1 where nothing says so."""
    if before.topic is None or partition.topic_id != before.topic.topic_id:
        return -1
    return before.published_offsets.get(partition.kafka_partition, -1)


def _collect_kafka_status(config: StreamConfig) -> _Kafka:
    admin = clients.admin(config.kafka.client)
    try:
        topic = topics.describe(admin, config.events_topic)
    except TopicMissingError:
        return _Kafka(None, {})
    consumer = make_consumer(config.kafka)
    try:
        return _Kafka(topic, published_offsets(consumer, topic, seconds=ANSWER_SECONDS))
    finally:
        consumer.close()


def _count(connection: psycopg.Connection, config: StreamConfig, query: LiteralString) -> tuple[Findings, int, int]:
    """Findings, number of rows, and how many are out of date, of a query that gives (place, wrong, outdated)."""
    row = connection.execute(
        sql.SQL(_COUNTED).format(sql.SQL(query)),
        {"threshold": config.high_risk_threshold, "tolerance": TOLERANCE, "examples": EXAMPLES},
    ).fetchone()
    if row is None:
        raise RuntimeError("A select of counts returned no row; PostgreSQL always gives one.")
    count, wrong, outdated, places = row
    found = Findings()
    found.add(wrong, places or [])
    return found, count, outdated


def _index_in(ordered: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> NDArray[np.intp]:
    """Where each wanted id is in ids that are in order; -1 where it is not."""
    if not len(ordered):
        return np.full(len(wanted), -1, np.intp)
    index = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[index] == wanted, index, -1)


def _parts(ids: NDArray[np.bytes_]) -> list[NDArray[np.bytes_]]:
    return [ids[start : start + LOOKED_UP_AT_ONCE] for start in range(0, len(ids), LOOKED_UP_AT_ONCE)]


def _raw(event_id: bytes) -> bytes:
    """All 16 bytes: numpy cuts zeros off the end of a string."""
    return bytes(event_id).ljust(np.dtype(ID_TYPE).itemsize, b"\0")


def _uuid(event_id: bytes) -> str:
    return str(UUID(bytes=_raw(event_id)))


def _first(row: tuple[Any, ...] | None) -> int:
    return 0 if row is None else int(row[0])
