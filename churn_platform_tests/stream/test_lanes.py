"""Lanes: several runs stream at the same time, each from its own partitions, and their number may change."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest

from churn_platform.database import advisory_locks, stream_batches, stream_layouts, stream_pauses
from churn_platform.database.stream_layouts import Layout
from churn_platform.lanes import Lane, LanesError
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.stream import faults
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.result import Ending
from churn_platform_tests.stream.streams import Killed, Stream, event
from churn_platform_tests.waiting import wait_until


@contextmanager
def live(stream: Stream, lanes: Sequence[Lane]) -> Iterator[list[str]]:
    """Run a batch of each lane until the stream is paused, at the end of the block."""
    keys = [stream.plan(lane) for lane in lanes]
    threads = [stream.start(key, idle_seconds=60) for key in keys]
    try:
        wait_until(lambda: all(each.holder for each in sessions(stream, len(lanes))))
        yield keys
    finally:
        stream_pauses.pause(stream.connection, stream.config.events_topic)
        for thread in threads:
            thread.join()
        stream_pauses.resume(stream.connection, stream.config.events_topic)


def sessions(stream: Stream, lanes: int) -> list[advisory_locks.LaneSessions]:
    return advisory_locks.lane_sessions(stream.connection, stream.config.events_topic, lanes)


def require_clean(stream: Stream) -> None:
    """Check that every event is stored and published once, and every invariant holds."""
    assert stream.published_ids() == stream.table_ids()
    assert [each for each in check_invariants(stream.config) if not each.holds] == []


def test_three_live_runs_read_three_partitions_once(stream: Stream) -> None:
    with live(stream, stream.want_lanes(3)) as keys:
        stream.send([event(number) for number in range(300)])
        wait_until(lambda: stream.value("select count(*) from churn_predictions") == 300)

    assert [stream.batch(key).events for key in keys] == [100, 100, 100]
    assert stream.rows("select batch, kafka_partition from stream_ranges order by 2") == [
        (key, partition) for partition, key in enumerate(keys)
    ]
    require_clean(stream)
