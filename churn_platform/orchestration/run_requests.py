"""Functions that sensors share: whether a run may be requested now, and the request for a range of partitions."""

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg

from churn_platform.orchestration.run_liveness import ACTIVE, STARTING
from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server needs it when a tick runs, not when it starts
    import psycopg

# A streaming run that has just taken over gets its standby within this time, at a tick of the other sensor.
STANDBY_SECONDS: Final = 10
# A starting run uses a core for some seconds. One that takes longer than this is waiting for its machine.
BUSY_STARTING_SECONDS: Final = 60
RANGE_START_TAG: Final = "dagster/asset_partition_range_start"
RANGE_END_TAG: Final = "dagster/asset_partition_range_end"


def is_another_starting(instance: dg.DagsterInstance, connection: "psycopg.Connection") -> bool:
    """Return whether the process of a run is starting, or that of a standby is about to."""
    from churn_platform.database import stream_batches

    ages = (age_seconds(batch.opened, time.time()) for batch in stream_batches.open_batches(connection))
    if settings().stream.standby and any(age is not None and age < STANDBY_SECONDS for age in ages):
        return True
    since = datetime.now(UTC) - timedelta(seconds=BUSY_STARTING_SECONDS)
    return instance.get_runs_count(dg.RunsFilter(statuses=list(STARTING), created_after=since)) > 0


def is_active(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Return whether a run of the job is queued, starting or in progress."""
    return instance.get_runs_count(dg.RunsFilter(job_name=job_name, statuses=list(ACTIVE))) > 0


def window_request(job_name: str, first: str, last: str) -> dg.RunRequest:
    """Return a request for one run over the partitions from the first to the last key."""
    if first == last:
        return dg.RunRequest(job_name=job_name, partition_key=first)
    return dg.RunRequest(job_name=job_name, tags={RANGE_START_TAG: first, RANGE_END_TAG: last})


def age_seconds(moment: datetime | None, now: float) -> float | None:
    """Return the seconds since a moment, or None if there is none."""
    return None if moment is None else now - moment.timestamp()
