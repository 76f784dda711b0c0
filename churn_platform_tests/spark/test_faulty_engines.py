"""What an engine stages is compared with what was ordered, before anything is committed."""

import json
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import Producer

from churn_platform.database import erased_customers, spark_staging
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.stream.external_scoring import ATTEMPTS, ScoringEngine, ScoringFailedError, ScoringOrder
from churn_platform_tests.spark.engines import Tasks, every_kind, written
from churn_platform_tests.stream.streams import Stream, event

Change = Callable[[ScoringOrder], ScoringOrder]


def use(stream: Stream, score: Callable[[ScoringOrder], None]) -> None:
    """Let the stream's runs use an engine."""
    stream.engine = ScoringEngine(score, 10_000)


def scores_other(stream: Stream, change: Change) -> list[ScoringOrder]:
    """Use an engine that scores a changed order, and return the orders that it gets."""
    tasks = Tasks(stream.config)
    orders: list[ScoringOrder] = []

    def score(order: ScoringOrder) -> None:
        orders.append(order)
        tasks.score(change(order))

    use(stream, score)
    return orders


def with_range(order: ScoringOrder, partition: int, start: int, end: int) -> ScoringOrder:
    """Return an order with another range of a Kafka partition."""
    return replace(order, ranges={**order.ranges, partition: (start, end)})


def without(order: ScoringOrder, partition: int) -> ScoringOrder:
    """Return an order without a Kafka partition."""
    return replace(order, ranges={p: bounds for p, bounds in order.ranges.items() if p != partition})


WRONG_ORDERS: dict[str, tuple[Change, str]] = {
    "the last event is missing": (
        lambda order: with_range(order, 1, 0, 9),
        r"9 events of .*\[1\], offsets 0\.\.9, are staged; Kafka has 10",
    ),
    "the first event is missing": (
        lambda order: with_range(order, 1, 1, 10),
        r"9 events of .*\[1\], offsets 0\.\.9, are staged; Kafka has 10",
    ),
    "a partition is missing": (
        lambda order: without(order, 2),
        r"0 events of .*\[2\], offsets 0\.\.9, are staged; Kafka has 10",
    ),
    "more than the range": (
        lambda order: with_range(order, 0, 0, 12),
        r"offsets 0\.\.11 of .*\[0\] are staged; expected 0\.\.9",
    ),
    "another batch": (
        lambda order: replace(order, source=replace(order.source, batch="another")),
        r"30 predictions of another batch or model version",
    ),
    "another model version": (
        lambda order: replace(order, model_version=7),
        r"30 predictions of another batch or model version",
    ),
}


@pytest.mark.parametrize("fault", WRONG_ORDERS)
def test_an_engine_that_stages_other_events_than_those_ordered_commits_nothing(stream: Stream, fault: str) -> None:
    change, message = WRONG_ORDERS[fault]
    stream.send([event(number) for number in range(30)])
    stream.waiting()
    key = stream.plan()
    # More events come while the engine scores.
    late = [event(number) for number in range(30, 36)]
    ordered = scores_other(stream, lambda order: change(order))
    first = stream.engine
    assert first is not None

    def score(order: ScoringOrder) -> None:
        if len(ordered) == 0:
            stream.send(late)
        first.score(order)

    use(stream, score)

    with pytest.raises(ScoringFailedError, match=message):
        stream.materialize(key)

    assert len(ordered) == ATTEMPTS
    assert (stream.table_ids(), stream.published_ids(), stream.waiting()) == ([], [], 36)
    stream.engine = None
    stream.materialize(key)
    assert stream.published_ids() == stream.table_ids()
    assert len(stream.table_ids()) == 36
    assert [each for each in check_invariants(stream.config) if not each.holds] == []


def test_a_replay_by_such_an_engine_changes_nothing(stream: Stream) -> None:
    stream.send(every_kind(30))
    batch = stream.stream()
    before = written(stream)
    scores_other(stream, lambda order: without(order, 1))

    with pytest.raises(ScoringFailedError, match=r"0 events of .*\[1\]"):
        stream.materialize(batch.batch)

    assert written(stream) == before


def test_an_event_that_is_missing_among_transaction_markers_is_missed(stream: Stream) -> None:
    producer = Producer({**stream.config.kafka.client, "transactional.id": f"sender to {stream.config.events_topic}"})
    producer.init_transactions(30)
    for number in range(3):
        producer.begin_transaction()
        for each in range(5):
            producer.produce(stream.config.events_topic, json.dumps(event(5 * number + each)), partition=0)
        producer.commit_transaction()
    # Offsets 0..4, 6..10 and 12..16 are events.
    scores_other(stream, lambda order: with_range(order, 0, 0, 16))

    with pytest.raises(ScoringFailedError, match=r"14 events of .*\[0\], offsets 0\.\.17, are staged; Kafka has 15"):
        stream.materialize(stream.plan())

    assert (stream.table_ids(), stream.waiting()) == ([], 18)


def test_an_event_that_is_a_prediction_and_a_dead_letter_is_refused(stream: Stream) -> None:
    stream.send([*(event(number) for number in range(8)), b"no JSON"], partition=0)
    tasks = Tasks(stream.config)

    def score(order: ScoringOrder) -> None:
        tasks.score(order)
        stream.connection.execute("update spark_dead_letters set kafka_offset = 3")

    use(stream, score)

    with pytest.raises(ScoringFailedError, match=r"1 offsets are staged both"):
        stream.materialize(stream.plan())

    assert stream.table_ids() == []


def test_an_engine_that_stages_an_event_twice_fails_by_itself(stream: Stream) -> None:
    stream.send([event(number) for number in range(8)], partition=0)
    tasks = Tasks(stream.config)

    def score(order: ScoringOrder) -> None:
        tasks.score(order)
        with (
            psycopg.connect(stream.config.dsn, autocommit=True) as connection,
            pytest.raises(psycopg.errors.UniqueViolation),
        ):
            connection.execute("insert into spark_predictions select * from spark_predictions where kafka_offset = 3")

    use(stream, score)
    key = stream.plan()
    stream.materialize(key)

    assert stream.batch(key).predictions == 8


def test_an_engine_that_stages_under_another_attempt_has_staged_nothing(stream: Stream) -> None:
    stream.send([event(number) for number in range(8)], partition=0)
    tasks = Tasks(stream.config)

    def score(order: ScoringOrder) -> None:
        other = uuid4()
        spark_staging.begin(stream.connection, other, batch="another", model_version=order.model_version)
        tasks.score(replace(order, attempt=other))

    use(stream, score)

    with pytest.raises(ScoringFailedError, match="has not finished"):
        stream.materialize(stream.plan())

    assert (stream.table_ids(), stream.waiting()) == ([], 8)


def test_an_engine_that_scores_an_order_twice_stages_it_once(stream: Stream) -> None:
    stream.send(every_kind(30))
    tasks = Tasks(stream.config)

    def score(order: ScoringOrder) -> None:
        tasks.score(order)
        tasks.score(order)

    use(stream, score)
    key = stream.plan()
    stream.materialize(key)

    assert stream.batch(key).events == 40
    assert stream.published_ids() == stream.table_ids()


def test_a_partition_with_events_of_erased_customers_alone_is_read_once(stream: Stream) -> None:
    with stream.connection.transaction():
        erased_customers.lock(stream.connection)
        erased_customers.add(stream.connection, 15_600_003)
    stream.send([event(3), event(3)], partition=2)
    stream.send([event(1)], partition=0)
    use(stream, Tasks(stream.config).score)
    key = stream.plan()

    stream.materialize(key)

    assert stream.rows("select kafka_partition, start_offset, end_offset from stream_ranges order by 1") == [
        (0, 0, 1),
        (2, 0, 2),
    ]
    assert [each for each in check_invariants(stream.config) if not each.holds] == []
    stream.materialize(key)
    batch = stream.batch(key)
    assert (batch.events, batch.erased) == (3, 2)


def test_an_engine_that_raises_an_error_leaves_the_backlog_to_the_next_run(stream: Stream) -> None:
    stream.send([event(number) for number in range(8)], partition=0)
    tasks = Tasks(stream.config)

    def score(order: ScoringOrder) -> None:
        tasks.score(order)
        raise ConnectionError("The cluster is gone.")

    use(stream, score)
    key = stream.plan()

    with pytest.raises(ConnectionError, match="cluster is gone"):
        stream.materialize(key)

    assert (stream.table_ids(), stream.waiting()) == ([], 8)
    use(stream, tasks.score)
    stream.materialize(key)
    assert len(stream.table_ids()) == 8
    assert stream.rows("select * from spark_attempts") == []
