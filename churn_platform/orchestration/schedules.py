"""Schedules of data preparation, training, the scoring of a file, the effect of calls, and the comparison of a shadow.

Only the last two are on by default. The others are off until someone turns them on.

The maintenance schedule is next to its job, in maintenance.py.
"""

from typing import Final

import dagster as dg

from churn_platform.database import challengers
from churn_platform.database.connections import connect
from churn_platform.orchestration.assets.training_inputs import changes
from churn_platform.orchestration.jobs import (
    customer_scoring_job,
    data_preparation_job,
    retention_effect_job,
    shadow_comparison_job,
    training_job,
)
from churn_platform.orchestration.resources.mlflow import code_version
from churn_platform.schema.current import schema_of
from churn_platform.settings import ScheduleSettings, settings

SESSION: Final = "churn schedules"


def training_schedules(times: ScheduleSettings) -> list[dg.ScheduleDefinition]:
    """Return the schedules of data preparation and training.

    Args:
        times: cron expressions of both.
    """
    return [
        dg.ScheduleDefinition(
            name="data_preparation_schedule",
            job=data_preparation_job,
            cron_schedule=times.data_preparation_cron,
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Prepares the data (DATA_PREPARATION_CRON; by default every day at 02:00 UTC).",
        ),
        dg.ScheduleDefinition(
            name="training_schedule",
            job=training_job,
            cron_schedule=times.training_cron,
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.STOPPED,
            execution_fn=request_training,
            description="Trains on the prepared data if anything has changed (TRAINING_CRON; by default every day at "
            "02:30 UTC).",
        ),
    ]


def scoring_schedules(times: ScheduleSettings) -> list[dg.ScheduleDefinition]:
    """Return the schedule of the scoring of a file.

    Args:
        times: its cron expression.
    """
    return [
        dg.ScheduleDefinition(
            name="customer_scoring_schedule",
            job=customer_scoring_job,
            cron_schedule=times.customer_scoring_cron,
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Scores every customer of a file (CUSTOMER_SCORING_CRON; by default every day at 03:00 UTC).",
        )
    ]


retention_effect_schedule = dg.ScheduleDefinition(
    name="retention_effect_schedule",
    job=retention_effect_job,
    cron_schedule="41 4 * * *",  # not at the full hour, and after the schedules of the night
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Computes the effect of calls, once a day. On by default: it takes a second.",
)


def request_comparison(_: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request a comparison of the shadow, if there is one."""
    with connect(settings().postgres_dsn, application_name=SESSION, connect_timeout=10) as connection:
        if challengers.active(connection, "shadow") is None:
            return dg.SkipReason("There is no shadow. 'churn model shadow VERSION' starts one.")
    return dg.RunRequest()


shadow_comparison_schedule = dg.ScheduleDefinition(
    name="shadow_comparison_schedule",
    job=shadow_comparison_job,
    cron_schedule="47 4 * * *",  # not at the full hour, and after the schedules of the night
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    execution_fn=request_comparison,
    description="Compares the shadow with the champion once a day, while there is one. On by default.",
)


def request_training(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request a training run, unless it would produce the model of the last one again."""
    changed = changes(context.instance, schema_of(settings()), revision=code_version())
    if not changed:
        return dg.SkipReason(
            "The customers, their schema, the settings and the code have not changed since the latest model."
        )
    return dg.RunRequest(tags={"churn/changed": "; ".join(changed)})
