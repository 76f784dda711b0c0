"""The stream's ledger in PostgreSQL: topics, positions, batches, offset ranges. The truth about what was read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

# First key of the advisory lock that makes a stream live; the second is the hash of the topic's name.
STREAM_LOCK: Final = 0x63687572  # "chur"
SESSION_PREFIX: Final = "churn stream "
# First key of the advisory lock that a run holds while it lives; the second is the hash of its id.
RUN_LOCK: Final = 0x6372756E  # "crun"
RUN_SESSION_PREFIX: Final = "churn run "


@dataclass(frozen=True)
class Batch:
    """A row of stream_batches. Counts are in events and obey events = predictions + dead_letters + duplicates."""

    batch: str
    planned: datetime
    opened: datetime | None
    accepts_from: datetime | None
    accepts_until: datetime | None
    last_commit: datetime | None
    closed: datetime | None
    run_id: str | None
    model_version: int | None
    events: int
    predictions: int
    dead_letters: int
    duplicates: int
    commits: int
    replays: int
    archived: datetime | None
    archive: str | None


@dataclass(frozen=True)
class OffsetRange:
    """Offsets [start, end) of one Kafka partition of the topic with this id."""

    topic_id: str
    kafka_partition: int
    start_offset: int
    end_offset: int


@dataclass(frozen=True)
class LastRecord:
    """The last record read before a position: its offset, a digest of its content, and its leader epoch, if known."""

    offset: int
    digest: bytes
    leader_epoch: int | None


@dataclass(frozen=True, kw_only=True)
class HourSums:
    """Sums over the predictions of one hour of the event; ages skip nulls, age_count says how many were known."""

    hour_timestamp: datetime
    total_predictions: int
    churn_count: int
    risk_sum: float
    high_risk_count: int
    age_count: int
    age_sum: float
    balance_sum: float
    tenure_sum: float


@dataclass(frozen=True, kw_only=True)
class Advance:
    """What one commit records. `starts` and `ends` are the positions before and after, by Kafka partition.

    `last_records` has those partitions of which events are in the commit.
    """

    batch: str
    topic_id: str
    starts: Mapping[int, int]
    ends: Mapping[int, int]
    last_records: Mapping[int, LastRecord]
    predictions: int
    dead_letters: int
    duplicates: int
    opened: datetime | None
    accepts_from: datetime | None
    accepts_until: datetime | None
    model_version: int | None
    hours: Sequence[HourSums]

    @property
    def events(self) -> int:
        """Events read by this commit."""
        return self.predictions + self.dead_letters + self.duplicates


@dataclass(frozen=True)
class Heartbeat:
    """What a streaming run has to know now and then: who is champion, and whether somebody has paused the stream."""

    champion: int | None
    paused: bool


@dataclass(frozen=True)
class Advanced:
    """What the database did with an Advance, who is champion now, and whether somebody has paused the stream."""

    positions: int
    ranges: int
    ranges_wanted: int
    batches: int
    champion: int | None
    paused: bool


_BATCH: Final = sql.SQL(
    "batch, planned, opened, accepts_from, accepts_until, last_commit, closed, run_id, model_version, "
    "events, predictions, dead_letters, duplicates, commits, replays, archived, archive"
)
_FIND_BATCH: Final = sql.SQL("select {} from stream_batches where batch = %s").format(_BATCH)
_OPEN_BATCH: Final = sql.SQL("select {} from stream_batches where opened is not null and closed is null").format(_BATCH)
_UNREPORTED: Final = sql.SQL(
    "select {} from stream_batches where closed is not null and not reported order by planned"
).format(_BATCH)
_CLOSE_ORPHANS: Final = sql.SQL("""
    update stream_batches set closed = now()
    where opened is not null and closed is null and batch <> %s
    returning {}
""").format(_BATCH)

# One round trip for the whole ledger. Each part touches its own table; the caller compares the counts with what it
# expected, so a position moved by another run or a closed batch undoes the commit. A range begins where the one before
# it ended: between them lie markers at most, and so ranges tile a partition.
_ADVANCE: Final = """
    with moved as (
        select m.*, m.last_offset is not null or exists (
            select from stream_ranges r
            where r.batch = %(batch)s and r.topic_id = %(topic_id)s and r.kafka_partition = m.kafka_partition
        ) as ranged
        from unnest(
            %(partitions)s::integer[], %(starts)s::bigint[], %(ends)s::bigint[], %(last_offsets)s::bigint[],
            %(last_digests)s::bytea[], %(leader_epochs)s::integer[]
        ) as m (kafka_partition, start_offset, end_offset, last_offset, last_digest, leader_epoch)
    ), positions as (
        update stream_positions p set
            next_offset = m.end_offset,
            last_offset = coalesce(m.last_offset, p.last_offset),
            last_digest = coalesce(m.last_digest, p.last_digest),
            leader_epoch = case when m.last_offset is null then p.leader_epoch else m.leader_epoch end,
            covered_to = case when m.ranged then m.end_offset else p.covered_to end
        from moved m
        where p.topic_id = %(topic_id)s and p.kafka_partition = m.kafka_partition and p.next_offset = m.start_offset
        returning 1
    ), ranged as (
        select kafka_partition, end_offset from moved where ranged
    ), ranges as (
        insert into stream_ranges as r (batch, topic_id, kafka_partition, start_offset, end_offset)
        select %(batch)s, %(topic_id)s, kafka_partition, covered_to, end_offset
        from ranged join stream_positions p using (kafka_partition)
        where p.topic_id = %(topic_id)s
        on conflict (batch, topic_id, kafka_partition) do update set end_offset = excluded.end_offset
        where r.end_offset = excluded.start_offset
        returning 1
    ), batches as (
        update stream_batches set
            opened = coalesce(opened, %(opened)s::timestamptz),
            accepts_from = coalesce(accepts_from, %(accepts_from)s::timestamptz),
            accepts_until = coalesce(accepts_until, %(accepts_until)s::timestamptz),
            last_commit = case when %(events)s > 0 then now() else last_commit end,
            model_version = coalesce(%(model_version)s::integer, model_version),
            events = events + %(events)s,
            predictions = predictions + %(predictions)s,
            dead_letters = dead_letters + %(dead_letters)s,
            duplicates = duplicates + %(duplicates)s,
            commits = commits + (%(events)s > 0)::integer
        where batch = %(batch)s and closed is null
        returning 1
    ), resolved as (
        -- Of dead letters whose corrected event this commit has scored; the index holds those in flight only.
        update dead_letter_events d set resolved_at = now() from churn_predictions p
        where d.retry_event_id is not null and d.resolved_at is null and p.event_id = d.retry_event_id
    )
    select
        (select count(*) from positions) as positions,
        (select count(*) from ranges) as ranges,
        (select count(*) from ranged) as ranges_wanted,
        (select count(*) from batches) as batches,
        (select version from model_versions where promoted_at is not null and retired_at is null) as champion,
        exists (select from stream_pauses join stream_topics using (topic) where topic_id = %(topic_id)s) as paused
"""

_PULSE: Final = """
    select
        (select version from model_versions where promoted_at is not null and retired_at is null) as champion,
        exists (select from stream_pauses where topic = %s) as paused
"""
# A skip, like a range, begins where the last one ended, so that both tile a partition. What was read before it says
# nothing about the offsets that it skips: the next takeover looks for a last record again.
_SKIP: Final = """
    update stream_positions p set
        next_offset = %s, covered_to = %s, last_offset = null, last_digest = null, leader_epoch = null
    from stream_positions before
    where p.topic_id = %s and p.kafka_partition = %s and p.next_offset = %s and p.next_offset < %s
      and before.topic_id = p.topic_id and before.kafka_partition = p.kafka_partition
    returning before.covered_to
"""

_ADD_HOURS: Final = """
    insert into churn_batch_hours as h (
        batch, hour_timestamp, total_predictions, churn_count, risk_sum, high_risk_count, age_count, age_sum,
        balance_sum, tenure_sum
    )
    values (
        %(batch)s, %(hour_timestamp)s, %(total_predictions)s, %(churn_count)s, %(risk_sum)s, %(high_risk_count)s,
        %(age_count)s, %(age_sum)s, %(balance_sum)s, %(tenure_sum)s
    )
    on conflict (hour_timestamp, batch) do update set
        total_predictions = h.total_predictions + excluded.total_predictions,
        churn_count = h.churn_count + excluded.churn_count,
        risk_sum = h.risk_sum + excluded.risk_sum,
        high_risk_count = h.high_risk_count + excluded.high_risk_count,
        age_count = h.age_count + excluded.age_count,
        age_sum = h.age_sum + excluded.age_sum,
        balance_sum = h.balance_sum + excluded.balance_sum,
        tenure_sum = h.tenure_sum + excluded.tenure_sum
"""

# In the order of the hours, so that a commit and a replay never wait for each other in a circle.
_MARK_DIRTY: Final = """
    insert into dirty_hours as d (hour_timestamp, version)
    select hour, 1 from unnest(%s::timestamptz[]) as u (hour) order by hour
    on conflict (hour_timestamp) do update set version = d.version + 1
"""


def session_name(run_id: str) -> str:
    """Name that the connection of a streaming run bears in pg_stat_activity."""
    return f"{SESSION_PREFIX}{run_id}"


def run_session_name(run_id: str) -> str:
    """Name of the session that a run keeps from its first moment to its last, whatever it does."""
    return f"{RUN_SESSION_PREFIX}{run_id}"


def streaming_sessions(connection: psycopg.Connection) -> set[str]:
    """Dagster run ids of the runs of churn_predictions that PostgreSQL has a session of: they are alive."""
    names = connection.execute(
        """
        select application_name from pg_stat_activity
        where starts_with(application_name, %s) or starts_with(application_name, %s)
        """,
        (RUN_SESSION_PREFIX, SESSION_PREFIX),
    )
    return {name.removeprefix(RUN_SESSION_PREFIX).removeprefix(SESSION_PREFIX) for (name,) in names}


def hold_run(connection: psycopg.Connection, run_id: str) -> None:
    """Hold the lock that says that this run is alive, for as long as the session lasts; several sessions may."""
    connection.execute("select pg_advisory_lock_shared(%s, hashtext(%s))", (RUN_LOCK, run_id))


@contextmanager
def dead_run(connection: psycopg.Connection, run_id: str) -> Iterator[bool]:
    """Whether no session holds the lock of this run. If none does, none can take it before the block ends."""
    row = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (RUN_LOCK, run_id)).fetchone()
    taken = row is not None and row[0]
    try:
        yield taken
    finally:
        if taken:
            connection.execute("select pg_advisory_unlock(%s, hashtext(%s))", (RUN_LOCK, run_id))


def plan_batch(connection: psycopg.Connection, batch: str) -> None:
    """Register a batch key, so that a run may stream into it. A key that is there already is left alone."""
    connection.execute("insert into stream_batches (batch) values (%s) on conflict do nothing", (batch,))


def unopened_batch(connection: psycopg.Connection, *, excluding: Sequence[str]) -> str | None:
    """The oldest planned batch that was never opened, other than those given: its key can be used again."""
    row = connection.execute(
        """
        select batch from stream_batches where opened is null and closed is null and not batch = any(%s)
        order by planned limit 1
        """,
        (list(excluding),),
    ).fetchone()
    return None if row is None else row[0]


def forget_unopened(
    connection: psycopg.Connection, *, before: datetime, excluding: Sequence[str], leaving: int
) -> list[str]:
    """Delete batches planned before a moment and never opened, and return their keys.

    Args:
        excluding: keys that a run may be about to open.
        leaving: how many of the oldest stay: whoever plans next uses those again, and may have chosen one just now.
    """
    rows = connection.execute(
        """
        delete from stream_batches where opened is null and closed is null and batch in (
            select batch from stream_batches
            where opened is null and closed is null and planned < %s and not batch = any(%s)
            order by planned offset %s
        )
        returning batch
        """,
        (before, list(excluding), leaving),
    )
    return [batch for (batch,) in rows]


def prunable_batches(
    connection: psycopg.Connection, keys: Sequence[str], *, before: datetime, surplus: Sequence[str]
) -> list[str]:
    """Of these keys those whose batches nobody will touch of himself: closed and reported, oldest first.

    Args:
        before: of batches that were closed earlier than this.
        surplus: of these whenever they were closed.
    """
    rows = connection.execute(
        """
        select batch from stream_batches
        where batch = any(%s) and closed is not null and reported and (closed < %s or batch = any(%s))
        order by batch
        """,
        (list(keys), before, list(surplus)),
    )
    return [batch for (batch,) in rows]


def unknown_batches(connection: psycopg.Connection, keys: Sequence[str]) -> list[str]:
    """Of these keys those that the ledger does not know."""
    rows = connection.execute(
        "select key from unnest(%s::text[]) as k (key) where not exists (select from stream_batches where batch = key)",
        (list(keys),),
    )
    return [key for (key,) in rows]


def find_batch(connection: psycopg.Connection, batch: str) -> Batch | None:
    """The batch with this key, or None."""
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(_FIND_BATCH, (batch,)).fetchone()


def open_batch(connection: psycopg.Connection) -> Batch | None:
    """The batch that is open, or None."""
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(_OPEN_BATCH).fetchone()


def closed_batches(connection: psycopg.Connection, keys: Sequence[str]) -> set[str]:
    """Of these keys those whose batches are closed: a run of such a key streams no more."""
    rows = connection.execute(
        "select batch from stream_batches where batch = any(%s) and closed is not null", (list(keys),)
    )
    return {batch for (batch,) in rows}


def ranges_of(connection: psycopg.Connection, batch: str) -> list[OffsetRange]:
    """The offset ranges of a batch, by topic id and Kafka partition."""
    with connection.cursor(row_factory=class_row(OffsetRange)) as cursor:
        return cursor.execute(
            """
            select topic_id, kafka_partition, start_offset, end_offset from stream_ranges where batch = %s
            order by topic_id, kafka_partition
            """,
            (batch,),
        ).fetchall()


def is_known_topic(connection: psycopg.Connection, topic: str) -> bool:
    """Whether a topic of this name was ever read, under whichever topic id."""
    return connection.execute("select from stream_topics where topic = %s", (topic,)).fetchone() is not None


def record_topic(connection: psycopg.Connection, *, topic_id: str, topic: str) -> None:
    """Record a topic as made by the platform."""
    connection.execute("insert into created_topics (topic_id, topic) values (%s, %s)", (topic_id, topic))


def created_topics(connection: psycopg.Connection) -> dict[str, str]:
    """Topics that the platform made, name by Kafka's id. They may be gone by now."""
    rows = connection.execute("select topic_id, topic from created_topics order by created_at, topic")
    return dict(rows.fetchall())


def add_positions(connection: psycopg.Connection, *, topic: str, topic_id: str, starts: Mapping[int, int]) -> None:
    """Register a topic and where its partitions begin; what is registered already is left alone."""
    connection.execute(
        "insert into stream_topics (topic_id, topic) values (%s, %s) on conflict do nothing", (topic_id, topic)
    )
    connection.execute(
        """
        insert into stream_positions (topic_id, kafka_partition, next_offset, first_offset, covered_to, published_to)
        select %s, kafka_partition, start_offset, start_offset, start_offset, start_offset
        from unnest(%s::integer[], %s::bigint[]) as u (kafka_partition, start_offset) on conflict do nothing
        """,
        (topic_id, list(starts), list(starts.values())),
    )


def positions_of(connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
    """Next offset to read, by Kafka partition; empty for a topic never seen."""
    rows = connection.execute(
        "select kafka_partition, next_offset from stream_positions where topic_id = %s order by 1", (topic_id,)
    )
    return dict(rows.fetchall())


def last_records_of(connection: psycopg.Connection, topic_id: str) -> dict[int, LastRecord]:
    """The last record read before each position, by Kafka partition; only where one is known."""
    rows = connection.execute(
        """
        select kafka_partition, last_offset, last_digest, leader_epoch from stream_positions
        where topic_id = %s and last_offset is not null order by 1
        """,
        (topic_id,),
    )
    return {partition: LastRecord(*record) for partition, *record in rows}


def add_last_records(connection: psycopg.Connection, *, topic_id: str, records: Mapping[int, LastRecord]) -> None:
    """Record the last record before positions that have none, by Kafka partition; the others are left alone."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            update stream_positions set last_offset = %s, last_digest = %s, leader_epoch = %s
            where topic_id = %s and kafka_partition = %s and last_offset is null
            """,
            [
                (record.offset, record.digest, record.leader_epoch, topic_id, partition)
                for partition, record in records.items()
            ],
        )


def accept_truncation(
    connection: psycopg.Connection, *, topic_id: str, kafka_partition: int, position: int, reason: str
) -> bool:
    """Record that a truncated log is read on from `position`, if the partition still stands there.

    In the caller's transaction, and only by whoever holds the stream's lock.

    Returns:
        Whether it did; False, and nothing was changed, when the position is another by now.
    """
    moved = connection.execute(
        """
        update stream_positions set last_offset = null, last_digest = null, leader_epoch = null
        where topic_id = %s and kafka_partition = %s and next_offset = %s
        """,
        (topic_id, kafka_partition, position),
    )
    if moved.rowcount != 1:
        return False
    record_truncation(connection, topic_id=topic_id, kafka_partition=kafka_partition, position=position, reason=reason)
    return True


def record_truncation(
    connection: psycopg.Connection, *, topic_id: str, kafka_partition: int, position: int, reason: str
) -> None:
    """Record that the log of a partition was truncated below the position, and that somebody accepts it."""
    connection.execute(
        "insert into log_truncations (topic_id, kafka_partition, next_offset, reason) values (%s, %s, %s, %s)",
        (topic_id, kafka_partition, position, reason),
    )


def lock_stream(connection: psycopg.Connection, topic: str) -> None:
    """Wait for the session lock that makes this connection's run the live one of the topic."""
    connection.execute("select pg_advisory_lock(%s, hashtext(%s))", (STREAM_LOCK, topic))


def try_lock_stream(connection: psycopg.Connection, topic: str) -> bool:
    """Take the same lock without waiting; False, and nothing is held, while a run (or another command) has it."""
    row = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (STREAM_LOCK, topic)).fetchone()
    return row is not None and row[0]


def lock_sessions(connection: psycopg.Connection, topic: str) -> tuple[str | None, list[str]]:
    """Names of the session that holds the stream's lock (None: nobody does) and of those that wait for it."""
    sessions = connection.execute(
        """
        select granted, application_name
        from pg_locks join pg_stat_activity using (pid)
        where locktype = 'advisory' and objsubid = 2 and classid = %s::bigint::oid
          and objid = (hashtext(%s)::bigint & 4294967295)::oid
          and database = (select oid from pg_database where datname = current_database())
        order by backend_start
        """,
        (STREAM_LOCK, topic),
    ).fetchall()
    holder = next((name for granted, name in sessions if granted), None)
    return holder, [name for granted, name in sessions if not granted]


def skip(
    connection: psycopg.Connection, *, topic_id: str, kafka_partition: int, position: int, end: int, reason: str
) -> bool:
    """Record offsets up to `end` as skipped and go on there, if the partition still stands at `position`.

    Batches that a dead run left open are closed: their ranges end where the skip begins. In the caller's transaction,
    and only by whoever holds the stream's lock.

    Returns:
        Whether it did; False, and nothing was changed, when the position is another by now.
    """
    moved = connection.execute(_SKIP, (end, end, topic_id, kafka_partition, position, end)).fetchone()
    if moved is None:
        return False
    connection.execute(
        """
        insert into stream_skips (topic_id, kafka_partition, start_offset, end_offset, reason)
        values (%s, %s, %s, %s, %s)
        """,
        (topic_id, kafka_partition, moved[0], end, reason),
    )
    connection.execute("update stream_batches set closed = now() where opened is not null and closed is null")
    return True


def pause(connection: psycopg.Connection, topic: str) -> None:
    """Pause the stream: the live run ends after its current commit, and the sensor launches none."""
    connection.execute("insert into stream_pauses (topic) values (%s) on conflict do nothing", (topic,))


def resume(connection: psycopg.Connection, topic: str) -> bool:
    """Let a paused stream go on; whether it was paused."""
    return connection.execute("delete from stream_pauses where topic = %s", (topic,)).rowcount > 0


def paused_since(connection: psycopg.Connection, topic: str) -> datetime | None:
    """When the stream was paused, None when it is not."""
    row = connection.execute("select since from stream_pauses where topic = %s", (topic,)).fetchone()
    return None if row is None else row[0]


def take_over(connection: psycopg.Connection, *, batch: str, run_id: str) -> list[Batch]:
    """Make `batch` this run's and close whatever another run left open, so that no zombie can commit any more.

    Returns:
        The batches that were closed here.
    """
    connection.execute("update stream_batches set run_id = %s where batch = %s and closed is null", (run_id, batch))
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(_CLOSE_ORPHANS, (batch,)).fetchall()


def close_batch(connection: psycopg.Connection, batch: str, *, topic_id: str) -> None:
    """Close an open batch whose predictions are all published; from now on it can only be replayed.

    One that was never opened stays planned.
    """
    with connection.transaction():
        connection.execute(
            "update stream_batches set closed = now() where batch = %s and opened is not null and closed is null",
            (batch,),
        )
        mark_published(connection, topic_id)


def close_unfinished(connection: psycopg.Connection, batch: str) -> None:
    """Close an open batch of which something may not be published yet; the next run publishes it."""
    connection.execute("update stream_batches set closed = now() where batch = %s and closed is null", (batch,))


def mark_published(connection: psycopg.Connection, topic_id: str) -> None:
    """Remember that everything read from the topic with this id is published. Only whoever holds the lock knows."""
    connection.execute(
        "update stream_positions set published_to = next_offset where topic_id = %s and published_to < next_offset",
        (topic_id,),
    )


def published_to(connection: psycopg.Connection, topic_id: str) -> dict[int, int]:
    """Offset up to which predictions are known to be published, by Kafka partition; perhaps more are."""
    rows = connection.execute(
        "select kafka_partition, published_to from stream_positions where topic_id = %s order by 1", (topic_id,)
    )
    return dict(rows.fetchall())


def may_be_unpublished(connection: psycopg.Connection, topic: str) -> bool:
    """Whether of a topic of this name, made anew since or not, something read is not known to be published."""
    row = connection.execute(
        """
        select exists (
            select from stream_positions join stream_topics using (topic_id)
            where topic = %s and published_to < next_offset
        )
        """,
        (topic,),
    ).fetchone()
    return row == (True,)


def unpublished_topics(connection: psycopg.Connection, topic: str, *, other_than: str) -> list[str]:
    """Ids of earlier topics of this name, of which something may not have been published before they were deleted."""
    rows = connection.execute(
        """
        select distinct topic_id from stream_positions join stream_topics using (topic_id)
        where topic = %s and topic_id <> %s and published_to < next_offset
        """,
        (topic, other_than),
    )
    return [topic_id for (topic_id,) in rows]


def take_lease(connection: psycopg.Connection, *, idle_seconds: int, statement_seconds: int) -> None:
    """Let PostgreSQL end this session, and so free the lock, when its process is silent for so long.

    A process that is frozen, or cut off, keeps its session and its locks otherwise.
    """
    idle, statement = f"{idle_seconds}s", f"{statement_seconds}s"
    connection.execute(
        """
        select set_config('idle_session_timeout', %s, false),
            set_config('idle_in_transaction_session_timeout', %s, false),
            set_config('statement_timeout', %s, false)
        """,
        (idle, idle, statement),
    )


def heartbeat(connection: psycopg.Connection, topic: str) -> Heartbeat:
    """A sign of life in a quiet time, which brings news."""
    with connection.cursor(row_factory=class_row(Heartbeat)) as cursor:
        found = cursor.execute(_PULSE, (topic,)).fetchone()
    if found is None:
        raise RuntimeError("A select without a table returned no row; PostgreSQL always gives one.")
    return found


def advance(connection: psycopg.Connection, step: Advance) -> Advanced:
    """Record a commit in the open transaction. The caller checks the counts that come back before it commits."""
    partitions = sorted(step.ends)
    records = [step.last_records.get(partition) for partition in partitions]
    with connection.cursor(row_factory=class_row(Advanced)) as cursor:
        advanced = cursor.execute(
            _ADVANCE,
            {
                "batch": step.batch,
                "topic_id": step.topic_id,
                "partitions": partitions,
                "starts": [step.starts[partition] for partition in partitions],
                "ends": [step.ends[partition] for partition in partitions],
                "last_offsets": [record and record.offset for record in records],
                "last_digests": [record and record.digest for record in records],
                "leader_epochs": [record and record.leader_epoch for record in records],
                "opened": step.opened,
                "accepts_from": step.accepts_from,
                "accepts_until": step.accepts_until,
                "model_version": step.model_version,
                "events": step.events,
                "predictions": step.predictions,
                "dead_letters": step.dead_letters,
                "duplicates": step.duplicates,
            },
            prepare=True,
        ).fetchone()
    if advanced is None:
        raise RuntimeError("A select of counts returned no row; PostgreSQL always gives one.")
    add_sums(connection, batch=step.batch, hours=step.hours)
    mark_dirty(connection, [sums.hour_timestamp for sums in step.hours])
    return advanced


def add_sums(connection: psycopg.Connection, *, batch: str, hours: Sequence[HourSums]) -> None:
    """Add to a batch's sums per hour."""
    if hours:
        with connection.cursor() as cursor:
            cursor.executemany(_ADD_HOURS, [{"batch": batch, **vars(sums)} for sums in hours])


def mark_dirty(connection: psycopg.Connection, hours: Sequence[datetime]) -> None:
    """Count one more change to each of these hours."""
    if hours:
        connection.execute(_MARK_DIRTY, (sorted(set(hours)),))


def unreported_batches(connection: psycopg.Connection) -> list[Batch]:
    """Closed batches whose materialization Dagster may not have seen."""
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(_UNREPORTED).fetchall()


def mark_reported(connection: psycopg.Connection, batch: str) -> None:
    """Dagster holds the materialization of this batch."""
    connection.execute("update stream_batches set reported = true where batch = %s", (batch,))


@contextmanager
def replaying(connection: psycopg.Connection, batch: str) -> Iterator[None]:
    """One transaction in which this run alone replays the batch."""
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (batch,))
        yield
