"""Archived batches cannot be replayed, and batches that are not published are not archived."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from churn_platform.archive import Archived, archive_next
from churn_platform.database import stream_batches
from churn_platform.lanes import WHOLE
from churn_platform.stream.exceptions import ReplayError
from churn_platform_tests.stream.streams import Stream, event


def archive(stream: Stream, folder: Path) -> Archived | None:
    """Archive every closed batch."""
    stream.connection.execute("update stream_batches set reported = true where closed is not null")
    return archive_next(stream.connection, str(folder), before=datetime.now(UTC) + timedelta(days=1))


def test_an_archived_batch_is_not_replayed_and_nothing_changes(stream: Stream, tmp_path: Path) -> None:
    stream.send([event(number) for number in range(30)])
    batch = stream.stream()
    archived = archive(stream, tmp_path)
    assert archived is not None
    ledger_before = stream.rows("select * from stream_batches")

    with pytest.raises(ReplayError, match=f"archived on .* are in {archived.file}"):
        stream.materialize(batch.batch)

    assert stream.rows("select * from stream_batches") == ledger_before
    assert stream.table_ids() == []
    assert stream.value("select sum(total_predictions)::int from churn_batch_hours") == 30


@pytest.mark.slow
def test_the_stream_continues_after_its_batches_were_archived(stream: Stream, tmp_path: Path) -> None:
    stream.send([event(number) for number in range(30)])
    stream.stream()
    archive(stream, tmp_path)

    stream.send([event(number) for number in range(5)])
    stream.stream()

    assert len(stream.table_ids()) == 5
    assert len(stream.published_ids()) == 35


@pytest.mark.slow
def test_a_batch_that_is_reported_but_not_published_stays_until_it_is(stream: Stream, tmp_path: Path) -> None:
    dead = stream.plan()
    stream.commit_and_die(dead, [event(number) for number in range(30)])
    with stream.connection.transaction():
        stream_batches.take_over(
            stream.connection,
            batch=stream.plan(),
            run_id="one that dies before it publishes the rest",
            lane=WHOLE,
        )

    assert stream.batch(dead).closed is not None
    assert archive(stream, tmp_path) is None
    assert len(stream.table_ids()) == 30

    stream.stream()

    assert archive(stream, tmp_path) is not None
    assert stream.table_ids() == []
    assert len(stream.published_ids()) == 30
