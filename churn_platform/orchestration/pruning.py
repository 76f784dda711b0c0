"""Pruning of Dagster's own storage: old prediction partitions, runs, events and ticks.

Dagster deletes runs and keys on demand, one by one, and ticks by age. It never deletes events without a run, events of
a deleted key, or check results. So this module deletes from Dagster's tables, through SQLAlchemy, on every storage.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

import dagster as dg
import psycopg
import sqlalchemy as sa
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    DynamicPartitionsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.storage.schedules.sql_schedule_storage import SqlScheduleStorage

from churn_platform.database import stream_batches
from churn_platform.orchestration.partitions import batch_key, batches

# The asset page takes 80 ms for 10,000 partitions and seconds for 100,000. 20,000 are ten weeks of a batch every five
# minutes.
KEPT_PARTITIONS: Final = 20_000
# Old unopened keys that stay: one for the next run, one for its standby, and one to spare.
KEPT_FOR_REUSE: Final = 3
# Keys or runs deleted between two checks of the clock: a few seconds at most.
STEP: Final = 100
# Rows deleted by one statement.
STEP_ROWS: Final = 1_000

PREDICTIONS: Final = dg.AssetKey("churn_predictions")
PARTITION_TAG: Final = "dagster/partition"
FIRST_TAG: Final = "dagster/asset_partition_range_start"
LAST_TAG: Final = "dagster/asset_partition_range_end"
FINISHED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]

T = TypeVar("T")

_events: Final = SqlEventLogStorageTable.c
_checks: Final = AssetCheckExecutionsTable.c
_ticks: Final = JobTickTable.c


class UnknownStorageError(TypeError):
    """Dagster uses a storage whose tables are unknown here."""


class Budget:
    """The time that a maintenance step may take."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Args:
            seconds: the length of the budget.
            clock: returns seconds that only increase.
        """
        self._clock = clock
        self._deadline = clock() + seconds

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self._clock() >= self._deadline

    def steps(self, items: Sequence[T], size: int) -> Iterator[list[T]]:
        """Yield the items in lists of this size until the budget is used up."""
        remaining = iter(items)
        while not self.spent and (step := list(islice(remaining, size))):
            yield step


def prune_partitions(
    instance: dg.DagsterInstance,
    connection: psycopg.Connection,
    *,
    before: datetime,
    budget: Budget,
    keep: int = KEPT_PARTITIONS,
    step_size: int = STEP,
) -> dict[str, int]:
    """Delete prediction partitions with their runs, materializations and check results.

    A partition is deleted if its batch has been reported, and was closed before the moment or is not among the newest.
    A partition that was planned before the moment and never opened is deleted, too, except for a few that the sensor
    uses again. The key is deleted last, so that an interrupted deletion is continued. The ledger keeps every batch
    that was ever opened.

    Args:
        instance: the instance whose records are pruned.
        connection: to the ledger, in autocommit mode.
        before: the moment.
        budget: the time that this may take.
        keep: the number of newest partitions that stay, unless they are older than the moment.
        step_size: keys that are deleted between two checks of the clock.

    Returns:
        The numbers of deleted partitions and runs, and of partitions left for the next run of the job.
    """
    keys = sorted(instance.get_dynamic_partitions(str(batches.name)))
    surplus = keys[: max(len(keys) - keep, 0)]
    active = _active_ranges(instance)
    stream_batches.delete_unopened(
        connection, before=before, excluding=[first for first, _ in active], leaving=KEPT_FOR_REUSE
    )
    unneeded = set(stream_batches.prunable_batches(connection, keys, before=before, surplus=surplus))
    # A key that the ledger does not have, or no longer has, is dated by the time in the key.
    unneeded |= set(stream_batches.unknown_batches(connection, [key for key in keys if key < batch_key(before)]))
    prunable = [key for key in keys if key in unneeded and not any(first <= key <= last for first, last in active)]
    partitions = runs = 0
    for step in budget.steps(prunable, step_size):
        found = instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: step}))
        busy = {run.tags[PARTITION_TAG] for run in found if not run.is_finished}
        idle = [key for key in step if key not in busy]
        finished = [run.run_id for run in found if run.tags[PARTITION_TAG] not in busy]
        _delete_runs(instance, finished)
        _delete_partitions(instance, idle)
        partitions, runs = partitions + len(idle), runs + len(finished)
    return {"partitions": partitions, "runs": runs, "partitions_left_for_next_time": len(prunable) - partitions}


def prune_runs(instance: dg.DagsterInstance, *, before: datetime, budget: Budget) -> dict[str, int]:
    """Delete runs that ended before the moment, with their events and logs, and old events that belong to no run.

    A run is kept if it made the latest materialization of an asset or partition, or the latest result of a check:
    without its events Dagster would show the asset or hour as never materialized.

    Returns:
        The numbers of deleted runs and of deleted events without a run, of runs kept for their materializations, and of
        runs left for the next run of the job.
    """
    kept = _latest_runs(instance)
    old = instance.get_run_ids(dg.RunsFilter(statuses=FINISHED, updated_before=before))
    prunable = [run_id for run_id in reversed(old) if run_id not in kept]
    runs = 0
    for step in budget.steps(prunable, STEP):
        _delete_runs(instance, step)
        runs += len(step)
    return {
        "runs": runs,
        "events_without_run": _prune_runless_events(instance, before, budget),
        "runs_kept_for_their_materializations": len(old) - len(prunable),
        "runs_left_for_next_time": len(prunable) - runs,
    }


def prune_ticks(instance: dg.DagsterInstance, *, before: datetime, budget: Budget) -> dict[str, int]:
    """Delete ticks of sensors and schedules from before the moment, except the last of each, which holds its cursor.

    Returns:
        The number of deleted ticks.
    """
    storage = instance.schedule_storage
    if not isinstance(storage, SqlScheduleStorage):
        raise UnknownStorageError(_unknown(storage))
    last = sa.select(sa.func.max(_ticks.id)).group_by(_ticks.selector_id, _ticks.job_origin_id)
    with storage.connect() as connection:
        old = _ids(connection, sa.select(_ticks.id).where(_ticks.timestamp < before, _ticks.id.not_in(last)))
        ticks = 0
        for step in budget.steps(old, STEP_ROWS):
            connection.execute(sa.delete(JobTickTable).where(_ticks.id.in_(step)))
            ticks += len(step)
    return {"ticks": ticks}


def _active_ranges(instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    """Return the first and last partition key of each unfinished run: one key, or the batches of a backfill."""
    unfinished = [status for status in dg.DagsterRunStatus if status not in FINISHED]
    tags = [run.tags for run in instance.get_runs(dg.RunsFilter(statuses=unfinished))]
    single = [(each[PARTITION_TAG], each[PARTITION_TAG]) for each in tags if PARTITION_TAG in each]
    return single + [(each[FIRST_TAG], each[LAST_TAG]) for each in tags if FIRST_TAG in each and LAST_TAG in each]


def _delete_runs(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Delete finished runs with their logs, events and check results.

    The runs are deleted last, so that an interrupted deletion is continued. They are deleted together, because
    instance.delete_run() opens a dozen connections for each.
    """
    if not run_ids:
        return
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        raise UnknownStorageError(_unknown(storage))
    for run_id in run_ids:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    with _event_log(instance).index_connection() as connection:
        connection.execute(sa.delete(AssetCheckExecutionsTable).where(_checks.run_id.in_(run_ids)))
        _delete_events(connection, _events.run_id.in_(run_ids))
    with storage.connect() as connection:
        connection.execute(sa.delete(RunTagsTable).where(RunTagsTable.c.run_id.in_(run_ids)))
        connection.execute(sa.delete(RunsTable).where(RunsTable.c.run_id.in_(run_ids)))


def _delete_partitions(instance: dg.DagsterInstance, keys: Sequence[str]) -> None:
    """Delete keys of prediction partitions, after the events and check results of these partitions."""
    asset = PREDICTIONS.to_string()
    with _event_log(instance).index_connection() as connection:
        _delete_events(connection, sa.and_(_events.asset_key == asset, _events.partition.in_(keys)))
        connection.execute(
            sa.delete(AssetCheckExecutionsTable).where(_checks.asset_key == asset, _checks.partition.in_(keys))
        )
        connection.execute(
            sa.delete(DynamicPartitionsTable).where(
                DynamicPartitionsTable.c.partitions_def_name == batches.name,
                DynamicPartitionsTable.c.partition.in_(keys),
            )
        )


def _latest_runs(instance: dg.DagsterInstance) -> set[str]:
    """Return the runs that made the latest materialization of an asset or partition, or the latest check result."""
    materialized = _events.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value
    events = sa.select(sa.func.max(_events.id)).group_by(_events.asset_key, _events.partition)
    # The keys are listed, so that PostgreSQL uses the index on asset and partition.
    keys = [key.to_string() for key in instance.all_asset_keys()]
    latest_events = events.where(_events.asset_key.in_(keys), materialized)
    # A check has no result if its run failed before it.
    evaluated = _checks.execution_status.in_(
        [status.value for status in COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES]
    )
    latest_checks = sa.select(sa.func.max(_checks.id)).where(evaluated).group_by(_checks.asset_key, _checks.check_name)
    with _event_log(instance).index_connection() as connection:
        runs = [
            *connection.execute(sa.select(_events.run_id).where(_events.id.in_(latest_events)).distinct()),
            *connection.execute(sa.select(_checks.run_id).where(_checks.id.in_(latest_checks)).distinct()),
        ]
    return {run_id for (run_id,) in runs}


def _prune_runless_events(instance: dg.DagsterInstance, before: datetime, budget: Budget) -> int:
    """Delete events that sensors reported, except the latest of each kind, asset and partition."""
    runless = _events.run_id == RUNLESS_RUN_ID
    latest = (
        sa.select(sa.func.max(_events.id))
        .where(runless)
        .group_by(_events.asset_key, _events.dagster_event_type, _events.partition)
    )
    with _event_log(instance).index_connection() as connection:
        old = _ids(
            connection, sa.select(_events.id).where(runless, _events.timestamp < before, _events.id.not_in(latest))
        )
        deleted = 0
        for step in budget.steps(old, STEP_ROWS):
            _delete_events(connection, _events.id.in_(step))
            deleted += len(step)
    return deleted


def _delete_events(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    ids = sa.select(_events.id).where(which)
    connection.execute(sa.delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(ids)))
    connection.execute(sa.delete(SqlEventLogStorageTable).where(which))


def _ids(connection: sa.Connection, query: sa.Select[Any]) -> list[int]:
    return [found for (found,) in connection.execute(query)]


def _event_log(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise UnknownStorageError(_unknown(storage))
    return storage


def _unknown(storage: object) -> str:
    return (
        f"Dagster stores its records in a {type(storage).__name__}, whose tables are unknown here. Expected "
        f"PostgreSQL, MySQL or SQLite. Set one of them in dagster.yaml, or turn maintenance_schedule off."
    )
