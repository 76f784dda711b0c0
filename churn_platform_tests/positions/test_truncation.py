"""A log that is not the one that was read stops the stream. A log that lost its beginning to retention does not."""

import itertools
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition

from churn_platform.environments import created_topics
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import LogTruncatedError
from churn_platform.monitoring import outcomes
from churn_platform.monitoring.outcomes import IngestResult
from churn_platform.operations import outcome_reset, reset, status
from churn_platform.operations.exceptions import ResetError
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.positions import backlog
from churn_platform.stream.exceptions import ReplayError
from churn_platform_tests.kafka.brokers import Broker, own_broker
from churn_platform_tests.stream.streams import Stream, event, new_stream
from churn_platform_tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def broker(local_folder: Path) -> Iterator[Broker]:
    """The broker whose log files the tests of this module truncate."""
    with own_broker(local_folder / "cut") as broker:
        yield broker


_number = itertools.count(1)


@pytest.fixture
def stream(broker: Broker, database: str, bundle_uri: str) -> Iterator[Stream]:
    """A stream on that broker."""
    client = {"bootstrap.servers": broker.part.address}
    with new_stream(database, bundle_uri, client=client, events_topic=f"cut-{next(_number)}") as stream:
        yield stream


def send_one_by_one(stream: Stream, numbers: range, *, partition: int = 0) -> None:
    """Send events, each in a separate record batch, because a log is truncated between batches."""
    for number in numbers:
        stream.send([event(number)], partition=partition)


def cut(broker: Broker, stream: Stream, offset: int, *, how: signal.Signals = signal.SIGTERM) -> None:
    """Stop the broker, remove the end of partition 0, and start it again."""
    broker.stop(how)
    broker.cut(stream.config.events_topic, 0, offset)
    broker.start()
    wait_until(lambda: stream_end(stream) == offset, what=f"the log to end at {offset}")


def stream_end(stream: Stream) -> int:
    """Return the end of the log of partition 0."""
    topic = topics.describe(stream.admin, stream.config.events_topic)
    return topics.list_offsets(stream.admin, topic, topics.LATEST)[0]


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_log_that_was_cut_and_has_grown_past_the_position_stops_the_stream(
    stream: Stream, broker: Broker, how: signal.Signals
) -> None:
    send_one_by_one(stream, range(10))
    stream.stream()
    cut(broker, stream, 6, how=how)
    send_one_by_one(stream, range(10, 20))

    with pytest.raises(LogTruncatedError, match=r"\[0\] was truncated below the position 10 .* offset 9 holds another"):
        stream.stream()

    assert stream.value("select count(*) from churn_predictions") == 10
    assert stream.value("select next_offset from stream_positions where kafka_partition = 0") == 10
    assert any(
        "truncated below the position 10" in problem for problem in status.collect_status(stream.config).problems
    )
    assert [invariant.name for invariant in check_invariants(stream.config) if not invariant.holds] == ["log"]


@pytest.mark.slow
def test_a_stream_that_stopped_at_a_truncated_log_stays_stopped_when_the_log_has_grown(
    stream: Stream, broker: Broker
) -> None:
    send_one_by_one(stream, range(5))
    stream.stream()
    cut(broker, stream, 3)
    with pytest.raises(LogTruncatedError, match=r"\[0\] ends at offset 3, but the ledger has read up to 5"):
        stream.stream()
    send_one_by_one(stream, range(5, 12))

    with pytest.raises(LogTruncatedError, match="has grown past it"):
        stream.stream()


@pytest.mark.slow
def test_a_run_that_streams_while_the_log_is_cut_skips_nothing(stream: Stream, broker: Broker) -> None:
    send_one_by_one(stream, range(8))
    key = stream.plan()
    failures: list[Exception] = []

    def run() -> None:
        try:
            stream.materialize(key, idle_seconds=120.0, batch_seconds=120.0)
        except Exception as error:
            failures.append(error)

    with stream.in_thread(run):
        wait_until(lambda: stream.value("select count(*) from churn_predictions") == 8)
        cut(broker, stream, 4, how=signal.SIGKILL)
        send_one_by_one(stream, range(8, 24))
        wait_until(lambda: failures, timeout=120)

    assert isinstance(failures[0], LogTruncatedError)
    assert stream.value("select count(*) from churn_predictions") == 8


@pytest.mark.slow
def test_a_topic_that_lost_its_end_is_created_again_and_read_from_its_beginning(stream: Stream, broker: Broker) -> None:
    send_one_by_one(stream, range(5))
    stream.stream()
    cut(broker, stream, 3)
    topic = stream.config.events_topic

    with reset.hold_stream_lock(stream.config, topic) as connection:
        reset.recreate_topic(connection, stream.config, topic=topic, kafka_is_embedded=False)
    stream.send([event(number) for number in range(20, 27)], partition=0)

    assert stream.stream().events == 7
    assert stream.value("select count(*) from churn_predictions") == 12
    assert len(stream.published_ids()) == 12


def test_a_topic_that_somebody_else_created_is_not_deleted(stream: Stream) -> None:
    stream.connection.execute("delete from created_topics")
    topic = stream.config.events_topic

    with (
        reset.hold_stream_lock(stream.config, topic) as connection,
        pytest.raises(ResetError, match="did not create the topic"),
    ):
        reset.recreate_topic(connection, stream.config, topic=topic, kafka_is_embedded=False)

    assert topics.describe(stream.admin, topic)


def test_only_an_events_topic_is_deleted_and_only_an_outcomes_topic_moved_as_outcomes(stream: Stream) -> None:
    predictions, events = stream.config.predictions_topic, stream.config.events_topic

    with (
        reset.hold_stream_lock(stream.config, predictions) as connection,
        pytest.raises(ResetError, match="is not read as events"),
    ):
        reset.recreate_topic(connection, stream.config, topic=predictions, kafka_is_embedded=True)
    with pytest.raises(ResetError, match="is read as events, not as outcomes"):
        outcome_reset.plan(stream.connection, stream.config, topic=events, partition=0, to="latest")

    assert topics.describe(stream.admin, predictions)


def test_every_events_topic_of_an_embedded_kafka_may_be_created_again(stream: Stream) -> None:
    stream.connection.execute("delete from created_topics")
    topic = stream.config.events_topic
    before = topics.describe(stream.admin, topic)

    with reset.hold_stream_lock(stream.config, topic) as connection:
        created = reset.recreate_topic(connection, stream.config, topic=topic, kafka_is_embedded=True)

    assert created.topic_id != before.topic_id


@pytest.mark.slow
def test_a_replay_rejects_other_records_at_the_offsets_of_its_batch(stream: Stream, broker: Broker) -> None:
    send_one_by_one(stream, range(6))
    batch = stream.stream()
    before = stream.rows("select event_id, customer_id from churn_predictions order by 1")
    cut(broker, stream, 3)
    send_one_by_one(stream, range(10, 16))

    with pytest.raises(ReplayError, match=r"customer 156000\d\d from .*\[0\] offset 3, where Kafka holds another"):
        stream.materialize(batch.batch)

    assert stream.rows("select event_id, customer_id from churn_predictions order by 1") == before


@pytest.mark.slow
def test_the_stream_continues_after_an_accepted_truncation_which_is_recorded(stream: Stream, broker: Broker) -> None:
    send_one_by_one(stream, range(6))
    stream.stream()
    cut(broker, stream, 4)
    send_one_by_one(stream, range(10, 16))
    topic = stream.config.events_topic

    with reset.hold_stream_lock(stream.config, topic) as connection:
        with pytest.raises(ResetError, match="would count events twice"):
            reset.plan(connection, stream.config, topic=topic, partition=0, to="5")
        move = reset.plan(connection, stream.config, topic=topic, partition=0, to="6")
        assert move is not None
        reset.apply(connection, move, reason="the broker lost its disk")

    assert (move.truncated, move.dropped) == (True, 0)
    assert stream.stream().events == 4
    assert stream.rows("select next_offset, reason from log_truncations") == [(6, "the broker lost its disk")]
    assert [invariant.name for invariant in check_invariants(stream.config) if not invariant.holds] == []


@pytest.mark.slow
def test_records_that_retention_deleted_are_not_a_truncation(stream: Stream) -> None:
    send_one_by_one(stream, range(5))
    stream.stream()
    delete_before(stream, 5)

    assert stream.stream().events == 0
    assert status.collect_status(stream.config).problems == []
    send_one_by_one(stream, range(5, 9))
    assert stream.stream().events == 4
    delete_before(stream, 9)
    send_one_by_one(stream, range(9, 12))
    assert stream.stream().events == 3
    assert [invariant.name for invariant in check_invariants(stream.config) if not invariant.holds] == []


@pytest.mark.slow
def test_a_position_after_transaction_markers_is_compared_with_the_record_before_them(
    stream: Stream, broker: Broker
) -> None:
    producer = Producer({**stream.config.kafka.client, "transactional.id": f"of {stream.config.events_topic}"})
    producer.init_transactions(30)
    for number, ends in ((0, producer.commit_transaction), (1, producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(stream.config.events_topic, json.dumps(event(number)).encode(), partition=0)
        producer.flush(30)
        ends(30)
    wait_until(lambda: stream_end(stream) == 4, what="both markers to be written")
    assert stream.stream(idle_seconds=2.0).events == 1
    assert stream.value("select next_offset from stream_positions where kafka_partition = 0") == 4

    assert stream.stream().events == 0
    cut(broker, stream, 2)
    send_one_by_one(stream, range(10, 14))

    with pytest.raises(LogTruncatedError, match="offset 2 holds a record that was never read; the last one read was 0"):
        stream.stream()


@pytest.mark.slow
def test_a_position_without_a_last_record_gets_one_at_the_next_takeover(stream: Stream, broker: Broker) -> None:
    send_one_by_one(stream, range(5))
    topic = topics.describe(stream.admin, stream.config.events_topic)
    backlog.register(stream.connection, stream.admin, topic, "latest")
    assert stream.stream().events == 0
    assert stream.value("select last_offset from stream_positions where kafka_partition = 0") == 4

    cut(broker, stream, 3)
    send_one_by_one(stream, range(10, 16))

    with pytest.raises(LogTruncatedError, match="offset 4 holds another"):
        stream.stream()


def test_outcomes_of_a_log_that_was_cut_and_has_grown_are_not_skipped(stream: Stream, broker: Broker) -> None:
    outcome = replace(stream.config, events_topic=f"outcomes-{next(_number)}")
    created_topics.create_missing(stream.admin, outcome)
    sender = Stream(outcome)

    def send(numbers: range) -> None:
        for number in numbers:
            sender.send([{"CustomerId": number, "true_churn_label": 1}], partition=0)

    def ingest() -> IngestResult:
        return outcomes.ingest(stream.connection, stream.admin, outcome, outcome.events_topic)

    send(range(5))
    assert ingest() == IngestResult(left=5)
    broker.stop()
    broker.cut(outcome.events_topic, 0, 3)
    broker.start()
    send(range(10, 17))

    command = f"churn outcomes reset --topic {outcome.events_topic} --partition 0 --to 5"
    with pytest.raises(LogTruncatedError, match=f"offset 4 holds another record.*{command}"):
        ingest()

    move = outcome_reset.plan(stream.connection, stream.config, topic=outcome.events_topic, partition=0, to="5")
    assert move is not None
    outcome_reset.apply(stream.connection, move, reason="lost")
    assert ingest() == IngestResult(left=5)
    assert stream.value("select count(*) from customer_outcomes") == 10


def delete_before(stream: Stream, offset: int) -> None:
    """Delete the beginning of partition 0, as retention does."""
    for future in stream.admin.delete_records([TopicPartition(stream.config.events_topic, 0, offset)]).values():
        future.result()
