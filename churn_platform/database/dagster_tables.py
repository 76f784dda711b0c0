"""What the platform reads from Dagster's own tables, in the schema `dagster`. It writes nothing there.

Everything that has Dagster at hand asks its instance instead. This module is for processes that must not import it, or
that work while Dagster is down. The tables are those of dagster 1.13.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

# The only job whose runs do their work while they last. A run of any other job has worked once it has succeeded.
STREAM_JOB: Final = "prediction_stream_job"
# Executions of checks that may still change: Dagster writes a row when a check is planned, and updates it.
UNSETTLED_CHECKS: Final = 1000
PARTITION_TAGS: Final = (
    "dagster/partition",
    "dagster/asset_partition_range_start",
    "dagster/asset_partition_range_end",
)
"""Tags that name the partition of a run, or the first and the last one."""

# From the catalog, because to_regclass() fails for a login without usage on the schema. Null: no such tables.
_READABLE: Final = """
    select case when count(*) = 5 then
        bool_and(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))
    end
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'dagster' and c.relkind = 'r' and c.relname in (
        'runs', 'run_tags', 'daemon_heartbeats', 'asset_check_executions', 'event_logs'
    )
"""
_UNFINISHED: Final = """
    select run_id, pipeline_name, status from dagster.runs where status in ('STARTING', 'STARTED', 'CANCELING')
    order by id
"""
_COUNT_UNFINISHED: Final = """
    select status, count(*) from dagster.runs
    where status in ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED', 'CANCELING') group by status
"""
_COUNT_FAILED: Final = """
    select pipeline_name, count(*) from dagster.runs
    where status = 'FAILURE' and end_time >= extract(epoch from now()) - %s group by pipeline_name
"""
# A key of an hour or a day sorts by time, so a range of partitions is a range of texts.
_COUNT_FAILED_PARTITIONS: Final = """
    with failed as (
        select min(value) as first, max(value) as last
        from dagster.runs r join dagster.run_tags t using (run_id)
        where r.pipeline_name = %(job)s and r.status = 'FAILURE' and t.key = any(%(tags)s) and r.id > coalesce(
            (select max(s.id) from dagster.runs s where s.pipeline_name = %(job)s and s.status = 'SUCCESS'), 0
        )
        group by r.run_id
    )
    select count(*) from unnest(%(keys)s::text[]) as k (key)
    where exists (select from failed where key between first and last)
"""
_SINCE_HEARTBEAT: Final = """
    select (extract(epoch from now()) - max((body::json ->> 'timestamp')::double precision))::double precision
    from dagster.daemon_heartbeats
"""
# Few runs fail, and idx_runs_by_job finds the later runs of a job, so no number of runs makes this slow.
_FAILED: Final = """
    with latest as (
        select distinct on (pipeline_name) pipeline_name, id, run_id, end_time
        from dagster.runs where status = 'FAILURE' order by pipeline_name, id desc
    )
    select pipeline_name, run_id, coalesce((
        select event::json #>> '{dagster_event,message}' from dagster.event_logs
        where event_logs.run_id = latest.run_id and dagster_event_type = 'PIPELINE_FAILURE' order by id limit 1
    ), '') from latest
    where extract(epoch from now()) - end_time < %(recent)s or not exists (
        select from dagster.runs later
        where later.pipeline_name = latest.pipeline_name and later.id > latest.id
          and (later.status = 'SUCCESS' or later.status = 'STARTED' and later.pipeline_name = %(stream_job)s)
    )
    order by pipeline_name
"""
_ALL_CHECKS: Final = """
    select distinct on (asset_key, check_name) id, asset_key, check_name, run_id, execution_status = 'FAILED'
        and evaluation_event::jsonb #>> '{dagster_event,event_specific_data,severity,__enum__}'
            = 'AssetCheckSeverity.ERROR'
    from dagster.asset_check_executions where execution_status in ('SUCCEEDED', 'FAILED')
    order by asset_key, check_name, id desc
"""
_LATEST_CHECKS: Final = """
    select id, asset_key, check_name, run_id, execution_status = 'FAILED'
        and evaluation_event::jsonb #>> '{dagster_event,event_specific_data,severity,__enum__}'
            = 'AssetCheckSeverity.ERROR'
    from dagster.asset_check_executions
    where id > %s and execution_status in ('SUCCEEDED', 'FAILED') order by id
"""


@dataclass(frozen=True)
class FailedRun:
    """The latest failed run of a job. `reason`: what Dagster reports, such as that it has lasted too long."""

    job: str
    run_id: str
    reason: str


@dataclass(frozen=True)
class CheckExecution:
    """A finished execution of an asset check. `is_error`: it failed, and with the severity ERROR."""

    id: int
    asset_key: str
    check_name: str
    run_id: str
    is_error: bool


def are_readable(connection: psycopg.Connection) -> bool | None:
    """Return whether this login may read the tables; None if this database has none."""
    row = connection.execute(_READABLE).fetchone()
    return None if row is None else row[0]


def unfinished_runs(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    """Return the id, job and status of the runs that have begun and not ended."""
    return connection.execute(_UNFINISHED).fetchall()


def count_unfinished(connection: psycopg.Connection) -> dict[str, int]:
    """Return the number of runs that have not ended, by Dagster's status."""
    return dict(connection.execute(_COUNT_UNFINISHED).fetchall())


def count_failed(connection: psycopg.Connection, *, recent_seconds: float) -> dict[str, int]:
    """Return the number of runs that failed within this time, by job."""
    return dict(connection.execute(_COUNT_FAILED, (recent_seconds,)).fetchall())


def count_failed_partitions(connection: psycopg.Connection, job: str, keys: Sequence[str]) -> int:
    """Return how many of these hours or days a run of the job has failed on, and no later run of it has succeeded."""
    row = connection.execute(
        _COUNT_FAILED_PARTITIONS, {"job": job, "keys": list(keys), "tags": list(PARTITION_TAGS)}
    ).fetchone()
    return 0 if row is None else int(row[0])


def seconds_since_heartbeat(connection: psycopg.Connection) -> float | None:
    """Return the seconds since the latest heartbeat of the daemon; None if it never had one here."""
    row = connection.execute(_SINCE_HEARTBEAT).fetchone()
    return None if row is None else row[0]


def failed_runs(connection: psycopg.Connection, *, recent_seconds: float) -> list[FailedRun]:
    """Return the latest failed run of each job that failed within this time, or has not worked since."""
    rows = connection.execute(_FAILED, {"recent": recent_seconds, "stream_job": STREAM_JOB})
    return [FailedRun(*row) for row in rows]


def check_executions(connection: psycopg.Connection, *, known_to: int) -> list[CheckExecution]:
    """Return finished executions of checks, the latest of each check last.

    Args:
        connection: to the database of Dagster's tables.
        known_to: greatest id that an earlier call returned, so that only later ones and those that may have changed
            since are read; 0 for the latest of every check.
    """
    rows = (
        connection.execute(_LATEST_CHECKS, (known_to - UNSETTLED_CHECKS,))
        if known_to
        else connection.execute(_ALL_CHECKS)
    )
    return [CheckExecution(*row) for row in rows]
