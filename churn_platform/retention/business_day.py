"""The day of the retention team: it begins at midnight in the team's time zone. Pure."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo


def business_day(moment: datetime, timezone: ZoneInfo) -> date:
    """Return the day that a moment belongs to.

    Args:
        moment: with a time zone.
        timezone: of the team.
    """
    return moment.astimezone(timezone).date()


def day_bounds(day: date, timezone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the first moment of a day and of the next one, in UTC.

    They are 23 or 25 hours apart where daylight saving time begins or ends. Where midnight itself is skipped, the day
    begins with the first moment that exists; where midnight occurs twice, with the first of the two.
    """
    return _midnight(day, timezone), _midnight(day + timedelta(days=1), timezone)


def _midnight(day: date, timezone: ZoneInfo) -> datetime:
    # A time that is skipped has, with fold=0, the offset from before the change, which is the moment of the change.
    return datetime.combine(day, time(), timezone).astimezone(UTC)
