"""Spark itself: its replays and backlogs are those of the stream, whatever dies meanwhile."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from churn_platform.spark.engine import spark_engine
from churn_platform.stream.external_scoring import ScoringFailedError
from churn_platform_tests.spark.cluster import Cluster, Killer, running_cluster
from churn_platform_tests.spark.engines import DriverLog, every_kind, with_spark, written
from churn_platform_tests.stream.streams import Stream

pytestmark = [pytest.mark.spark, pytest.mark.timeout(3_600)]

KILLS = 6
LONGEST_PAUSE = 10  # seconds


@pytest.fixture
def stream(stream: Stream) -> Stream:
    """A stream with high-risk predictions: about half of the small model's are."""
    stream.config = replace(stream.config, high_risk_threshold=0.5)
    return stream


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master with two workers."""
    with running_cluster(tmp_path_factory.mktemp("spark")) as cluster:
        yield cluster


def test_a_replay_by_spark_writes_what_a_replay_in_this_process_writes(stream: Stream) -> None:
    stream.send(every_kind(3_000))
    batch = stream.stream(commit_events=500)
    stream.materialize(batch.batch)
    before, counts, published = written(stream), stream.batch(batch.batch), stream.published_ids()

    with with_spark(stream, task_events=400) as log:
        stream.materialize(batch.batch)

    assert len(log.texts) == 1, log.texts
    assert written(stream) == before
    after = stream.batch(batch.batch)
    assert (after.predictions, after.dead_letters, after.duplicates) == (
        counts.predictions,
        counts.dead_letters,
        counts.duplicates,
    )
    assert after.replays == 2
    assert stream.published_ids() == published
    assert stream.rows("select * from spark_attempts") == []


def test_backlogs_are_complete_although_executors_drivers_and_the_master_are_killed(
    stream: Stream, cluster: Cluster, pytestconfig: pytest.Config
) -> None:
    log, count, keys = DriverLog(), int(pytestconfig.getoption("--spark-events")), list[str]()
    engine = spark_engine(stream.config, cluster.config, log.start)

    with Killer(cluster, kills=KILLS, seed=count, longest_pause=LONGEST_PAUSE) as killer:
        while not killer.is_done:  # after the first backlog, shorter ones
            keys.append(stream.plan())
            stream.send(every_kind(count if len(keys) == 1 else count // 10))
            stream.engine = engine
            materialize_at_last(stream, keys[-1])

    assert set(killer.killed) == {"executor", "driver", "master"}
    assert stream.batch(keys[0]).events == count + 10
    assert all(stream.batch(key).closed is not None for key in keys)
    assert stream.waiting() == 0
    assert stream.published_ids() == stream.table_ids()
    assert stream.rows("select * from spark_attempts") == []
    backlogs = written(stream)
    stream.engine = None
    stream.materialize(*keys)
    assert written(stream) == backlogs


def materialize_at_last(stream: Stream, key: str) -> None:
    """Start a run for a batch again, as an operator would, as long as Spark fails."""
    while stream.batch(key).closed is None:
        with suppress(ScoringFailedError):
            stream.materialize(key)
