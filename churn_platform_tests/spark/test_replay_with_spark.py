"""Spark itself, on this machine: its replays and backlogs are those of the stream."""

import pytest

from churn_platform_tests.spark.engines import every_kind, with_spark, written
from churn_platform_tests.stream.streams import Stream

pytestmark = [pytest.mark.spark, pytest.mark.timeout(900)]


def test_a_replay_by_spark_writes_what_a_replay_in_this_process_writes(stream: Stream) -> None:
    stream.send(every_kind(3_000))
    batch = stream.stream(commit_events=500)
    stream.materialize(batch.batch)
    before, counts, published = written(stream), stream.batch(batch.batch), stream.published_ids()

    with with_spark(stream) as log:
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
