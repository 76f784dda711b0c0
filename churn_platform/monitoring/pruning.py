"""Which past days are still complete. Figures of the others stay as they are. Pure."""

from datetime import UTC, datetime, timedelta

from churn_platform.environments.config import CLOCK_TOLERANCE


def complete_since(now: datetime, *, archive_days: int, batch_seconds: float) -> datetime:
    """The start of the first day of which nothing has been archived or deleted, UTC.

    Args:
        now: the moment.
        archive_days: days after which the predictions of a closed batch leave the table.
        batch_seconds: how long a batch stays open: an event may be so much, and a producer's clock, later than the
            closing of its batch.
    """
    leaving = now.astimezone(UTC) - timedelta(days=archive_days)
    return midnight(leaving + timedelta(seconds=batch_seconds) + CLOCK_TOLERANCE) + timedelta(days=1)


def deletable_before(now: datetime, *, archive_days: int) -> datetime:
    """The end of the last day that is older than ARCHIVE_DAYS as a whole, UTC: a day's hours are deleted together."""
    return midnight(now.astimezone(UTC) - timedelta(days=archive_days))


def midnight(moment: datetime) -> datetime:
    """The start of its day, UTC."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
