"""A client of a running Dagster: launches jobs through its GraphQL API and reads what they recorded.

For code outside Dagster. Assets, jobs and sensors do not use it.
"""

from datetime import date, datetime
from typing import Final

import dagster as dg
from dagster_graphql import DagsterGraphQLClient

from churn_platform.orchestration.partitions import DAY_FORMAT, hour_key

FIRST_PARTITION_TAG: Final = "dagster/asset_partition_range_start"
LAST_PARTITION_TAG: Final = "dagster/asset_partition_range_end"
ROW_COUNT: Final = "dagster/row_count"


class DagsterClient:
    """Launches jobs of the code location over partition ranges, and reads the state of runs and assets."""

    def __init__(self, url: str) -> None:
        """Connect to the web server.

        Args:
            url: http://host:port.
        """
        host, _, port = url.removeprefix("http://").partition(":")
        self._url = url
        self._graphql = DagsterGraphQLClient(host, port_number=int(port))

    def launch(
        self,
        job: str,
        *,
        hours: tuple[datetime, datetime] | None = None,
        days: tuple[date, date] | None = None,
    ) -> str:
        """Launch a job, over the partitions from the first to the last if some are given; return the run's id."""
        keys: list[str] = []
        if hours is not None:
            keys = [hour_key(hour) for hour in hours]
        elif days is not None:
            keys = [day.strftime(DAY_FORMAT) for day in days]
        tags = dict(zip((FIRST_PARTITION_TAG, LAST_PARTITION_TAG), keys, strict=True)) if keys else None
        return self._graphql.submit_job_execution(job, tags=tags)

    def run_status(self, run_id: str) -> str:
        """Return the status of a run, such as SUCCESS."""
        return str(self._graphql.get_run_status(run_id).value)

    def run_url(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self._url}/runs/{run_id}"

    def row_count(self, asset: str) -> int | None:
        """Return the rows of an asset's latest materialization; None if there is none."""
        with dg.DagsterInstance.get() as instance:
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        if event is None or event.asset_materialization is None:
            return None
        return int(str(event.asset_materialization.metadata[ROW_COUNT].value))
