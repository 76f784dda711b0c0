"""The partitions of the graph: batches of the stream, hours and days of the events (UTC)."""

import re
from datetime import UTC, datetime

import dagster as dg

from churn_platform.settings import settings

BATCH_KEY = re.compile(r"^\d{8}T\d{9}Z$")

batches = dg.DynamicPartitionsDefinition(name="batches")

# end_offset=1: the running hour and day are partitions already, an unknown one would fail the whole sensor tick.
hours = dg.HourlyPartitionsDefinition(start_date=settings().stream_epoch, end_offset=1)
days = dg.DailyPartitionsDefinition(start_date=settings().stream_epoch, end_offset=1)


def batch_key(planned: datetime) -> str:
    """Key of a batch planned then, to the millisecond: 20261124T091530123Z. Keys sort by time."""
    return planned.astimezone(UTC).strftime("%Y%m%dT%H%M%S%f")[:-3] + "Z"


def batch_planned(key: str) -> datetime:
    """When the batch of this key was planned, the inverse of batch_key().

    Raises:
        ValueError: the text is not a batch key.
    """
    if not BATCH_KEY.match(key):
        raise ValueError(f"{key!r} is not a batch key: expected YYYYMMDDTHHMMSSmmmZ, such as 20261124T091530123Z.")
    return datetime.strptime(key, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def hour_key(hour: datetime) -> str:
    """Partition key of an hour of the events."""
    return hour.astimezone(UTC).strftime(hours.fmt)


def day_key(day: datetime) -> str:
    """Partition key of a day of the events."""
    return day.astimezone(UTC).strftime(days.fmt)
