"""Lanes under load: their number changes, and live runs are killed."""

from pathlib import Path

import pytest

from churn_platform.local.stack import Stack
from churn_platform_tests.faults.lane_changes import change_lanes_under_traffic
from churn_platform_tests.stream.streams import Stream


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_changes_from_1_to_3_to_2_lanes_lose_and_double_nothing_at_2000_events_a_second(
    stream: Stream, stack: Stack, tmp_path: Path
) -> None:
    change_lanes_under_traffic(stream, stack.environment, folder=tmp_path, rate=2_000, kills=3)
