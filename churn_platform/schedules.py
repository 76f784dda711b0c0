"""Schedules, all off until somebody turns them on."""

import dagster as dg

from churn_platform.jobs import data_preparation_job, training_job

data_preparation_schedule = dg.ScheduleDefinition(
    name="data_preparation_schedule",
    job=data_preparation_job,
    cron_schedule="*/20 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Prepares the data every 20 minutes.",
)

training_schedule = dg.ScheduleDefinition(
    name="training_schedule",
    job=training_job,
    cron_schedule="0 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Trains on the prepared data at every full hour.",
)
