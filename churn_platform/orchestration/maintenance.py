"""Hourly maintenance, on by default: it limits the growth of Dagster's records and of churn_predictions.

This module holds the job and its schedule. What is deleted, and how, is in pruning.py, archive.py and monitoring/.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import WINDOW_JOB
from churn_platform.orchestration.run_sizes import DATA
from churn_platform.settings import settings

# Time limit of a step. A backlog is processed over several runs, so that no run blocks the queue for long.
STEP_SECONDS: Final = 100
SESSION: Final = "churn maintenance"


def _days_ago(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def _report(context: dg.OpExecutionContext, figures: dict[str, int]) -> None:
    context.log.info(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in figures.items()))
    context.add_output_metadata(figures)


@dg.op(out=dg.Out(dg.Nothing))
def prune_partitions(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Delete prediction partitions older than RETENTION_DAYS or beyond the newest 20,000, with runs and events."""
    from churn_platform.orchestration import pruning

    with postgres.connect(SESSION) as connection:
        connection.autocommit = True
        figures = pruning.prune_partitions(
            context.instance,
            connection,
            before=_days_ago(settings().lifecycle.retention_days),
            budget=pruning.Budget(STEP_SECONDS),
        )
    _report(context, figures)


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def prune_runs(context: dg.OpExecutionContext) -> None:
    """Delete runs and events older than RETENTION_DAYS, except those with the latest materialization of an asset."""
    from churn_platform.orchestration import pruning

    before, budget = _days_ago(settings().lifecycle.retention_days), pruning.Budget(STEP_SECONDS)
    _report(context, pruning.prune_runs(context.instance, before=before, budget=budget))


@dg.op(out=dg.Out(dg.Nothing))
def prune_ticks(context: dg.OpExecutionContext) -> None:
    """Delete ticks of sensors and schedules older than RETENTION_DAYS."""
    from churn_platform.orchestration import pruning

    before, budget = _days_ago(settings().lifecycle.retention_days), pruning.Budget(STEP_SECONDS)
    _report(context, pruning.prune_ticks(context.instance, before=before, budget=budget))


@dg.op(out=dg.Out(dg.Nothing))
def archive_predictions(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Move predictions of batches that were closed more than ARCHIVE_DAYS ago to Parquet files."""
    from churn_platform import archive
    from churn_platform.database.advisory_locks import archive_lock
    from churn_platform.orchestration.pruning import Budget

    before, budget = _days_ago(settings().lifecycle.archive_days), Budget(STEP_SECONDS)
    figures = {"files": 0, "batches": 0, "rows": 0}
    with postgres.connect(SESSION) as connection:
        connection.autocommit = True
        with archive_lock(connection) as acquired:
            if not acquired:
                context.log.info("Another run is archiving, so this one does not.")
            while acquired and not budget.spent:
                archived = archive.archive_next(connection, settings().platform.artifacts_root, before=before)
                if archived is None:
                    break
                context.log.info(f"Archived {archived.rows} rows of {archived.batches} batches to {archived.file}.")
                figures["files"] += 1
                figures["batches"] += archived.batches
                figures["rows"] += archived.rows
    _report(context, figures)


@dg.op(out=dg.Out(dg.Nothing))
def prune_monitoring(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Delete hourly drift, outcomes, shadows' scores and daily reports older than ARCHIVE_DAYS. Daily figures stay."""
    from churn_platform.monitoring import lookups, pruning, report

    before = pruning.deletable_before(datetime.now(UTC), archive_days=settings().lifecycle.archive_days)
    with postgres.connect(SESSION) as connection:
        figures = lookups.delete_old(connection, before=before)
    _report(
        context, {**figures, "reports": report.delete_before(settings().platform.artifacts_root, before=before.date())}
    )


@dg.op(out=dg.Out(dg.Nothing))
def prune_spark_attempts(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Delete what Spark has staged for runs that died, once it is older than a day. No run takes as long."""
    from churn_platform.database import spark_staging

    with postgres.connect(SESSION) as connection:
        figures = {"attempts": spark_staging.prune(connection, before=_days_ago(1))}
    _report(context, figures)


@dg.job(
    # It can wait in the queue, and needs no retry, because the next run is due within the hour.
    tags={**WINDOW_JOB, **DATA.tags, "dagster/priority": "-1"},
    description="Deletes Dagster's records older than RETENTION_DAYS and archives predictions older than ARCHIVE_DAYS, "
    "in small steps. The log and metadata of each step show what it did.",
)
def maintenance_job() -> None:
    """Prune partitions before runs. The other steps are independent."""
    prune_runs(after=prune_partitions())
    prune_ticks()
    archive_predictions()
    prune_monitoring()
    prune_spark_attempts()


maintenance_schedule = dg.ScheduleDefinition(
    name="maintenance_schedule",
    job=maintenance_job,
    cron_schedule="23 * * * *",  # not at the full hour, when training and hourly metrics are due
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Limits the growth of the platform's records, once an hour. On by default.",
)
