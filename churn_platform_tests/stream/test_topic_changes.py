"""The events topic changes under the stream: partitions are added, it is recreated, retention deletes from it."""

import pytest
from confluent_kafka import TopicPartition

from churn_platform.kafka.exceptions import RangeLostError
from churn_platform.stream.exceptions import ReplayError
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until


@pytest.mark.slow
def test_a_partition_added_to_the_topic_is_read_from_its_beginning(stream: Stream) -> None:
    stream.send([event(1)])
    stream.stream()
    stream.add_partition()
    stream.send([event(number) for number in range(5)], partition=3)

    assert stream.stream(start="latest").events == 5


@pytest.mark.slow
def test_a_partition_added_while_a_run_streams_is_read_by_that_run(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60, batch_events=15)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    stream.add_partition()
    stream.send([event(number) for number in range(5)], partition=3)
    running.join()

    assert stream.batch(key).events == 15
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.slow
def test_a_recreated_topic_is_another_topic_and_is_read_from_its_beginning(stream: Stream) -> None:
    stream.send([event(number) for number in range(20)])
    first = stream.stream()
    stream.recreate_topic()
    stream.send([event(number) for number in range(50)])

    assert stream.stream().events == 50
    assert len(stream.table_ids()) == 70
    assert stream.published_ids() == stream.table_ids()
    with pytest.raises(ReplayError, match="the events are gone"):
        stream.materialize(first.batch)


@pytest.mark.slow
def test_a_topic_recreated_under_a_live_run_is_read_from_its_beginning(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60)
    stream.send([event(number) for number in range(20)])
    wait_until(lambda: stream.batch(key).events == 20)
    stream.recreate_topic()
    # More than the old topic held: a consumer that continued from the old offsets would find events there.
    stream.send([event(number) for number in range(100)])
    running.join()
    following = stream.stream()

    assert (stream.batch(key).events, following.events) == (20, 100)
    assert stream.value("select count(distinct topic_id) from stream_ranges") == 2
    assert len(stream.table_ids()) == 120
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.slow
def test_a_topic_recreated_while_events_arrive_all_the_time_is_read_from_its_beginning(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60)
    number = 0

    def has_read_often() -> bool:
        nonlocal number
        stream.send([event(number)])
        number += 1
        return stream.batch(key).events > 40

    wait_until(has_read_often)
    stream.recreate_topic()
    stream.send([event(number + each) for each in range(5 * number)])
    running.join()
    following = stream.stream()

    assert following.events == 5 * number
    assert stream.value("select count(distinct topic_id) from stream_ranges") == 2
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.slow
def test_what_a_deleted_topic_left_unpublished_is_published_nevertheless(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    stream.stream()
    dead = stream.plan()
    stream.commit_and_die(dead, [event(number) for number in range(30, 50)])
    stream.recreate_topic()
    stream.send([event(number) for number in range(50, 60)])

    stream.stream()
    stream.stream()

    assert len(stream.table_ids()) == 60
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.slow
@pytest.mark.parametrize(("partition", "end"), [(0, 10), (1, 30)])
def test_events_that_retention_deleted_before_they_were_read_stop_the_stream_and_nothing_is_skipped(
    stream: Stream, partition: int, end: int
) -> None:
    stream.send([event(number) for number in range(5)], partition=partition)
    stream.stream()
    stream.send([event(number) for number in range(25)], partition=partition)
    deleted = stream.admin.delete_records([TopicPartition(stream.config.events_topic, partition, end)])
    for future in deleted.values():
        future.result()

    with pytest.raises(RangeLostError, match=rf"\[{partition}\] no longer holds offsets 5\.\.{end - 1}") as lost:
        stream.stream()

    assert f"the broker's oldest is {end}" in str(lost.value)
    assert stream.value("select count(*) from churn_predictions") == 5
    assert stream.value("select sum(next_offset)::int from stream_positions") == 5


def test_a_topic_that_ends_before_the_ledger_does_stops_the_stream(stream: Stream) -> None:
    stream.send([event(number) for number in range(5)], partition=0)
    stream.stream()
    stream.rows("update stream_positions set next_offset = 9, covered_to = 9 where kafka_partition = 0 returning 1")

    with pytest.raises(RangeLostError, match=r"\[0\] ends at offset 5, but the ledger has read up to 9"):
        stream.stream()

    assert stream.value("select count(*) from churn_predictions") == 5
