"""Throughput and startup, tiny. Each has servers of its own."""

import pytest
from rich.console import Console

from benchmarks import startup, throughput
from churn_platform.settings import Settings

EVENTS = 4_000
COMMIT = 1_000
DAEMON_EVENTS = Settings().stream.commit_events + 10_000  # a rate needs two commits


@pytest.mark.slow
def test_throughput_counts_what_each_contender_drains() -> None:
    # A contender that leaves another number of rows or predictions than of events raises.
    found = throughput.measure(
        Console(quiet=True), events=EVENTS, sizes=[COMMIT], daemon_events=DAEMON_EVENTS, peer_events=0
    )
    assert set(found.loop) == set(found.reference) == {str(COMMIT)}
    assert found.daemon is not None
    assert min(*found.loop.values(), *found.reference.values(), found.daemon) > 0
    assert not found.peers


@pytest.mark.slow
def test_startup_sees_a_stack_that_is_idle_and_its_first_commit() -> None:
    found = startup.measure(Console(quiet=True), demo=False, loads=1, settle_seconds=0, idle_seconds=1)
    assert found.demo is None
    assert min(found.code_location, found.stack, found.first_commit, found.idle_cores) > 0
    assert found.idle_mb == pytest.approx(900, rel=0.5)
