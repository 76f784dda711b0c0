"""Schedules of the batch side, off until somebody turns them on."""

import dagster as dg

from churn_platform.orchestration.assets.training_inputs import changes
from churn_platform.orchestration.jobs import data_preparation_job, training_job
from churn_platform.orchestration.resources.mlflow import code_version
from churn_platform.settings import settings

data_preparation_schedule = dg.ScheduleDefinition(
    name="data_preparation_schedule",
    job=data_preparation_job,
    cron_schedule=settings().schedules.data_preparation_cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Prepares the data (DATA_PREPARATION_CRON, at 2:00 every day unless set).",
)


@dg.schedule(
    name="training_schedule",
    job=training_job,
    cron_schedule=settings().schedules.training_cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Trains on the prepared data (TRAINING_CRON, at 2:30 every day unless set), if anything has changed.",
)
def training_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ask for a training, unless it would make the model of the last one again."""
    changed = changes(context.instance, revision=code_version())
    if not changed:
        return dg.SkipReason("The customers, the settings and the code are those of the latest model.")
    return dg.RunRequest(tags={"churn/changed": "; ".join(changed)})
