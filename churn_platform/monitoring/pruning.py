"""Dates that decide which monitoring data is complete and which may be deleted. Pure; no I/O."""

from datetime import UTC, datetime, timedelta

from churn_platform.environments.config import CLOCK_TOLERANCE


def complete_since(now: datetime, *, archive_days: int, batch_seconds: float) -> datetime:
    """Return the start of the first day without archived or deleted predictions, UTC.

    The metrics of earlier days can no longer be computed and do not change.

    Args:
        now: the current time.
        archive_days: days after which the predictions of a closed batch leave the table.
        batch_seconds: how long a batch stays open. An event's time may be later than the closing of its batch by this
            and by the tolerance for producers' clocks.
    """
    archived_until = now.astimezone(UTC) - timedelta(days=archive_days)
    return midnight(archived_until + timedelta(seconds=batch_seconds) + CLOCK_TOLERANCE) + timedelta(days=1)


def deletable_before(now: datetime, *, archive_days: int) -> datetime:
    """Return the end of the last day that is entirely older than ARCHIVE_DAYS, UTC.

    All hours of a day are deleted together, so that a day is never computed from some of its hours.
    """
    return midnight(now.astimezone(UTC) - timedelta(days=archive_days))


def midnight(moment: datetime) -> datetime:
    """Return the start of the day, UTC."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
