"""The partitions of the graph: batches of the stream, hours and days of the events (UTC)."""

from datetime import UTC, datetime

import dagster as dg

from churn_platform.settings import settings

batches = dg.DynamicPartitionsDefinition(name="batches")

# end_offset=1: the running hour and day are partitions already, an unknown one would fail the whole sensor tick.
hours = dg.HourlyPartitionsDefinition(start_date=settings().stream.epoch, end_offset=1)
days = dg.DailyPartitionsDefinition(start_date=settings().stream.epoch, end_offset=1)


def batch_key(planned: datetime) -> str:
    """Key of a batch planned then, to the millisecond: 20261124T091530123Z. Keys sort by time."""
    return planned.astimezone(UTC).strftime("%Y%m%dT%H%M%S%f")[:-3] + "Z"


def hour_key(hour: datetime) -> str:
    """Partition key of an hour of the events."""
    return hour.astimezone(UTC).strftime(hours.fmt)


def day_key(day: datetime) -> str:
    """Partition key of a day of the events."""
    return day.astimezone(UTC).strftime(days.fmt)
