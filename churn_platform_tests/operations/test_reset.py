"""An operator moves the position: only forward, only while no run is live, and always recorded."""

import psycopg
import pytest
from confluent_kafka import TopicPartition

from churn_platform.database import advisory_locks
from churn_platform.kafka.exceptions import RangeLostError
from churn_platform.operations import reset
from churn_platform.operations.exceptions import ResetError
from churn_platform.operations.reset import Move
from churn_platform.operations.verification.verify import check_invariants
from churn_platform_tests.stream.streams import Stream, event


def move(stream: Stream, to: str, *, partition: int = 0) -> Move | None:
    """Plan and apply a move."""
    topic = stream.config.events_topic
    with reset.hold_stream_lock(stream.config, topic) as connection:
        planned = reset.plan(connection, stream.config, topic=topic, partition=partition, to=to)
        if planned is not None:
            reset.apply(connection, planned, reason="only a test")
    return planned


def delete_before(stream: Stream, offset: int) -> None:
    """Delete the records of partition 0 before an offset, as retention does."""
    for future in stream.admin.delete_records([TopicPartition(stream.config.events_topic, 0, offset)]).values():
        future.result()


@pytest.mark.slow
def test_the_loss_of_a_range_is_accepted_with_the_command_in_the_error(stream: Stream) -> None:
    stream.send([event(number) for number in range(10)], partition=0)
    stream.stream()
    stream.send([event(number) for number in range(10, 30)], partition=0)
    delete_before(stream, 18)

    with pytest.raises(RangeLostError, match=r"churn stream reset --topic \S+ --partition 0 --to 18'"):
        stream.stream()
    moved = move(stream, "18")
    batch = stream.stream()

    assert moved is not None
    assert (moved.position, moved.end, moved.dropped, moved.still_held) == (10, 18, 8, 0)
    assert batch.events == 12
    assert stream.rows("select start_offset, end_offset, reason from stream_skips") == [(10, 18, "only a test")]
    assert all(invariant.holds for invariant in check_invariants(stream.config))


def test_dropped_offsets_are_counted_and_those_that_kafka_still_holds(stream: Stream) -> None:
    stream.send([event(number) for number in range(10)], partition=0)
    stream.waiting()
    delete_before(stream, 4)

    moved = move(stream, "latest")

    assert moved is not None
    assert (moved.dropped, moved.still_held) == (10, 6)
    assert stream.waiting() == 0


@pytest.mark.slow
def test_a_batch_left_open_is_closed_so_that_the_stream_continues(stream: Stream) -> None:
    stream.send([event(number) for number in range(6)], partition=0)
    left = stream.stream()
    stream.connection.execute("update stream_batches set closed = null")
    stream.send([event(number) for number in range(6, 10)], partition=0)

    move(stream, "8")
    batch = stream.stream()

    assert stream.batch(left.batch).closed is not None
    assert (batch.batch != left.batch, batch.events) == (True, 2)


def test_a_live_stream_is_not_moved(stream: Stream) -> None:
    with psycopg.connect(
        stream.config.dsn, autocommit=True, application_name=advisory_locks.session_name("some run")
    ) as holder:
        advisory_locks.lock_stream(holder, stream.config.events_topic)

        with pytest.raises(ResetError, match=r"some run.*churn stream pause"):
            move(stream, "latest")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("4", "count events twice.*replay"),
        ("earliest", "count events twice.*Nothing is lost"),
        ("11", "past its end"),
        ("-1", "expected an offset, earliest or latest"),
        ("yesterday", "expected an offset, earliest or latest"),
    ],
)
def test_a_position_moves_only_forward_and_not_past_the_end(stream: Stream, to: str, why: str) -> None:
    stream.send([event(number) for number in range(10)], partition=0)
    stream.stream()

    with pytest.raises(ResetError, match=why):
        move(stream, to)

    assert stream.value("select count(*) from stream_skips") == 0


def test_a_move_to_the_current_position_skips_nothing(stream: Stream) -> None:
    stream.send([event(1)], partition=0)
    stream.stream()

    assert move(stream, "latest") is None
    assert stream.value("select count(*) from stream_skips") == 0


def test_a_partition_that_was_never_read_is_refused(stream: Stream) -> None:
    with pytest.raises(ResetError, match="STREAM_START"):
        move(stream, "latest")


def test_a_truncated_topic_has_to_be_created_again(stream: Stream) -> None:
    stream.send([event(1)], partition=0)
    stream.stream()
    stream.connection.execute("update stream_positions set next_offset = 9, covered_to = 9 where kafka_partition = 0")

    for to in ("earliest", "latest", "1"):
        with pytest.raises(ResetError, match=r"truncated.*create it again"):
            move(stream, to)


def test_a_position_that_has_moved_in_the_meantime_is_not_changed(stream: Stream) -> None:
    stream.send([event(number) for number in range(10)], partition=0)
    stream.waiting()
    topic = stream.config.events_topic
    with reset.hold_stream_lock(stream.config, topic) as connection:
        planned = reset.plan(connection, stream.config, topic=topic, partition=0, to="5")
        assert planned is not None
        stream.connection.execute("update stream_positions set next_offset = 3, covered_to = 3")

        with pytest.raises(ResetError, match="is no longer at offset 0"):
            reset.apply(connection, planned, reason="")

    assert stream.value("select count(*) from stream_skips") == 0
