"""The number of lanes changes in other phases of a run, and what operators do while there are several lanes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from churn_platform.database import erased_customers, stream_layouts, stream_pauses
from churn_platform.database.stream_layouts import Layout
from churn_platform.lanes import WHOLE, Lane, LanesError
from churn_platform.local.stack import Stack
from churn_platform.operations import reset, status
from churn_platform.operations.exceptions import StreamIsLiveError
from churn_platform.operations.recovery.recover import recover
from churn_platform.stream import faults
from churn_platform.stream.exceptions import ReplayError
from churn_platform.stream.external_scoring import ScoringEngine, ScoringOrder
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.result import Ending
from churn_platform_tests.spark.engines import Tasks
from churn_platform_tests.stream.streams import Killed, Stream, event, with_changes
from churn_platform_tests.stream.test_lanes import layout, live, require_clean, rows, sessions
from churn_platform_tests.waiting import wait_until


def test_a_run_whose_planned_batch_was_closed_before_it_started_has_nothing_to_do(stream: Stream) -> None:
    queued = stream.plan()
    (first, *_) = stream.want_lanes(2)
    stream.materialize(stream.plan(first))

    outcome = stream.materialize(queued)

    assert (outcome.materialized, outcome.note) == (False, str(Ending.LANES))
    with pytest.raises(ReplayError, match="closed before its first event"):
        stream.materialize(queued, queued)


def test_a_change_while_the_stream_is_paused_takes_effect_when_it_is_resumed(stream: Stream) -> None:
    with live(stream, [WHOLE]):
        stream.send([event(number) for number in range(9)])
        wait_until(lambda: rows(stream) == 9)
    stream_pauses.pause(stream.connection, stream.config.events_topic)
    wanted = stream.want_lanes(2)
    stream.send([event(number) for number in range(9, 18)])

    paused = [stream.materialize(stream.plan(lane)).note for lane in wanted]

    assert paused == [str(Ending.PAUSED)] * 2
    stream_pauses.resume(stream.connection, stream.config.events_topic)
    with live(stream, wanted):
        wait_until(lambda: rows(stream) == 18)
    require_clean(stream)


def test_a_number_that_is_taken_back_before_it_is_in_effect_changes_nothing(stream: Stream) -> None:
    first = stream.plan()
    stream.commit_and_die(first, [event(number) for number in range(9)])
    planned = [stream.plan(lane) for lane in stream.want_lanes(3)]
    stream.want_lanes(1)

    notes = [stream.materialize(key).note for key in planned]

    assert notes == [str(Ending.LANES)] * 3
    assert layout(stream) == Layout(lanes=1, wanted=1)
    stream.materialize(first)
    assert stream.batch(first).events == 9
    require_clean(stream)


def test_a_batch_of_former_lanes_is_replayed_while_others_stream(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    former = stream.stream()
    with live(stream, stream.want_lanes(2)) as keys:
        stream.send([event(number) for number in range(30, 60)])
        wait_until(lambda: rows(stream) == 60)
        assert stream.materialize(former.batch).metadata["rows_replaced"] == 30
    for key in keys:
        stream.materialize(key)
    require_clean(stream)


def test_the_number_changes_while_a_batch_is_replayed(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    first = stream.stream()
    with psycopg.connect(stream.config.dsn) as rival:
        # The replay waits for this row at its end, so that its transaction is open meanwhile.
        rival.execute("select from dirty_hours for update")
        replay = stream.start(first.batch)
        wait_until(lambda: stream.value("select exists (select from pg_locks where not granted)"))
        for lane in stream.want_lanes(2):
            stream.materialize(stream.plan(lane))
        assert layout(stream) == Layout(lanes=2, wanted=2)
        rival.rollback()
        replay.join()

    assert stream.batch(first.batch).replays == 1
    require_clean(stream)


def test_partitions_that_are_added_belong_to_a_lane_at_once(stream: Stream) -> None:
    with live(stream, stream.want_lanes(3)) as keys:
        stream.add_partition()
        stream.send([event(number) for number in range(8)], partition=3)
        wait_until(lambda: rows(stream) == 8)
    assert [stream.batch(key).events for key in keys] == [8, 0, 0]
    with live(stream, stream.want_lanes(4)) as keys:
        stream.send([event(number) for number in range(8, 12)], partition=3)
        wait_until(lambda: rows(stream) == 12)
    assert [stream.batch(key).events for key in keys] == [0, 0, 0, 4]
    require_clean(stream)


def test_lanes_continue_after_a_reset_and_refuse_it_while_one_is_live(stream: Stream) -> None:
    topic, wanted = stream.config.events_topic, stream.want_lanes(2)
    with live(stream, wanted):
        stream.send([event(number) for number in range(6)])
        wait_until(lambda: rows(stream) == 6)
        with pytest.raises(StreamIsLiveError, match="churn stream"), reset.hold_stream_lock(stream.config, topic):
            pass
    stream.send([event(number) for number in range(6, 12)], partition=1)
    with reset.hold_stream_lock(stream.config, topic) as connection:
        move = reset.plan(connection, stream.config, topic=topic, partition=1, to="5")
        assert move is not None
        reset.apply(connection, move, reason="only a test")
    with live(stream, wanted):
        wait_until(lambda: rows(stream) == 9)
    require_clean(stream)


def test_lanes_leave_out_a_customer_who_is_erased_meanwhile(stream: Stream) -> None:
    with live(stream, stream.want_lanes(2)) as keys:
        stream.send([event(3)], partition=0)
        wait_until(lambda: rows(stream) == 1)
        with stream.connection.transaction():
            erased_customers.lock(stream.connection)
            erased_customers.add(stream.connection, 15_600_004)
        stream.send([event(4)], partition=0)
        stream.send([event(4)], partition=1)
        wait_until(lambda: sum(stream.batch(key).events for key in keys) == 3)

    assert [stream.batch(key).erased for key in keys] == [1, 1]
    require_clean(stream)


def test_a_backlog_is_scored_by_each_lane_for_its_own_partitions(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    tasks = Tasks(stream.config)
    stream.engine = tasks.engine()
    keys = [stream.plan(lane) for lane in stream.want_lanes(2)]

    for key in keys:
        stream.materialize(key)

    assert [sorted(order.ranges) for order in tasks.orders] == [[0, 2], [1]]
    assert [stream.batch(key).events for key in keys] == [20, 10]
    require_clean(stream)


def test_a_number_that_changes_while_an_engine_scores_waits_for_the_backlog(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    tasks = Tasks(stream.config)
    key = stream.plan()

    def change_and_score(order: ScoringOrder) -> None:
        with psycopg.connect(stream.config.dsn, autocommit=True) as connection:
            stream_layouts.want(connection, stream.config.events_topic, 2, seen=Layout())
        tasks.score(order)

    stream.engine = ScoringEngine(change_and_score, 100)

    stream.materialize(key)

    assert stream.batch(key).events == 30
    stream.engine = None
    stream.send([event(number) for number in range(30, 40)])
    for lane in (Lane(2, 0), Lane(2, 1)):
        stream.materialize(stream.plan(lane))
    assert rows(stream) == 40
    require_clean(stream)


def test_a_topic_that_is_created_again_with_fewer_partitions_than_lanes_is_refused(stream: Stream) -> None:
    for lane in stream.want_lanes(4):
        with pytest.raises(LanesError, match="LANES is 4"):
            stream.materialize(stream.plan(lane))
    wanted = with_changes(stream.config, lanes=4)

    found = status.collect_status(wanted)

    assert any("LANES is 4" in problem for problem in found.problems), found.problems
    stream.want_lanes(1)
    stream.send([event(number) for number in range(3)])
    assert stream.stream().events == 3


def test_a_recovery_settles_the_transactions_of_lanes_that_the_restored_database_does_not_know(stream: Stream) -> None:
    (_, _, third) = stream.want_lanes(3)
    key = stream.plan(third)
    stream.send([event(number) for number in range(30)])

    def kill(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_KAFKA_COMMIT:
            raise Killed(point)

    with faults.installed(kill), pytest.raises(Exception, match="could not be published"):
        stream.materialize(key)
    stream.connection.execute("delete from stream_layouts")  # as in a state from before LANES was raised

    recovered = recover(with_changes(stream.config, lanes=3), lambda _step, _count: None)

    assert recovered.reconciled.missing == 10
    assert len(stream.published()) == 10


@contextmanager
def process_of(stream: Stream, environment: dict[str, str], *, lanes: int, folder: Path) -> Iterator[int]:
    """Stream lane 0 in another process until the end of the block, and return its process id."""
    config = stream.config
    variables = {
        **environment,
        "DATABASE_URL": config.dsn,
        "EVENTS_TOPIC": config.events_topic,
        "PREDICTIONS_TOPIC": config.predictions_topic,
        "STREAM_GROUP": config.kafka.group,
        "LANES": str(lanes),
    }
    command = [sys.executable, "-m", "churn_platform_tests.faults.streaming_process", "0"]
    with (folder / "process.log").open("ab") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        yield process.pid
        os.kill(process.pid, signal.SIGCONT)
        process.wait(120)  # it ends by itself: another number of lanes is wanted
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("former", "wanted"), [(1, 2), (3, 1)])
def test_a_run_of_former_lanes_that_was_frozen_writes_nothing_when_it_wakes(
    stream: Stream, stack: Stack, tmp_path: Path, former: int, wanted: int
) -> None:
    for lane in stream.want_lanes(former):
        stream.materialize(stream.plan(lane))
    with process_of(stream, stack.environment, lanes=former, folder=tmp_path) as frozen:
        wait_until(lambda: sessions(stream, former)[0].holder, 120)
        stream.send([event(number) for number in range(30)], partition=0)
        wait_until(lambda: rows(stream) == 30)
        os.kill(frozen, signal.SIGSTOP)
        stream.send([event(number) for number in range(30, 60)])
        with live(stream, stream.want_lanes(wanted)):
            wait_until(lambda: rows(stream) == 60, 120)
            os.kill(frozen, signal.SIGCONT)
            stream.send([event(number) for number in range(60, 90)])
            wait_until(lambda: rows(stream) == 90)
    assert layout(stream) == Layout(lanes=wanted, wanted=wanted)
    require_clean(stream)
