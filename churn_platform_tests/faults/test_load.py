"""Much at once: a million events that wait."""

from collections.abc import Callable
from typing import Final

import psutil
import pytest

from churn_platform_tests.faults.accounts import audit, broken
from churn_platform_tests.faults.conftest import MEMORY
from churn_platform_tests.faults.platform import FaultyPlatform, kill
from churn_platform_tests.waiting import wait_until

EVENTS: Final = 1_000_000
MOST_MEGABYTES: Final = 700


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_million_waiting_events_are_drained_in_bounded_memory(
    faulty: FaultyPlatform, record_property: Callable[[str, object], None]
) -> None:
    faulty.settle()
    faulty.stack.stop_part("daemon")
    for session in faulty.sessions():
        kill(session.pid)
    faulty.traffic.send(EVENTS)
    samples: list[float] = []

    def drained() -> bool:
        samples.extend(_megabytes(session.pid) for session in faulty.sessions() if session.live)
        return faulty.waiting() == 0

    faulty.stack.start_part("daemon")
    wait_until(drained, 900, "a million events to be read")

    quarter = len(samples) // 4
    second, last = max(samples[quarter : 2 * quarter]), max(samples[-quarter:])
    record_property(
        MEMORY,
        f"{EVENTS:,} waiting events: at most {max(samples):.0f} MB resident in {len(samples)} samples, "
        f"{second:.0f} in the second quarter of them, {last:.0f} in the last",
    )
    assert max(samples) < MOST_MEGABYTES
    faulty.come_to_rest()
    assert broken(audit(faulty)) == ""


def _megabytes(pid: int) -> float:
    """Resident memory; 0 of a process that has just ended."""
    try:
        return psutil.Process(pid).memory_info().rss / 1e6
    except psutil.NoSuchProcess:
        return 0.0
