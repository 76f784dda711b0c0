"""The tables stream_batches and stream_ranges: batches, their counts, and the offsets that each has read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from churn_platform.database import summary_state
from churn_platform.lanes import WHOLE, Lane


@dataclass(frozen=True)
class Batch:
    """A row of stream_batches. Counts are in events: events = predictions + dead_letters + duplicates + erased.

    `schema_fingerprint` names the schema in customer_schemas that its events were decoded with, and
    `high_risk_threshold` is the risk score from which its predictions are high risk; both None before it is open.
    It reads the partitions of lane number `lane` of `lanes`.
    """

    batch: str
    planned: datetime
    opened: datetime | None
    accepts_from: datetime | None
    accepts_until: datetime | None
    last_commit: datetime | None
    closed: datetime | None
    run_id: str | None
    model_version: int | None
    schema_fingerprint: str | None
    high_risk_threshold: float | None
    events: int
    predictions: int
    dead_letters: int
    duplicates: int
    erased: int
    commits: int
    replays: int
    archived: datetime | None
    archive: str | None
    lane: int = 0
    lanes: int = 1

    @property
    def reads(self) -> Lane:
        """The lane whose partitions the batch reads."""
        return Lane(self.lanes, self.lane)


@dataclass(frozen=True)
class OffsetRange:
    """Offsets [start, end) of one Kafka partition of the topic with this id."""

    topic_id: str
    kafka_partition: int
    start_offset: int
    end_offset: int


@dataclass(frozen=True)
class LatestBatch:
    """The batch that was opened last. last_commit_seconds is the age of its last commit."""

    batch: str
    state: str
    events: int
    last_commit: datetime | None
    last_commit_seconds: float | None


# Parts of the statement of a commit (see ledger.py), after stream_positions.MOVE. A range begins where the one before
# it ended. Only transaction markers can be between two ranges, so ranges cover a partition without gaps.
EXTEND_RANGES: Final = """
    ranged as (
        select kafka_partition, end_offset from moved where ranged
    ), ranges as (
        insert into stream_ranges as r (batch, topic_id, kafka_partition, start_offset, end_offset)
        select %(batch)s, %(topic_id)s, kafka_partition, covered_to, end_offset
        from ranged join stream_positions p using (kafka_partition)
        where p.topic_id = %(topic_id)s
        on conflict (batch, topic_id, kafka_partition) do update set end_offset = excluded.end_offset
        where r.end_offset = excluded.start_offset and r.sealed_offset is null
        returning 1
    )
"""
ADD_COUNTS: Final = """
    batches as (
        update stream_batches set
            schema_fingerprint = case
                when opened is null then %(schema_fingerprint)s::text else schema_fingerprint
            end,
            high_risk_threshold = case
                when opened is null then %(high_risk_threshold)s::double precision else high_risk_threshold
            end,
            opened = coalesce(opened, %(opened)s::timestamptz),
            accepts_from = coalesce(accepts_from, %(accepts_from)s::timestamptz),
            accepts_until = coalesce(accepts_until, %(accepts_until)s::timestamptz),
            last_commit = case when %(events)s > 0 then now() else last_commit end,
            model_version = coalesce(%(model_version)s::integer, model_version),
            events = events + %(events)s,
            predictions = predictions + %(predictions)s,
            dead_letters = dead_letters + %(dead_letters)s,
            duplicates = duplicates + %(duplicates)s,
            erased = erased + %(erased)s,
            read_predictions = read_predictions + %(predictions)s,
            read_dead_letters = read_dead_letters + %(dead_letters)s,
            read_duplicates = read_duplicates + %(duplicates)s,
            read_erased = read_erased + %(erased)s,
            commits = commits + (%(events)s > 0)::integer
        where batch = %(batch)s and closed is null
        returning 1
    )
"""

_COLUMNS: Final = sql.SQL(
    "batch, planned, opened, accepts_from, accepts_until, last_commit, closed, run_id, model_version, "
    "schema_fingerprint, high_risk_threshold, events, predictions, dead_letters, duplicates, erased, commits, "
    "replays, archived, archive, lane, lanes"
)
_FIND: Final = sql.SQL("select {} from stream_batches where batch = %s").format(_COLUMNS)
_FIND_OPEN: Final = sql.SQL("""
    select {} from stream_batches where opened is not null and closed is null order by opened
""").format(_COLUMNS)
_UNREPORTED: Final = sql.SQL(
    "select {} from stream_batches where closed is not null and not reported order by planned"
).format(_COLUMNS)
# Not those of the other lanes, which have their own runs.
_CLOSE_OTHERS: Final = sql.SQL("""
    update stream_batches set closed = now()
    where opened is not null and closed is null and batch <> %(batch)s and (lane = %(lane)s or lanes <> %(lanes)s)
    returning {}
""").format(_COLUMNS)
# A batch that was never opened has nothing to report.
_CLOSE_OTHER_LAYOUTS: Final = sql.SQL("""
    update stream_batches set closed = now(), reported = opened is null
    where closed is null and lanes <> %s
    returning {}
""").format(_COLUMNS)
_OLDEST_UNOPENED: Final = """
    select batch from stream_batches
    where opened is null and closed is null and lanes = %(lanes)s and lane = %(lane)s
      and not batch = any(%(excluding)s)
    order by planned limit 1
"""
_DELETE_UNOPENED: Final = """
    delete from stream_batches where opened is null and closed is null and batch in (
        select batch from (
            select batch, row_number() over (partition by lanes, lane order by planned) as place from stream_batches
            where opened is null and closed is null and planned < %s and not batch = any(%s)
        ) as unopened
        where place > %s
    )
    returning batch
"""
_PRUNABLE: Final = """
    select batch from stream_batches
    where batch = any(%s) and closed is not null and reported and (closed < %s or batch = any(%s))
    order by batch
"""
_LATEST: Final = """
    select batch, case when closed is null then 'open' else 'closed' end as state, events, last_commit,
        extract(epoch from clock_timestamp() - last_commit)::double precision as last_commit_seconds
    from stream_batches
    where opened is not null and (%(lane)s::integer is null or (lane, lanes) = (%(lane)s, %(lanes)s))
    order by opened desc limit 1
"""
# The first replay or erasure keeps what the stream itself counted, for counters that never fall.
_RECORD_REPLAY: Final = """
    update stream_batches set
        read_predictions = coalesce(read_predictions, predictions),
        read_dead_letters = coalesce(read_dead_letters, dead_letters),
        read_duplicates = coalesce(read_duplicates, duplicates),
        read_erased = coalesce(read_erased, erased),
        events = %s, predictions = %s, dead_letters = %s, duplicates = %s, erased = %s, model_version = %s,
        replays = replays + 1, replayed_at = now()
    where batch = %s
"""
_EVENTS_BETWEEN: Final = """
    select coalesce(sum(events), 0)::bigint, coalesce(sum(dead_letters), 0)::bigint from stream_batches
    where opened >= %s and opened < %s
"""
_EVENTS_BY_HOUR: Final = """
    select date_trunc('hour', opened, 'utc'), sum(events)::bigint, sum(dead_letters)::bigint from stream_batches
    where opened >= %s and opened < %s group by 1
"""
# Assigns the oldest batches to a file, until the file is full. They have one customer schema, which the file records. A
# batch qualifies only if the ledger knows that all its predictions are published, because they could not be published
# once its rows are gone. For the same reason the worker must have added them to the summaries, once it has begun those.
_ASSIGN_ARCHIVE: Final = """
    with due as (
        select batch, closed, schema_fingerprint, row_number() over by_batch as place,
            first_value(schema_fingerprint) over by_batch as first_fingerprint,
            sum(predictions) over (by_batch rows between unbounded preceding and current row) as rows_so_far
        from stream_batches b
        where opened is not null and closed < %(before)s and reported and archived is null and archive is null
          and not exists (
            select from stream_ranges r join stream_positions p using (topic_id, kafka_partition)
            where r.batch = b.batch and r.end_offset > p.published_to
          )
          and not exists (
            select from summary_state
            where exists (select from replaced_predictions e where e.batch = b.batch) or exists (
                select from stream_ranges r left join worker_positions w
                  on w.follower = %(follower)s and w.topic_id = r.topic_id and w.kafka_partition = r.kafka_partition
                where r.batch = b.batch and r.end_offset > coalesce(w.next_offset, 0)
            )
          )
        window by_batch as (order by batch)
        limit %(batches)s
    ), taken as (
        select batch, closed, place from due
        where place = 1
          or (rows_so_far <= %(rows)s and schema_fingerprint is not distinct from first_fingerprint)
    )
    update stream_batches b set archive = (
        select concat_ws('/', %(folder)s::text, to_char(closed at time zone 'utc', 'YYYY-MM'), batch || '.parquet')
        from taken where place = 1
    )
    from taken t where b.batch = t.batch
"""
_ASSIGNED_ARCHIVE: Final = """
    select archive, array_agg(batch order by batch) from stream_batches
    where archive is not null and archived is null
    group by archive order by archive limit 1
"""
_RECORD_ARCHIVED: Final = """
    update stream_batches set archived = now() where batch = any(%s) and archive = %s and archived is null
"""
_ARCHIVED: Final = """
    select batch, archive from stream_batches where archived is not null and batch = any(%s) order by batch
"""
# Rows of customers who are erased, by the batch that counts them.
_COUNT_ERASED: Final = """
    update stream_batches b set
        read_predictions = coalesce(b.read_predictions, b.predictions),
        read_dead_letters = coalesce(b.read_dead_letters, b.dead_letters),
        read_duplicates = coalesce(b.read_duplicates, b.duplicates),
        read_erased = coalesce(b.read_erased, b.erased),
        predictions = b.predictions - g.predictions, dead_letters = b.dead_letters - g.dead_letters,
        erased = b.erased + g.predictions + g.dead_letters
    from (
        select batch, sum(predictions) as predictions, sum(dead_letters) as dead_letters
        from unnest(%s::text[], %s::bigint[], %s::bigint[]) as u (batch, predictions, dead_letters) group by batch
    ) as g
    where b.batch = g.batch
"""
_ARCHIVE_FILES: Final = """
    select archive, bool_and(archived is not null) from stream_batches where archive is not null
    group by archive order by archive
"""
_RANGES: Final = """
    select topic_id, kafka_partition, start_offset, end_offset from stream_ranges where batch = %s
    order by topic_id, kafka_partition
"""


def plan_batch(connection: psycopg.Connection, batch: str, lane: Lane = WHOLE) -> None:
    """Register a batch key, so that a run may stream into it. A key that is already registered does not change.

    Args:
        batch: the key.
        lane: whose partitions the batch reads; by default the only one, with all partitions.
    """
    connection.execute(
        "insert into stream_batches (batch, lane, lanes) values (%s, %s, %s) on conflict do nothing",
        (batch, lane.number, lane.of),
    )


def oldest_unopened(connection: psycopg.Connection, *, lane: Lane, excluding: Sequence[str]) -> str | None:
    """Return a lane's oldest planned batch that was never opened, except for those given. Its key can be used again."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            _OLDEST_UNOPENED, {"lane": lane.number, "lanes": lane.of, "excluding": list(excluding)}
        ).fetchone()


def delete_unopened(
    connection: psycopg.Connection, *, before: datetime, excluding: Sequence[str], leaving: int
) -> list[str]:
    """Delete batches that were planned before a moment and never opened, and return their keys.

    Args:
        excluding: keys that a run may be about to open.
        leaving: how many of the oldest of each lane stay. The sensor reuses those and may have just chosen one.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(_DELETE_UNOPENED, (before, list(excluding), leaving)).fetchall()


def prunable_batches(
    connection: psycopg.Connection, keys: Sequence[str], *, before: datetime, surplus: Sequence[str]
) -> list[str]:
    """Return which of these keys belong to batches that are closed and reported, oldest first.

    Args:
        before: only batches that were closed earlier than this.
        surplus: keys that qualify whenever their batch was closed.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(_PRUNABLE, (list(keys), before, list(surplus))).fetchall()


def unknown_batches(connection: psycopg.Connection, keys: Sequence[str]) -> list[str]:
    """Return which of these keys the ledger does not have."""
    rows = connection.execute(
        "select key from unnest(%s::text[]) as k (key) where not exists (select from stream_batches where batch = key)",
        (list(keys),),
    )
    return [key for (key,) in rows]


def find_batch(connection: psycopg.Connection, batch: str) -> Batch | None:
    """Return the batch with this key, or None."""
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(_FIND, (batch,)).fetchone()


def open_batches(connection: psycopg.Connection) -> list[Batch]:
    """Return the open batches, the oldest first. Each lane keeps at most one open."""
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(_FIND_OPEN).fetchall()


def latest_batch(connection: psycopg.Connection, lane: Lane | None = None) -> LatestBatch | None:
    """Return the batch that was opened last, in this lane or in any; None before the first."""
    with connection.cursor(row_factory=class_row(LatestBatch)) as cursor:
        return cursor.execute(
            _LATEST, {"lane": None if lane is None else lane.number, "lanes": None if lane is None else lane.of}
        ).fetchone()


def closed_batches(connection: psycopg.Connection, keys: Sequence[str]) -> set[str]:
    """Return which of these keys belong to closed batches. A run with such a key no longer streams."""
    rows = connection.execute(
        "select batch from stream_batches where batch = any(%s) and closed is not null", (list(keys),)
    )
    return {batch for (batch,) in rows}


def lanes_of(connection: psycopg.Connection, keys: Sequence[str]) -> dict[str, Lane]:
    """Return the lane that each of these batches reads; those that the ledger does not have are left out."""
    rows = connection.execute("select batch, lanes, lane from stream_batches where batch = any(%s)", (list(keys),))
    return {batch: Lane(count, number) for batch, count, number in rows}


def ranges_of_other_lanes(connection: psycopg.Connection) -> list[tuple[str, int]]:
    """Return batch and Kafka partition of each range whose partition does not belong to the lane of its batch."""
    return connection.execute(
        """
        select batch, kafka_partition from stream_ranges join stream_batches using (batch)
        where mod(kafka_partition, lanes) <> lane order by batch, kafka_partition
        """
    ).fetchall()


def ranges_of(connection: psycopg.Connection, batch: str) -> list[OffsetRange]:
    """Return the offset ranges of a batch, by topic id and Kafka partition."""
    with connection.cursor(row_factory=class_row(OffsetRange)) as cursor:
        return cursor.execute(_RANGES, (batch,)).fetchall()


def prediction_counts(connection: psycopg.Connection, batches: Sequence[str]) -> dict[str, int]:
    """Return the number of predictions of each of these batches."""
    return dict(
        connection.execute("select batch, predictions from stream_batches where batch = any(%s)", (list(batches),))
    )


def batches_of_topic(connection: psycopg.Connection, topic_id: str) -> set[str]:
    """Return the keys of the batches that have read the topic with this id."""
    rows = connection.execute("select distinct batch from stream_ranges where topic_id = %s", (topic_id,))
    return {batch for (batch,) in rows}


def take_over(connection: psycopg.Connection, *, batch: str, run_id: str, lane: Lane) -> list[Batch]:
    """Assign `batch` to this run and close every other open batch of its lane, so that no earlier run can commit.

    Returns:
        The batches that were closed here.
    """
    connection.execute("update stream_batches set run_id = %s where batch = %s and closed is null", (run_id, batch))
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(_CLOSE_OTHERS, {"batch": batch, "lane": lane.number, "lanes": lane.of}).fetchall()


def close_other_layouts(connection: psycopg.Connection, lanes: int) -> list[Batch]:
    """Close every batch of another number of lanes, so that no run of such a lane can commit.

    Batches that were planned and never opened are closed, too. They have nothing to report.

    Returns:
        The batches that had been opened.
    """
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return [each for each in cursor.execute(_CLOSE_OTHER_LAYOUTS, (lanes,)) if each.opened is not None]


def close_if_open(connection: psycopg.Connection, batch: str) -> None:
    """Close a batch that is open. A batch that was never opened stays planned."""
    connection.execute(
        "update stream_batches set closed = now() where batch = %s and opened is not null and closed is null", (batch,)
    )


def close_unfinished(connection: psycopg.Connection, batch: str) -> None:
    """Close a batch that may have unpublished predictions. The next run publishes them."""
    connection.execute("update stream_batches set closed = now() where batch = %s and closed is null", (batch,))


def close_open_batches(connection: psycopg.Connection) -> None:
    """Close every batch that a dead run left open."""
    connection.execute("update stream_batches set closed = now() where opened is not null and closed is null")


def unreported_batches(connection: psycopg.Connection) -> list[Batch]:
    """Return closed batches whose materialization Dagster may not have, in the order in which they were planned."""
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(_UNREPORTED).fetchall()


def mark_reported(connection: psycopg.Connection, batch: str) -> None:
    """Record that Dagster has the materialization of this batch."""
    connection.execute("update stream_batches set reported = true where batch = %s", (batch,))


def record_replay(
    connection: psycopg.Connection,
    batch: str,
    *,
    events: int,
    predictions: int,
    dead_letters: int,
    duplicates: int,
    erased: int,
    model_version: int,
) -> None:
    """Replace the counts of a batch with those of a replay by this model version."""
    connection.execute(_RECORD_REPLAY, (events, predictions, dead_letters, duplicates, erased, model_version, batch))


def has_unfinished(connection: psycopg.Connection) -> bool:
    """Return whether a batch that was opened is not closed, or not reported to Dagster."""
    row = connection.execute(
        "select exists (select from stream_batches where opened is not null and (closed is null or not reported))"
    ).fetchone()
    return row == (True,)


def count_events(connection: psycopg.Connection) -> tuple[int, datetime]:
    """Return how many events all batches have read, and when this was counted."""
    row = connection.execute(
        "select coalesce(sum(events), 0)::bigint, clock_timestamp() from stream_batches"
    ).fetchone()
    if row is None:
        raise RuntimeError("A select of a sum returned no row; PostgreSQL always returns one.")
    return row[0], row[1]


def count_events_between(connection: psycopg.Connection, start: datetime, end: datetime) -> tuple[int, int]:
    """Return the events read by batches that were opened in [start, end), and how many of them are dead letters."""
    row = connection.execute(_EVENTS_BETWEEN, (start, end)).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def count_events_by_hour(
    connection: psycopg.Connection, start: datetime, end: datetime
) -> dict[datetime, tuple[int, int]]:
    """Return events and dead letters as count_events_between() does, for each hour in which a batch was opened."""
    found = connection.execute(_EVENTS_BY_HOUR, (start, end))
    return {hour.astimezone(UTC): (events, dead_letters) for hour, events, dead_letters in found}


def assign_archive(
    connection: psycopg.Connection, *, before: datetime, folder: str, max_batches: int, max_rows: int
) -> None:
    """Record the next archive file, and which batches go into it.

    Args:
        before: only batches that were closed earlier than this.
        folder: the file is <folder>/<month closed>/<first batch>.parquet.
        max_batches: per file.
        max_rows: per file; a batch with more rows gets its own file.
    """
    connection.execute(
        _ASSIGN_ARCHIVE,
        {
            "before": before,
            "batches": max_batches,
            "rows": max_rows,
            "folder": folder,
            "follower": summary_state.FOLLOWER,
        },
    )


def assigned_archive(connection: psycopg.Connection) -> tuple[str, list[str]] | None:
    """Return a file that still has to be archived and its batches, in the database's order; None if there is none."""
    row = connection.execute(_ASSIGNED_ARCHIVE).fetchone()
    return None if row is None else (row[0], row[1])


def replay_counts(connection: psycopg.Connection, batches: Sequence[str]) -> list[tuple[str, int]]:
    """Return how often each of these batches was replayed."""
    return connection.execute(
        "select batch, replays from stream_batches where batch = any(%s) order by batch", (batches,)
    ).fetchall()


def archive_files(connection: psycopg.Connection) -> dict[str, bool]:
    """Return the files of the archive, and whether each is complete: if not, the table still has its rows."""
    return dict(connection.execute(_ARCHIVE_FILES).fetchall())


def replace_archive(connection: psycopg.Connection, file: str, by: str) -> None:
    """Record that another file holds what an archive file held."""
    connection.execute("update stream_batches set archive = %s where archive = %s", (by, file))


def hold_commits(connection: psycopg.Connection) -> None:
    """Wait for the commits that are running, and hold off others until the caller's transaction ends. Readers go on."""
    connection.execute("lock table stream_batches in share row exclusive mode")


def count_erased(
    connection: psycopg.Connection, *, predictions: Mapping[str, int], dead_letters: Mapping[str, int]
) -> None:
    """Count events of an erased customer as erased, and no longer as what they were.

    Args:
        connection: in the transaction that deletes their rows.
        predictions: how many predictions are deleted, by batch.
        dead_letters: how many dead letters are deleted, by batch.
    """
    batches = sorted({*predictions, *dead_letters})
    connection.execute(
        _COUNT_ERASED,
        (batches, [predictions.get(each, 0) for each in batches], [dead_letters.get(each, 0) for each in batches]),
    )


def record_archived(connection: psycopg.Connection, batches: Sequence[str], file: str) -> int:
    """Record that the file holds the predictions of these batches; return how many batches it was assigned to."""
    return connection.execute(_RECORD_ARCHIVED, (batches, file)).rowcount


def archived_among(connection: psycopg.Connection, batches: Sequence[str]) -> list[tuple[str, str]]:
    """Return which of these batches are archived, in order, and in which file."""
    return connection.execute(_ARCHIVED, (list(batches),)).fetchall()


def archived_batches(connection: psycopg.Connection) -> set[str]:
    """Return the keys of all archived batches."""
    return {batch for (batch,) in connection.execute("select batch from stream_batches where archived is not null")}


def move_archives(connection: psycopg.Connection, *, old: str, new: str) -> None:
    """Replace the folder `old`, in which archive files are, with `new` in the addresses of all of them."""
    connection.execute(
        "update stream_batches set archive = %s || substr(archive, %s) where starts_with(archive, %s)",
        (new, len(old) + 1, f"{old}/"),
    )
