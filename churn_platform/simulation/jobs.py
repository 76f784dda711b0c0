"""The interface through which the demonstration launches Dagster's jobs. `orchestration/` implements it."""

from datetime import date, datetime
from typing import Protocol


class JobRunner(Protocol):
    """Launches jobs of a running Dagster and reads their results."""

    def launch(
        self,
        job: str,
        *,
        hours: tuple[datetime, datetime] | None = None,
        days: tuple[date, date] | None = None,
    ) -> str:
        """Launch a job.

        Args:
            job: its name.
            hours: first and last partition of an hourly job.
            days: first and last partition of a daily job.

        Returns:
            the id of the run.
        """

    def run_status(self, run_id: str) -> str:
        """Return the status of a run as Dagster names it, such as SUCCESS."""

    def run_url(self, run_id: str) -> str:
        """Return the address of a run's page."""

    def row_count(self, asset: str) -> int | None:
        """Return the number of rows of an asset's latest materialization; None if there is none."""
