"""The benchmarks of throughput and startup, with little data. Each starts separate servers."""

import pytest
from rich.console import Console

from benchmarks import lanes, rows, startup, throughput, worker
from churn_platform.settings import Settings

EVENTS = 4_000
COMMIT = 1_000
DAEMON_EVENTS = Settings().stream.commit_events + 10_000  # two commits, because a rate needs two


@pytest.mark.slow
def test_throughput_counts_the_events_that_each_contender_processes() -> None:
    # measure() raises an error if a contender writes more or fewer rows or predictions than there are events.
    found = throughput.measure(
        Console(quiet=True), events=EVENTS, sizes=[COMMIT], daemon_events=DAEMON_EVENTS, peer_events=0
    )
    assert set(found.loop) == set(found.reference) == {str(COMMIT)}
    assert found.daemon is not None
    assert min(*found.loop.values(), *found.reference.values(), found.daemon) > 0
    assert not found.peers


@pytest.mark.slow
def test_startup_measures_an_idle_stack_and_its_first_commit() -> None:
    found = startup.measure(Console(quiet=True), demo=False, loads=1, settle_seconds=0, idle_seconds=1)
    assert found.demo is None
    assert min(found.code_location, found.stack, found.ready, found.first_event, found.idle_cores) > 0
    assert found.idle_mb == pytest.approx(900, rel=0.5)


@pytest.mark.slow
def test_each_number_of_lanes_drains_a_backlog_and_follows_a_rate() -> None:
    events = 4 * Settings().stream.commit_events
    (found,) = lanes.measure(Console(quiet=True), lanes=(1, 3), rounds=1, events=events, rate=100, seconds=5, warm_up=1)
    assert set(found) == {1, 3}
    assert all(each.drained.events_per_second > 0 and each.rate_cpu > 0 for each in found.values())
    assert all(ratio > 0 for ratio in lanes.ratios([found], 3))


@pytest.mark.slow
def test_the_worker_is_suspended_in_one_half_of_each_pair_and_follows_in_the_other() -> None:
    (pair,) = worker.measure(
        Console(quiet=True), pairs=1, events=DAEMON_EVENTS, rate=200, seconds=2, compiling_seconds=2
    )
    for measured in (pair.on, pair.off):
        assert measured.events_per_second > 0
        assert 0 < measured.p50 <= measured.p99


@pytest.mark.slow
def test_backlogs_are_read_one_after_the_other_while_the_table_grows() -> None:
    events = 4 * Settings().stream.commit_events

    found = rows.measure(Console(quiet=True), backlogs=1, events=events)

    assert len(found) == 2
    assert rows.ratio(found) > 0
