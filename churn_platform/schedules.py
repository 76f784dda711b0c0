"""Schedules of the batch side, off until somebody turns them on."""

import dagster as dg

from churn_platform.jobs import data_preparation_job, training_job
from churn_platform.settings import settings

data_preparation_schedule = dg.ScheduleDefinition(
    name="data_preparation_schedule",
    job=data_preparation_job,
    cron_schedule=settings().data_preparation_cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Prepares the data (DATA_PREPARATION_CRON, every 20 minutes unless set).",
)

training_schedule = dg.ScheduleDefinition(
    name="training_schedule",
    job=training_job,
    cron_schedule=settings().training_cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Trains on the prepared data (TRAINING_CRON, at every full hour unless set).",
)
