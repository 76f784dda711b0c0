"""Maintenance: an hourly job, on by default, that limits the growth of Dagster's records and of churn_predictions."""

from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from churn_platform.orchestration.jobs import IN_PROCESS
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.settings import settings

# Per step. A backlog is worked off over several runs, so that no run occupies a place in the queue for long.
STEP_SECONDS: Final = 100
SESSION: Final = "churn maintenance"


def _days_ago(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def _report(context: dg.OpExecutionContext, figures: dict[str, int]) -> None:
    context.log.info(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in figures.items()))
    context.add_output_metadata(figures)


@dg.op(out=dg.Out(dg.Nothing))
def prune_partitions(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Delete prediction partitions older than RETENTION_DAYS or beyond the newest 20,000, and their runs and events."""
    from churn_platform.orchestration import pruning

    with postgres.connect(SESSION) as connection:
        connection.autocommit = True
        figures = pruning.prune_partitions(
            context.instance,
            connection,
            before=_days_ago(settings().retention_days),
            budget=pruning.Budget(STEP_SECONDS),
        )
    _report(context, figures)


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def prune_runs(context: dg.OpExecutionContext) -> None:
    """Delete runs and events older than RETENTION_DAYS, except those with the latest materialization of an asset."""
    from churn_platform.orchestration import pruning

    before, budget = _days_ago(settings().retention_days), pruning.Budget(STEP_SECONDS)
    _report(context, pruning.prune_runs(context.instance, before=before, budget=budget))


@dg.op(out=dg.Out(dg.Nothing))
def prune_ticks(context: dg.OpExecutionContext) -> None:
    """Delete ticks of sensors and schedules that are older than RETENTION_DAYS."""
    from churn_platform.orchestration import pruning

    before, budget = _days_ago(settings().retention_days), pruning.Budget(STEP_SECONDS)
    _report(context, pruning.prune_ticks(context.instance, before=before, budget=budget))


@dg.op(out=dg.Out(dg.Nothing))
def archive_predictions(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Move the predictions of batches closed more than ARCHIVE_DAYS ago to Parquet files."""
    from churn_platform import archive
    from churn_platform.orchestration.pruning import Budget

    before, budget = _days_ago(settings().archive_days), Budget(STEP_SECONDS)
    figures = {"files": 0, "batches": 0, "rows": 0}
    with postgres.connect(SESSION) as connection:
        connection.autocommit = True
        with archive.archiving(connection) as is_alone:
            if not is_alone:
                context.log.info("Another run is archiving already.")
            while is_alone and not budget.spent:
                archived = archive.archive_next(connection, settings().artifacts, before=before)
                if archived is None:
                    break
                context.log.info(f"{archived.file}: {archived.rows} rows of {archived.batches} batches.")
                figures["files"] += 1
                figures["batches"] += archived.batches
                figures["rows"] += archived.rows
    _report(context, figures)


@dg.op(out=dg.Out(dg.Nothing))
def prune_monitoring(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Delete hourly drift, outcomes and reports of days entirely older than ARCHIVE_DAYS. Daily figures stay."""
    from churn_platform.monitoring import lookups, pruning, report

    before = pruning.deletable_before(datetime.now(UTC), archive_days=settings().archive_days)
    with postgres.connect(SESSION) as connection:
        figures = lookups.forget(connection, before=before)
    _report(context, {**figures, "reports": report.delete_before(settings().artifacts, before=before.date())})


@dg.job(
    executor_def=IN_PROCESS,
    # Not urgent: a run may wait in the queue, and a failed one is followed by the next within the hour.
    tags={"dagster/priority": "-1", "dagster/max_retries": "0"},
    description="Prunes Dagster's records by RETENTION_DAYS and archives predictions by ARCHIVE_DAYS, in small steps. "
    "The log and the metadata of each step report how much it pruned.",
)
def maintenance_job() -> None:
    """Prune partitions before runs; the other steps are independent."""
    prune_runs(after=prune_partitions())
    prune_ticks()
    archive_predictions()
    prune_monitoring()


maintenance_schedule = dg.ScheduleDefinition(
    name="maintenance_schedule",
    job=maintenance_job,
    cron_schedule="23 * * * *",  # not on the hour, when training and hourly metrics are due
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Limits the growth of the platform's data, once an hour. On by default.",
)
