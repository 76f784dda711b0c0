"""Lanes: several runs stream at the same time, each from its own partitions, and their number may change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from churn_platform.database import advisory_locks, stream_batches, stream_layouts, stream_pauses
from churn_platform.database.stream_layouts import Layout
from churn_platform.kafka.clients import DiagnosticProducer
from churn_platform.lanes import WHOLE, Lane, LanesError, lanes
from churn_platform.local.stack import Stack
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.stream import faults
from churn_platform.stream.exceptions import LockLostError
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.lease import Lease
from churn_platform.stream.result import Ending
from churn_platform.stream.run_context import RunContext
from churn_platform_tests.faults.lane_changes import change_lanes_under_traffic
from churn_platform_tests.stream.streams import Killed, Stream, event
from churn_platform_tests.waiting import wait_until


@contextmanager
def live(stream: Stream, lanes: Sequence[Lane]) -> Iterator[list[str]]:
    """Run a batch of each lane until the stream is paused, at the end of the block."""
    keys = [stream.plan(lane) for lane in lanes]
    threads = [stream.start(key, idle_seconds=60) for key in keys]
    try:
        wait_until(lambda: all_live(stream, len(lanes)))
        yield keys
    finally:
        stream_pauses.pause(stream.connection, stream.config.events_topic)
        for thread in threads:
            thread.join()
        stream_pauses.resume(stream.connection, stream.config.events_topic)


def sessions(stream: Stream, count: int) -> list[advisory_locks.LaneSessions]:
    """Return the sessions of each lane."""
    return advisory_locks.lane_sessions(stream.connection, stream.config.events_topic, count)


def all_live(stream: Stream, count: int) -> bool:
    """Return whether each lane has a live run."""
    return all(each.holder for each in sessions(stream, count))


def layout(stream: Stream) -> Layout:
    """Return the layout of the events topic."""
    return stream_layouts.layout(stream.connection, stream.config.events_topic)


def rows(stream: Stream) -> object:
    """Return the number of predictions."""
    return stream.value("select count(*) from churn_predictions")


def require_clean(stream: Stream) -> None:
    """Check that every event is stored and published once, and that every invariant holds."""
    assert stream.published_ids() == stream.table_ids()
    assert [each for each in check_invariants(stream.config) if not each.holds] == []


def test_three_live_runs_read_three_partitions_once(stream: Stream) -> None:
    with live(stream, stream.want_lanes(3)) as keys:
        stream.send([event(number) for number in range(300)])
        wait_until(lambda: rows(stream) == 300)

    assert [stream.batch(key).events for key in keys] == [100, 100, 100]
    assert stream.rows("select batch, kafka_partition from stream_ranges order by 2") == [
        (key, partition) for partition, key in enumerate(keys)
    ]
    require_clean(stream)


def test_lanes_share_the_events_of_a_commit(stream: Stream) -> None:
    stream.send([event(number) for number in range(300)])
    for lane in stream.want_lanes(3):
        stream.materialize(stream.plan(lane), commit_events=60)

    # 100 events of each lane, in commits of at most 20. Fewer are read at once if Kafka returns fewer.
    assert stream.value("select count(*) from stream_batches where events = 100 and commits >= 5") == 3


def test_live_runs_end_when_the_number_changes_and_others_continue(stream: Stream) -> None:
    with live(stream, [WHOLE]) as (whole,):
        stream.send([event(number) for number in range(30)])
        wait_until(lambda: rows(stream) == 30)
        with live(stream, stream.want_lanes(2)) as keys:
            stream.send([event(number) for number in range(30, 60)])
            wait_until(lambda: rows(stream) == 60)

    assert any(line.startswith(f"Ended by {Ending.LANES}") for line in stream.log)
    assert stream.batch(whole).closed is not None
    assert [stream.batch(key).events for key in (whole, *keys)] == [30, 20, 10]
    assert layout(stream) == Layout(lanes=2, wanted=2)
    require_clean(stream)


def test_a_batch_that_a_killed_run_of_other_lanes_left_open_is_closed_and_published(stream: Stream) -> None:
    dead = stream.plan()
    stream.commit_and_die(dead, [event(number) for number in range(60)])
    assert stream.published_ids() == []

    with live(stream, stream.want_lanes(3)):
        stream.send([event(number) for number in range(60, 90)])
        wait_until(lambda: rows(stream) == 90)

    assert stream.batch(dead).closed is not None
    require_clean(stream)


def test_a_transaction_that_a_killed_run_of_other_lanes_left_open_is_settled(stream: Stream) -> None:
    for lane in stream.want_lanes(3):
        stream.materialize(stream.plan(lane))
    third = stream.plan(Lane(3, 2))
    stream.send([event(number) for number in range(30)])

    def kill(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_KAFKA_COMMIT:
            raise Killed(point)

    with faults.installed(kill), pytest.raises(Exception, match="could not be published"):
        stream.materialize(third)
    stream.want_lanes(1)
    stream.stream()

    assert len(stream.table_ids()) == 30
    require_clean(stream)


def test_a_run_of_lanes_that_are_no_longer_wanted_opens_no_batch(stream: Stream) -> None:
    key = stream.plan()
    stream.send([event(number) for number in range(3)])
    stream.want_lanes(3)

    outcome = stream.materialize(key)

    assert (outcome.materialized, outcome.note) == (False, str(Ending.LANES))
    assert rows(stream) == 0


def test_planned_batches_of_former_lanes_are_closed_and_have_nothing_to_report(stream: Stream) -> None:
    planned = stream.plan()
    (first, *_) = stream.want_lanes(3)

    stream.materialize(stream.plan(first))

    assert stream.batch(planned).closed is not None
    assert stream_batches.unreported_batches(stream.connection) == []


def test_new_lanes_wait_for_the_live_runs_of_the_former_ones(stream: Stream) -> None:
    topic = stream.config.events_topic
    with psycopg.connect(stream.config.dsn, autocommit=True) as former:
        for lane in stream.want_lanes(2):
            stream.materialize(stream.plan(lane))
        advisory_locks.lock_lane(former, topic, Lane(2, 1))
        assert advisory_locks.try_share_stream(former, topic)
        (first, *_) = stream.want_lanes(3)
        run = stream.start(stream.plan(first))
        wait_until(lambda: sessions(stream, 3)[0].waiting)

        assert layout(stream) == Layout(lanes=2, wanted=3)
        former.close()
        run.join()

    assert layout(stream) == Layout(lanes=3, wanted=3)


def test_whoever_holds_the_streams_lock_alone_excludes_every_lane(stream: Stream) -> None:
    topic = stream.config.events_topic
    with live(stream, stream.want_lanes(2)):
        assert not advisory_locks.try_lock_stream(stream.connection, topic)

    assert advisory_locks.try_lock_stream(stream.connection, topic)


def test_the_same_event_in_two_lanes_is_one_row_and_one_duplicate(stream: Stream) -> None:
    same = event(1)
    with live(stream, stream.want_lanes(2)) as keys:
        stream.send([same], partition=0)
        stream.send([same], partition=1)
        wait_until(lambda: sum(stream.batch(key).events for key in keys) == 2)

    assert sorted((stream.batch(key).predictions, stream.batch(key).duplicates) for key in keys) == [(0, 1), (1, 0)]
    assert len(stream.published()) == 1
    require_clean(stream)


def test_events_that_two_lanes_read_in_another_order_count_once(stream: Stream) -> None:
    events = [event(number) for number in range(2_000)]
    stream.send(events, partition=0)
    stream.send(events[::-1], partition=1)

    with live(stream, stream.want_lanes(2)) as keys:
        wait_until(lambda: sum(stream.batch(key).events for key in keys) == 4_000)

    assert sum(stream.batch(key).predictions for key in keys) == 2_000
    assert sum(stream.batch(key).duplicates for key in keys) == 2_000
    require_clean(stream)


def test_commits_that_deadlock_are_repeated(stream: Stream) -> None:
    key = stream.plan()
    stream.send([event(number) for number in range(3)])
    stream.waiting()  # registers the positions
    with psycopg.connect(stream.config.dsn) as rival:
        rival.execute("insert into dirty_hours (hour_timestamp, version) values (date_trunc('hour', now()), 1)")
        run = stream.start(key)
        wait_until(lambda: stream.value("select exists (select from pg_locks where not granted)"))
        rival.execute("update stream_positions set covered_to = covered_to")  # the run has waited longer: it is chosen
        rival.rollback()
    run.join()

    assert stream.batch(key).events == 3
    require_clean(stream)


def test_more_lanes_than_partitions_are_refused(stream: Stream) -> None:
    (first, *_) = stream.want_lanes(4)

    with pytest.raises(LanesError, match=r"LANES is 4, but the topic .* has 3 partitions"):
        stream.materialize(stream.plan(first))


def test_a_run_whose_session_has_ended_may_not_publish(stream: Stream) -> None:
    run = RunContext(config=stream.config, batch=stream.plan(), run_id="run", log=stream.log.append, lane=WHOLE)
    lease = Lease(run)
    lease.acquire()
    lease.require_held(stream.connection)
    stream.connection.execute("select pg_terminate_backend(%s, 10000)", (lease.connection.info.backend_pid,))

    with pytest.raises(LockLostError, match="has ended the session"):
        lease.require_held(stream.connection)


def test_a_run_that_lost_its_lock_before_it_published_publishes_once(stream: Stream) -> None:
    (_, second, _) = stream.want_lanes(3)
    key = stream.plan(second)
    stream.commit_and_die(key, [event(number) for number in range(30)])
    ended: list[str] = []

    class Freezing(DiagnosticProducer):
        """PostgreSQL ends the session of a run that is frozen when its producer has registered with Kafka."""

        def init_transactions(self, *arguments: Any) -> None:
            super().init_transactions(*arguments)
            if not ended:
                ended.append(key)
                with psycopg.connect(stream.config.dsn) as connection:
                    connection.execute(
                        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = %s",
                        (advisory_locks.session_name(f"run of {key}"),),
                    )

    stream.make_producer = Freezing
    stream.materialize(key)

    assert ended
    assert len(stream.published()) == 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_changes_from_1_to_3_to_2_lanes_with_killed_runs_lose_and_double_nothing(
    stream: Stream, stack: Stack, tmp_path: Path
) -> None:
    change_lanes_under_traffic(stream, stack.environment, folder=tmp_path, rate=100, kills=1)


@pytest.mark.parametrize(("number", "of"), [(1, 1), (-1, 2), (3, 3)])
def test_there_is_no_such_lane(number: int, of: int) -> None:
    with pytest.raises(ValueError, match=f"Lane {number} of {of}"):
        Lane(of, number)


def test_the_lanes_share_all_partitions() -> None:
    for count in range(1, 6):
        owners = [[lane for lane in lanes(count) if lane.owns(partition)] for partition in range(5)]
        assert all(len(each) == 1 for each in owners)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_lanes_together_commit_and_publish_as_often_as_one(stream: Stream, count: int) -> None:
    config = replace(stream.config, linger=0.03, publish_interval=0.05)
    runs = [
        RunContext(config=config, batch=f"batch {lane}", run_id=str(lane), log=lambda _: None, lane=lane)
        for lane in lanes(count)
    ]

    assert sum(1 / run.linger for run in runs) == pytest.approx(1 / config.linger)
    assert sum(1 / run.publish_interval for run in runs) == pytest.approx(1 / config.publish_interval)
