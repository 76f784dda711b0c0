"""When the sensor launches a run."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from churn_platform.stream.launch_decision import Observed, decide, failures_in_a_row

QUIET = Observed(
    waiting=0,
    held=0,
    held_seconds=0.0,
    unpublished=False,
    active_runs=0,
    starting_seconds=None,
    has_champion=True,
    paused_since=None,
    batch_open_seconds=None,
    last_commit_seconds=None,
    failures=0,
    since_failure=None,
)
STREAMING = replace(QUIET, waiting=40, active_runs=1, batch_open_seconds=20.0, last_commit_seconds=0.1)


@pytest.mark.parametrize(
    ("seen", "launch"),
    [
        (QUIET, False),
        (replace(QUIET, waiting=3), True),
        (replace(QUIET, unpublished=True), True),
        (replace(QUIET, unpublished=True, active_runs=1), False),
        (replace(QUIET, waiting=3, has_champion=False), False),
        (replace(QUIET, waiting=3, paused_since=datetime(2026, 11, 24, tzinfo=UTC)), False),
        (replace(STREAMING, paused_since=datetime(2026, 11, 24, tzinfo=UTC)), False),
        (replace(QUIET, batch_open_seconds=9.0), True),
        (replace(QUIET, waiting=3, active_runs=1), False),
        (STREAMING, True),
        (replace(STREAMING, last_commit_seconds=60.0), False),
        (replace(STREAMING, active_runs=2), False),
        (replace(QUIET, waiting=3, failures=1, since_failure=0.0), True),
        (replace(QUIET, waiting=3, failures=3, since_failure=19.0), False),
        (replace(QUIET, waiting=3, failures=3, since_failure=21.0), True),
        (replace(QUIET, waiting=3, failures=50, since_failure=59.0), False),
        (replace(QUIET, waiting=3, failures=50, since_failure=61.0), True),
    ],
)
def test_a_run_is_launched_only_when_it_has_something_to_do(seen: Observed, *, launch: bool) -> None:
    assert decide(seen, ready=False, standby=True, batch_seconds=60, lead_seconds=6).launch is launch


@pytest.mark.parametrize(
    ("seen", "launch"),
    [
        (QUIET, True),
        (replace(QUIET, has_champion=False), False),
        (replace(QUIET, paused_since=datetime(2026, 11, 24, tzinfo=UTC)), False),
        (replace(QUIET, active_runs=1), False),
        (replace(STREAMING, waiting=0, last_commit_seconds=60.0), True),
        (replace(STREAMING, waiting=0, last_commit_seconds=60.0, active_runs=2), False),
        (replace(QUIET, failures=1, since_failure=599.0), False),
        (replace(QUIET, failures=1, since_failure=601.0), True),
        (replace(QUIET, waiting=3, failures=1, since_failure=0.0), True),
    ],
)
def test_a_run_is_kept_ready_where_no_event_is_to_wait_for_one(seen: Observed, *, launch: bool) -> None:
    assert decide(seen, ready=True, standby=True, batch_seconds=60, lead_seconds=6).launch is launch


def test_without_a_standby_a_successor_is_launched_when_the_batch_is_about_to_close() -> None:
    early, late = STREAMING, replace(STREAMING, batch_open_seconds=55.0)

    assert not decide(early, ready=False, standby=False, batch_seconds=60, lead_seconds=6).launch
    assert decide(late, ready=False, standby=False, batch_seconds=60, lead_seconds=6).launch


def test_without_a_standby_a_successor_that_starts_slowly_is_launched_earlier() -> None:
    opened = replace(STREAMING, batch_open_seconds=200.0)

    assert not decide(opened, ready=False, standby=False, batch_seconds=300, lead_seconds=6).launch
    assert decide(opened, ready=False, standby=False, batch_seconds=300, lead_seconds=120).launch


def test_the_reason_contains_what_the_sensor_observed() -> None:
    seen = replace(STREAMING, waiting=412, last_commit_seconds=9.2)
    reason = decide(seen, ready=False, standby=True, batch_seconds=60, lead_seconds=6).reason

    assert "412 offsets waiting" in reason
    assert "last commit 9 s ago" in reason


def test_only_the_failures_since_the_last_success_count() -> None:
    assert failures_in_a_row([]) == 0
    assert failures_in_a_row([False, True, True]) == 0
    assert failures_in_a_row([True, True, False, True]) == 2
    assert failures_in_a_row([True, True]) == 2
