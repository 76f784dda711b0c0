"""A backlog of a million events."""

from collections.abc import Callable
from typing import Final

import psutil
import pytest

from churn_platform_tests.faults.audit import audit, violations
from churn_platform_tests.faults.conftest import MEMORY
from churn_platform_tests.faults.platform import FaultyPlatform, kill
from churn_platform_tests.waiting import wait_until

EVENTS: Final = 1_000_000
MAX_MEGABYTES: Final = 700


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_backlog_of_a_million_events_is_processed_in_bounded_memory(
    faulty: FaultyPlatform, record_property: Callable[[str, object], None]
) -> None:
    faulty.settle()
    faulty.stack.stop_part("daemon")
    for session in faulty.sessions():
        kill(session.pid)
    faulty.traffic.send(EVENTS)
    samples: list[float] = []

    def is_processed() -> bool:
        samples.extend(_megabytes(session.pid) for session in faulty.sessions() if session.live)
        return faulty.lag() == 0

    faulty.stack.start_part("daemon")
    wait_until(is_processed, 900, "a million events to be read")

    quarter = len(samples) // 4
    second, last = max(samples[quarter : 2 * quarter]), max(samples[-quarter:])
    record_property(
        MEMORY,
        f"a backlog of {EVENTS:,} events: at most {max(samples):.0f} MB resident in {len(samples)} samples, "
        f"{second:.0f} in the second quarter of them, {last:.0f} in the last",
    )
    assert max(samples) < MAX_MEGABYTES
    faulty.become_idle()
    assert violations(audit(faulty)) == ""


def _megabytes(pid: int) -> float:
    """Return the resident memory; 0 if the process has just ended."""
    try:
        return psutil.Process(pid).memory_info().rss / 1e6
    except psutil.NoSuchProcess:
        return 0.0
