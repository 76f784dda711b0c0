"""When messages are written and sent: digests, quiet hours, ages, pauses between attempts. Pure; no clock, no I/O."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from churn_platform.settings import AlertMode, Settings, parse_hours, parse_times

# Pauses between attempts, in seconds: doubled from the first to the longest. A receiver that restarts is back in half
# a minute. One that is down for a day gets an attempt every hour.
FIRST_PAUSE: Final = 30.0
LONGEST_PAUSE: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class AlertPolicy:
    """When the retention team is told about customers.

    Attributes:
        mode: a digest, or a message for each customer.
        digest_times: times of day of the digests, in `timezone`, in order.
        quiet_hours: first and last time of the part of the day without messages; None without one.
        max_age: how long a message about a customer may wait.
        cases_per_day: most customers in the messages of a day.
        timezone: decides when a day begins.
    """

    mode: AlertMode
    digest_times: tuple[time, ...]
    quiet_hours: tuple[time, time] | None
    max_age: timedelta
    cases_per_day: int
    timezone: ZoneInfo

    @classmethod
    def from_settings(cls, settings: Settings) -> "AlertPolicy":
        """Return the policy that the settings describe."""
        return cls(
            mode=settings.alerts.mode,
            digest_times=parse_times(settings.alerts.digest_at),
            quiet_hours=parse_hours(settings.alerts.quiet_hours),
            max_age=timedelta(hours=settings.alerts.max_age),
            cases_per_day=settings.retention.cases_per_day,
            timezone=ZoneInfo(settings.retention.business_timezone),
        )

    def is_quiet(self, now: datetime) -> bool:
        """Return whether nobody is told about customers now. The first minute is quiet, the last is not."""
        if self.quiet_hours is None:
            return False
        begin, end = self.quiet_hours
        moment = now.astimezone(self.timezone).time()
        return begin <= moment < end if begin < end else moment >= begin or moment < end

    def day(self, now: datetime) -> date:
        """Return the present day of the team."""
        return now.astimezone(self.timezone).date()

    def latest_digest(self, now: datetime) -> datetime | None:
        """Return the latest time of a digest today that is not after now; None before the first.

        A time that the change to summer time leaves out is an hour later on that day, and one that occurs twice in
        autumn is the first of the two.
        """
        today = (datetime.combine(self.day(now), at, tzinfo=self.timezone) for at in self.digest_times)
        # Compared as instants: two times in one zone compare as clocks, which go back in autumn.
        return max(
            (each for each in today if each.timestamp() <= now.timestamp()), key=datetime.timestamp, default=None
        )


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a message that the receiver did not take is tried again.

    Attributes:
        attempts: most attempts; after the last the message is failed.
        first_pause: seconds after the first attempt.
        longest_pause: most seconds after any attempt.
    """

    attempts: int
    first_pause: float = FIRST_PAUSE
    longest_pause: float = LONGEST_PAUSE

    def pause(self, attempts: int) -> float:
        """Return the seconds to wait after so many attempts, 1 or more."""
        return min(self.first_pause * 2.0 ** min(attempts - 1, 30), self.longest_pause)
