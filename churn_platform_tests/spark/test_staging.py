"""What another engine has staged becomes the rows of a replay or a backlog, all of it or nothing."""

import json
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import Producer

from churn_platform.database import advisory_locks, erased_customers, spark_staging
from churn_platform.kafka.reading import read_all
from churn_platform.stream import faults
from churn_platform.stream.exceptions import ReplayError
from churn_platform.stream.external_scoring import ATTEMPTS, ScoringEngine, ScoringFailedError, ScoringOrder
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.replay import replay
from churn_platform_tests.spark.engines import Tasks, every_kind, written
from churn_platform_tests.stream.streams import Killed, Stream, event
from churn_platform_tests.waiting import wait_until


@pytest.fixture
def stream(stream: Stream) -> Stream:
    """A stream with high-risk predictions: about half of the small model's are."""
    stream.config = replace(stream.config, high_risk_threshold=0.5)
    return stream


def use(stream: Stream, *, failing: int = 0, repeated: bool = False, most: int = 10_000_000) -> Tasks:
    """Let the stream's runs use an engine in this process, and return it."""
    tasks = Tasks(stream.config, failing=failing, repeated=repeated)
    stream.engine = tasks.engine(backlog_events=most)
    return tasks


def test_a_replay_of_staged_rows_writes_what_a_replay_in_this_process_writes(stream: Stream) -> None:
    stream.send(every_kind(300))
    batch = stream.stream(commit_events=100)
    stream.materialize(batch.batch)
    before, counts, published = written(stream), stream.batch(batch.batch), stream.published_ids()
    use(stream, repeated=True)

    outcome = stream.materialize(batch.batch)

    assert outcome.metadata == {"mode": "replay", "rows_replaced": counts.predictions}
    assert written(stream) == before
    after = stream.batch(batch.batch)
    assert (after.events, after.predictions, after.dead_letters, after.duplicates, after.erased) == (
        counts.events,
        counts.predictions,
        counts.dead_letters,
        counts.duplicates,
        counts.erased,
    )
    assert stream.published_ids() == published
    assert stream.rows("select * from spark_attempts") == []
    assert stream.rows("select * from spark_predictions") == []


def test_a_backlog_is_one_batch_with_the_rows_that_the_stream_would_write(stream: Stream) -> None:
    known = event(0)
    stream.send([known])
    stream.stream()
    stream.send([known, *every_kind(300)])
    use(stream)
    key = stream.plan()

    outcome = stream.materialize(key)

    assert outcome.metadata == {"mode": "backlog", "published": stream.batch(key).predictions}
    assert stream.waiting() == 0
    assert stream.published_ids() == stream.table_ids()
    batch = stream.batch(key)
    assert batch.closed is not None
    assert (batch.events, batch.duplicates) == (311, 2)
    backlog = written(stream)
    stream.engine = None
    stream.materialize(key)
    assert written(stream) == backlog


def test_of_two_events_with_one_id_a_backlog_takes_that_with_the_lowest_partition_and_offset(stream: Stream) -> None:
    first, second = event(1), event(2)
    second["event_id"] = first["event_id"]
    stream.send([second], partition=2)
    stream.send([event(3), first], partition=1)
    use(stream)

    stream.materialize(stream.plan())

    assert stream.rows("select customer_id from churn_predictions order by 1") == [(15_600_001,), (15_600_003,)]
    assert stream.rows("select kafka_partition, kafka_offset from dead_letter_events") == [(2, 0)]


def test_a_backlog_is_read_up_to_its_bound_and_continued_by_the_next_run(stream: Stream) -> None:
    stream.send([event(number) for number in range(90)])
    use(stream, most=30)
    first = stream.plan()

    stream.materialize(first)

    assert (stream.batch(first).events, stream.waiting()) == (30, 60)
    stream.engine = None
    stream.stream()
    assert stream.waiting() == 0
    assert stream.published_ids() == stream.table_ids()
    assert len(stream.table_ids()) == 90


def test_attempts_that_fail_leave_nothing_behind(stream: Stream) -> None:
    stream.send([event(number) for number in range(400)])
    tasks = use(stream, failing=ATTEMPTS - 1)
    key = stream.plan()

    stream.materialize(key)

    assert len(tasks.orders) == ATTEMPTS
    assert stream.batch(key).predictions == 400
    assert stream.rows("select * from spark_tasks") == []


def test_a_run_whose_attempts_all_fail_changes_nothing_and_the_stream_goes_on(stream: Stream) -> None:
    stream.send([event(number) for number in range(200)])
    use(stream, failing=ATTEMPTS)
    key = stream.plan()

    with pytest.raises(ScoringFailedError, match=f"{ATTEMPTS} attempts"):
        stream.materialize(key)

    assert stream.waiting() == 200
    assert stream.table_ids() == []
    stream.engine = None
    stream.materialize(key)
    assert len(stream.table_ids()) == 200


def test_a_run_that_dies_after_its_commit_leaves_publishing_to_the_next(stream: Stream) -> None:
    stream.send([event(number) for number in range(200)])
    use(stream)
    key = stream.plan()

    def kill(point: FaultPoint) -> None:
        if point is FaultPoint.AFTER_DATABASE_COMMIT:
            raise Killed(point)

    with faults.installed(kill), pytest.raises(Killed):
        stream.materialize(key)
    wait_until(lambda: not advisory_locks.streaming_sessions(stream.connection))
    assert (len(stream.table_ids()), stream.published_ids()) == (200, [])

    stream.engine = None
    stream.stream()

    assert stream.published_ids() == stream.table_ids()


def test_aborted_transactions_are_left_out_and_markers_alone_start_no_engine(stream: Stream) -> None:
    producer = Producer({**stream.config.kafka.client, "transactional.id": f"sender to {stream.config.events_topic}"})
    producer.init_transactions(30)
    for number, commits in enumerate((True, False, True, False)):
        producer.begin_transaction()
        for each in range(20):
            value = json.dumps(event(number * 20 + each))
            producer.produce(stream.config.events_topic, value, partition=each % 3)
        producer.flush(30)
        (producer.commit_transaction if commits else producer.abort_transaction)()
    tasks = use(stream)

    stream.materialize(stream.plan())

    assert len(stream.table_ids()) == 40
    assert stream.waiting() == 0
    producer.begin_transaction()
    producer.produce(stream.config.events_topic, json.dumps(event(1)), partition=0)
    producer.flush()
    producer.abort_transaction()
    outcome = stream.materialize(stream.plan())
    assert not outcome.materialized
    assert len(tasks.orders) == 1
    assert stream.waiting() == 0
    assert len(list(read_all(stream.config.kafka, stream.config.events_topic))) == 40


def test_events_of_erased_customers_are_counted_and_not_staged(stream: Stream) -> None:
    with stream.connection.transaction():
        erased_customers.lock(stream.connection)
        erased_customers.add(stream.connection, 15_600_003)
    stream.send([*(event(number) for number in range(10)), event(3, Age=-1)])
    use(stream)
    key = stream.plan()

    stream.materialize(key)

    batch = stream.batch(key)
    assert (batch.events, batch.predictions, batch.dead_letters, batch.erased) == (11, 9, 0, 2)


def test_an_erasure_while_an_engine_scores_makes_its_attempt_useless(stream: Stream) -> None:
    stream.send([event(number) for number in range(10)])
    key = stream.plan()
    tasks = use(stream)

    def score_and_erase(order: ScoringOrder) -> None:
        tasks.score(order)
        with psycopg.connect(stream.config.dsn) as connection:
            erased_customers.lock(connection)
            erased_customers.add(connection, 15_600_003)

    stream.engine = ScoringEngine(score_and_erase, 100)

    with pytest.raises(spark_staging.AttemptGoneError, match="A customer was erased"):
        stream.materialize(key)

    assert stream.table_ids() == []
    use(stream)
    stream.materialize(key)
    assert stream.batch(key).erased == 1


def test_an_attempt_that_has_lost_rows_is_not_used(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    batch = stream.stream()
    before = written(stream)
    tasks = use(stream)

    def score_and_lose(order: ScoringOrder) -> None:
        tasks.score(order)
        stream.connection.execute("delete from spark_predictions where kafka_partition = 1")

    stream.engine = ScoringEngine(score_and_lose, 100)

    with pytest.raises(ScoringFailedError, match=r"0 events of .*\[1\], offsets 0\.\.9, are staged; Kafka has 10"):
        stream.materialize(batch.batch)

    assert written(stream) == before


def test_rows_that_are_lost_before_they_are_moved_are_missed(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    batch = stream.stream()
    before = written(stream)
    use(stream)

    def lose(line: str) -> None:
        if line.startswith("Replaying"):  # what was scored has been checked
            stream.connection.execute("delete from spark_predictions where kafka_partition = 1")

    with pytest.raises(spark_staging.AttemptGoneError, match="rows of attempt"):
        replay(stream.config, batch.batch, lose, engine=stream.engine)

    assert written(stream) == before


def test_tasks_of_an_attempt_that_was_given_up_fail(stream: Stream) -> None:
    attempt = uuid4()
    spark_staging.begin(stream.connection, attempt, batch="batch", model_version=1)
    spark_staging.begin(stream.connection, uuid4(), batch="batch", model_version=1)

    with pytest.raises(spark_staging.AttemptGoneError, match="given up"):
        spark_staging.begin_task(stream.connection, attempt, kafka_partition=0, first_offset=0)
    with pytest.raises(spark_staging.AttemptGoneError, match="given up"):
        spark_staging.finish(stream.connection, attempt, events=0)


def test_an_attempt_finishes_with_one_number_of_events(stream: Stream) -> None:
    attempt = uuid4()
    spark_staging.begin(stream.connection, attempt, batch="batch", model_version=1)
    spark_staging.finish(stream.connection, attempt, events=3)
    spark_staging.finish(stream.connection, attempt, events=3)

    with pytest.raises(spark_staging.AttemptGoneError, match="finished with 3 events, and finishes again with 4"):
        spark_staging.finish(stream.connection, attempt, events=4)


def test_a_replay_finds_that_the_log_holds_other_events(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    batch = stream.stream()
    before = written(stream)
    stream.connection.execute("update churn_predictions set customer_id = 1 where kafka_offset = 3")
    changed = written(stream)
    assert changed != before
    use(stream)

    with pytest.raises(ReplayError, match="offset 3"):
        stream.materialize(batch.batch)

    assert written(stream) == changed
