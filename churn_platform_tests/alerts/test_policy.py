"""When messages are due: digests, quiet hours, days and pauses, also where the clocks change."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from churn_platform.alerts.policy import AlertPolicy, RetryPolicy
from churn_platform.settings import Settings, SettingsError, parse_settings


def policy(**variables: str) -> AlertPolicy:
    return AlertPolicy.from_settings(Settings.from_variables({"BUSINESS_TIMEZONE": "Europe/Berlin", **variables}))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_defaults_are_a_digest_at_eight_and_no_quiet_hours() -> None:
    found = AlertPolicy.from_settings(Settings())

    assert (found.mode, found.digest_times, found.quiet_hours) == ("digest", (time(8),), None)
    assert (found.max_age, found.cases_per_day) == (timedelta(hours=48), 50)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-11-29T06:59", None),
        ("2026-11-29T07:00", "2026-11-29T07:00"),
        ("2026-11-29T11:59", "2026-11-29T07:00"),
        ("2026-11-29T12:30", "2026-11-29T12:30"),
        ("2026-11-29T22:59", "2026-11-29T12:30"),
        ("2026-11-29T23:00", None),  # the next day in Berlin
        # Summer time begins on 29 March at 01:00 UTC and ends on 25 October at 01:00 UTC.
        ("2026-03-28T07:00", "2026-03-28T07:00"),
        ("2026-03-29T06:00", "2026-03-29T06:00"),
        ("2026-10-25T06:59", None),
        ("2026-10-25T07:00", "2026-10-25T07:00"),
    ],
)
def test_the_latest_digest_of_the_day(now: str, due: str | None) -> None:
    found = policy(ALERT_DIGEST_AT="13:30,08:00").latest_digest(utc(now))

    assert found == (None if due is None else utc(due))


def test_a_digest_in_the_hour_that_is_skipped_or_repeated_is_due_once() -> None:
    chosen = policy(ALERT_DIGEST_AT="02:30")

    assert chosen.latest_digest(utc("2026-03-29T00:59")) is None
    skipped = chosen.latest_digest(utc("2026-03-29T01:30"))
    assert skipped is not None
    assert skipped.astimezone(UTC) == utc("2026-03-29T01:30")
    references = {
        f"{found:%Y-%m-%dT%H:%M}"
        for minutes in range(0, 240, 10)
        if (found := chosen.latest_digest(utc("2026-10-25T00:00") + timedelta(minutes=minutes))) is not None
    }
    assert references == {"2026-10-25T02:30"}
    assert chosen.latest_digest(utc("2026-10-25T00:29")) is None
    assert chosen.latest_digest(utc("2026-10-25T00:30")) is not None


def test_a_day_begins_at_midnight_in_the_business_time_zone() -> None:
    assert policy().day(utc("2026-11-29T22:59")) == date(2026, 11, 29)
    assert policy().day(utc("2026-11-29T23:00")) == date(2026, 11, 30)


@pytest.mark.parametrize(
    ("hours", "quiet", "loud"),
    [
        ("22:00-07:00", ["21:00", "23:59", "05:59"], ["20:59", "06:00", "12:00"]),
        ("12:00-13:00", ["11:00", "11:59"], ["10:59", "12:00"]),
    ],
)
def test_quiet_hours_may_contain_midnight(hours: str, quiet: list[str], loud: list[str]) -> None:
    chosen = policy(QUIET_HOURS=hours)

    assert [each for each in quiet if not chosen.is_quiet(utc(f"2026-11-29T{each}"))] == []
    assert [each for each in loud if chosen.is_quiet(utc(f"2026-11-29T{each}"))] == []
    assert not policy().is_quiet(utc("2026-11-29T02:00"))


def test_pauses_double_up_to_an_hour() -> None:
    retries = RetryPolicy(attempts=12)

    assert [retries.pause(attempts) for attempts in (1, 2, 3, 7, 8, 100)] == [30, 60, 120, 1920, 3600, 3600]
    assert ZoneInfo("UTC") == AlertPolicy.from_settings(Settings()).timezone


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALERT_DIGEST_AT", "8"),
        ("ALERT_DIGEST_AT", "08:00,25:00"),
        ("ALERT_DIGEST_AT", "08:00;09:00"),
        ("QUIET_HOURS", "22:00"),
        ("QUIET_HOURS", "22:00-22:00"),
        ("QUIET_HOURS", "22:00-07:00,12:00-13:00"),
        ("ALERT_MODE", "all"),
        ("ALERT_MAX_AGE", "0"),
    ],
)
def test_unusable_times_are_refused(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        parse_settings({".env": {variable: value}})
