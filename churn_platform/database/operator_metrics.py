"""What the worker's metrics endpoint reads, across tables. Reads only, and no raw predictions.

A scrape every few seconds must cost next to nothing, however many batches, hours and runs there are. So each statement
uses an index or a table of few rows. What needs more is read less often: see churn_platform/observability/reading.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.database import model_versions

# Batches that were closed longer ago than this are added up once. A transaction that closes a batch is much shorter, so
# none that began before then can still appear.
SETTLED_SECONDS: Final = 600.0

_LEDGER: Final = """
    with settled as (
        select now() - make_interval(secs => %(seconds)s) as at
    ), batches as (
        select closed, closed <= settled.at as is_settled, last_commit, commits,
            coalesce(read_predictions, predictions) as predictions,
            coalesce(read_dead_letters, dead_letters) as dead_letters,
            coalesce(read_duplicates, duplicates) as duplicates,
            coalesce(read_erased, erased) as erased
        from stream_batches, settled
        where closed is null or closed > %(since)s
    )
    select settled.at as settled_at,
        coalesce(sum(predictions) filter (where is_settled), 0)::bigint as settled_predictions,
        coalesce(sum(dead_letters) filter (where is_settled), 0)::bigint as settled_dead_letters,
        coalesce(sum(duplicates) filter (where is_settled), 0)::bigint as settled_duplicates,
        coalesce(sum(erased) filter (where is_settled), 0)::bigint as settled_erased,
        coalesce(sum(commits) filter (where is_settled), 0)::bigint as settled_commits,
        coalesce(sum(predictions), 0)::bigint as predictions,
        coalesce(sum(dead_letters), 0)::bigint as dead_letters,
        coalesce(sum(duplicates), 0)::bigint as duplicates,
        coalesce(sum(erased), 0)::bigint as erased,
        coalesce(sum(commits), 0)::bigint as commits,
        max(last_commit) as last_commit
    from settled left join batches on true
    group by settled.at
"""
_HOURS: Final = """
    with hours as (
        select d.hour_timestamp, m.version is null as is_missing
        from dirty_hours d left join churn_metrics_hourly m using (hour_timestamp)
        where d.hour_timestamp <= now() and (m.version is null or d.version > m.version)
    )
    select
        (select count(*) from dirty_hours where hour_timestamp <= now()) - count(*) as current,
        count(*) filter (where is_missing) as missing,
        count(*) filter (where not is_missing) as outdated,
        coalesce(array_agg(to_char(hour_timestamp at time zone 'utc', 'YYYY-MM-DD-HH24:MI')), '{}') as keys
    from hours
"""
_SIZE: Final = "select pg_database_size(current_database())"
_DRIFT: Final = sql.SQL("""
    select feature, psi from drift_daily
    where model_version = {champion} and psi is not null
      and date = (select max(date) from drift_daily where model_version = {champion})
    order by feature
""").format(champion=sql.SQL(model_versions.CHAMPION))
_LIVE: Final = sql.SQL("""
    select roc_auc, expected_roc_auc, labelled from live_performance
    where model_version = {champion} order by date desc limit 1
""").format(champion=sql.SQL(model_versions.CHAMPION))


@dataclass(frozen=True)
class Hours:
    """Hours of event time with predictions, by the state of their metrics. `keys`: those that are not current."""

    current: int
    missing: int
    outdated: int
    keys: Sequence[str]


@dataclass(frozen=True)
class LivePerformance:
    """The champion's latest live performance."""

    roc_auc: float | None
    expected_roc_auc: float | None
    labelled: int


@dataclass(frozen=True)
class Ledger:
    """What the stream has counted since the first event.

    Attributes:
        predictions: events that were scored.
        dead_letters: events that could not be scored.
        duplicates: events whose id was already scored.
        erased: events of customers who were erased before.
        commits: commits with events.
        last_commit: when the latest one was; None before the first.
    """

    predictions: int
    dead_letters: int
    duplicates: int
    erased: int
    commits: int
    last_commit: datetime | None


@dataclass(frozen=True)
class _LedgerRow:
    settled_at: datetime
    settled_predictions: int
    settled_dead_letters: int
    settled_duplicates: int
    settled_erased: int
    settled_commits: int
    predictions: int
    dead_letters: int
    duplicates: int
    erased: int
    commits: int
    last_commit: datetime | None


@dataclass
class LedgerCounter:
    """Adds up the batches. Those that were closed some time ago are added once, in memory.

    A replay or an erasure changes nothing in it, so the numbers never fall: not even when another worker adds them up,
    or this one after a restart.
    """

    _since: str | datetime = "-infinity"
    _settled: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    _last_commit: datetime | None = field(default=None)

    def read(self, connection: psycopg.Connection) -> Ledger:
        """Return the numbers of now."""
        with connection.cursor(row_factory=class_row(_LedgerRow)) as cursor:
            row = cursor.execute(_LEDGER, {"since": self._since, "seconds": SETTLED_SECONDS}).fetchone()
        if row is None:
            raise RuntimeError("A select of sums returned no row; PostgreSQL always returns one.")
        predictions, dead_letters, duplicates, erased, commits = self._settled
        self._last_commit = max(filter(None, (self._last_commit, row.last_commit)), default=None)
        found = Ledger(
            predictions=predictions + row.predictions,
            dead_letters=dead_letters + row.dead_letters,
            duplicates=duplicates + row.duplicates,
            erased=erased + row.erased,
            commits=commits + row.commits,
            last_commit=self._last_commit,
        )
        self._settled = (
            predictions + row.settled_predictions,
            dead_letters + row.settled_dead_letters,
            duplicates + row.settled_duplicates,
            erased + row.settled_erased,
            commits + row.settled_commits,
        )
        self._since = row.settled_at
        return found


def hours(connection: psycopg.Connection) -> Hours:
    """Return how many hours have metrics that include all of their predictions, and how many have not."""
    with connection.cursor(row_factory=class_row(Hours)) as cursor:
        return cursor.execute(_HOURS).fetchone() or Hours(0, 0, 0, ())


def database_bytes(connection: psycopg.Connection) -> int:
    """Return the size of the database on disk, in bytes."""
    row = connection.execute(_SIZE).fetchone()
    return 0 if row is None else int(row[0])


def drift(connection: psycopg.Connection) -> Mapping[str, float]:
    """Return the population stability index of each of the champion's features on the latest day that was evaluated."""
    return dict(connection.execute(_DRIFT).fetchall())


def live_performance(connection: psycopg.Connection) -> LivePerformance | None:
    """Return the champion's live performance on the latest day that was evaluated; None before the first."""
    with connection.cursor(row_factory=class_row(LivePerformance)) as cursor:
        return cursor.execute(_LIVE).fetchone()
