"""The partitions of the graph: batches of the stream, and hours and days of event time (UTC).

Only partitions and their keys belong here. Hours and days start at STREAM_EPOCH, so `build_defs` creates them from its
settings. Batches are dynamic and depend on no setting.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

import dagster as dg

from churn_platform.lanes import WHOLE, Lane

HOUR_FORMAT: Final = "%Y-%m-%d-%H:%M"
DAY_FORMAT: Final = "%Y-%m-%d"

batches = dg.DynamicPartitionsDefinition(name="batches")


@dataclass(frozen=True)
class TimePartitions:
    """Hours and days of event time."""

    hours: dg.HourlyPartitionsDefinition
    days: dg.DailyPartitionsDefinition

    @classmethod
    def since(cls, epoch: datetime) -> Self:
        """Return the hours and days from the epoch on."""
        # end_offset=1: events of the current hour and day need a partition now. A sensor tick that requests an unknown
        # partition fails completely.
        return cls(
            hours=dg.HourlyPartitionsDefinition(start_date=epoch, end_offset=1, fmt=HOUR_FORMAT),
            days=dg.DailyPartitionsDefinition(start_date=epoch, end_offset=1, fmt=DAY_FORMAT),
        )


def batch_key(planned: datetime, lane: Lane = WHOLE) -> str:
    """Return the key of a batch planned at this time, to the millisecond: 20261124T091530123Z. Keys sort by time.

    If there are several lanes, whose batches are planned at the same time, the lane's number follows:
    20261124T091530123Z-2.
    """
    key = planned.astimezone(UTC).strftime("%Y%m%dT%H%M%S%f")[:-3] + "Z"
    return key if lane.of == 1 else f"{key}-{lane.number}"


def hour_key(hour: datetime) -> str:
    """Return the partition key of an hour of event time."""
    return hour.astimezone(UTC).strftime(HOUR_FORMAT)


def day_key(day: datetime) -> str:
    """Return the partition key of a day of event time."""
    return day.astimezone(UTC).strftime(DAY_FORMAT)
