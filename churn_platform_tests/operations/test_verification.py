"""Verification: a healthy stream passes, and each violated invariant is found."""

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import LiteralString

import numpy as np
import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.database.metrics import daily_figures, hourly_figures
from churn_platform.environments import created_topics
from churn_platform.kafka import topics
from churn_platform.kafka.reading import read_all
from churn_platform.local.stack import Stack
from churn_platform.operations import reset
from churn_platform.operations.verification.extracts import Ranges
from churn_platform.operations.verification.invariants import Invariant
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.stream.config import StreamConfig
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.databases import Databases
from churn_platform_tests.stream.streams import Stream, event, new_stream
from churn_platform_tests.waiting import wait_until


def invariants(stream: Stream) -> dict[str, Invariant]:
    """Return every invariant by its name."""
    return {invariant.name: invariant for invariant in check_invariants(stream.config)}


def violated(stream: Stream) -> set[str]:
    """Return the names of the invariants that do not hold."""
    return {name for name, invariant in invariants(stream).items() if not invariant.holds}


def abort(stream: Stream, values: Sequence[dict[str, object]]) -> None:
    """Send events in a transaction that is aborted."""
    producer = Producer({**stream.config.kafka.client, "transactional.id": f"aborted-{stream.config.kafka.group}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(stream.config.events_topic, json.dumps(value), partition=0)
    producer.flush(30)
    producer.abort_transaction(30)


def publish(stream: Stream, value: bytes) -> None:
    """Send a message to the predictions topic."""
    producer = Producer(stream.config.kafka.client)
    producer.produce(stream.config.predictions_topic, value)
    assert producer.flush(30) == 0


def copy_of_a_prediction(stream: Stream, **changes: object) -> bytes:
    """Return a published prediction with changes."""
    return json.dumps({**stream.published()[0], **changes}).encode()


INSERT_HOURS = """
    insert into churn_metrics_hourly
    select (json_populate_record(null::churn_metrics_hourly, (value::jsonb || '{"updated_at": "now"}')::json)).*
    from json_array_elements(%s::json)
"""
INSERT_DAYS = """
    insert into churn_metrics_daily
    select (json_populate_record(null::churn_metrics_daily, (value::jsonb || '{"updated_at": "now"}')::json)).*
    from json_array_elements(%s::json)
"""


def compute_hours(stream: Stream) -> None:
    """Fill the tables of hourly and daily metrics."""
    connection = stream.connection
    first, last = stream.rows("select min(hour_timestamp), max(hour_timestamp) + interval '1 hour' from dirty_hours")[0]
    schema = stream.config.schema
    hours = hourly_figures(connection, schema, first, last)  # type: ignore[arg-type]  # rows of any query are objects
    days = daily_figures(hours, schema)
    for insert, frame in ((INSERT_HOURS, hours), (INSERT_DAYS, days)):
        connection.execute(insert, (frame.to_json(orient="records", date_format="iso", double_precision=15),))


def give_history(stream: Stream) -> None:
    """Create batches, duplicates, dead letters, high-risk predictions, aborted events, a skip and a replay."""
    first = event(0)
    stream.send([first, *(event(number, NumOfProducts=1 + number % 4) for number in range(60)), first, b"bad"])
    replayed = stream.stream()
    abort(stream, [event(1), event(2)])
    stream.send([event(number, Age=None) for number in range(30)])
    stream.stream(commit_events=10)
    stream.send([event(number) for number in range(5)], partition=1)
    topic = stream.config.events_topic
    with reset.hold_stream_lock(stream.config, topic) as connection:
        move = reset.plan(connection, stream.config, topic=topic, partition=1, to="latest")
        assert move is not None
        reset.apply(connection, move, reason="not wanted")
    stream.send([event(number) for number in range(20)])
    stream.stream()
    compute_hours(stream)
    summarize(stream)
    stream.materialize(replayed.batch)
    summarize(stream)


def summarize(stream: Stream) -> None:
    """Let the worker follow the stream."""
    assert SummariesDuty(SummariesConfig(stream.config.schema, control_share=0.1)).run(stream.connection) is False


def with_low_threshold(stream: Stream) -> Stream:
    """Lower the high-risk threshold, so that scores of the small model reach it; return the stream."""
    stream.config = replace(stream.config, high_risk_threshold=0.5)
    return stream


@pytest.fixture(scope="module")
def history(stack: Stack, template_database: str, bundle_uri: str) -> StreamConfig:
    """A stream with a history that no test changes."""
    with with_low_threshold(new_stream(copy_database(stack, template_database), bundle_uri)) as stream:
        give_history(stream)
    return stream.config


@pytest.fixture
def copied(databases: Databases, history: StreamConfig) -> Iterator[Stream]:
    """A stream with a history: a copy of its database, and topics that the test must not change."""
    original = str(conninfo_to_dict(history.dsn)["dbname"])
    copy = databases.copy(original)
    with Stream(replace(history, dsn=make_conninfo(history.dsn, dbname=copy))) as stream:
        yield stream
    databases.give_back(copy, original)


_numbers = itertools.count(1)


@pytest.fixture
def republished(copied: Stream) -> Stream:
    """A stream with a history, whose predictions topic the test may change: it has the messages of the original one."""
    original = copied.config.predictions_topic
    copied.config = replace(copied.config, predictions_topic=f"{original}-{next(_numbers)}")
    created_topics.create_missing(copied.admin, copied.config)
    producer = Producer(copied.config.kafka.client)
    for message in read_all(copied.config.kafka, original):
        producer.produce(copied.config.predictions_topic, message.value(), key=message.key())
    assert producer.flush(30) == 0
    return copied


def test_every_invariant_holds_for_a_stream_with_a_history(copied: Stream) -> None:
    found = invariants(copied)

    assert [invariant.violations for invariant in found.values() if not invariant.holds] == []
    assert found["conservation"].figures["duplicates"] == 1
    assert found["conservation"].figures["dead_letters"] == 1
    assert found["ledger"].figures["skipped_offsets"] == 5
    assert found["published"].figures["published"] == found["event ids"].figures["rows"] == 111
    assert found["high-risk predictions"].figures["count"] > 0
    assert found["summary of customers"].figures["count"] > 0
    assert found["summary of days"].figures["count"] > 0
    assert not any(invariant.figures.get("outdated") for name, invariant in found.items() if "summary" in name)
    assert found["hours"].figures["outdated"] > 0  # the replay came after the hours were computed


def test_every_invariant_holds_for_an_empty_stream(stream: Stream) -> None:
    assert violated(stream) == set()


def test_without_topics_every_invariant_holds(stream: Stream) -> None:
    stream.config = replace(stream.config, events_topic="no-such-events", predictions_topic="no-such-predictions")

    assert violated(stream) == set()


@pytest.mark.parametrize(
    ("damage", "invariant"),
    [
        (
            "alter table stream_batches drop constraint conservation; update stream_batches set events = events + 1",
            "conservation",
        ),
        (
            "update stream_batches set predictions = predictions + 1, events = events + 1 where replays = 0",
            "rows of batches",
        ),
        (
            "update stream_batches set archived = now() where replays = 0",
            "rows of batches",
        ),
        (
            "delete from dead_letter_events",
            "rows of batches",
        ),
        (
            "update churn_predictions set batch = 'unknown' where event_id = (select min(event_id::text)::uuid "
            "from churn_predictions)",
            "rows of batches",
        ),
        (
            "alter table churn_predictions drop constraint churn_predictions_pkey; "
            "insert into churn_predictions (event_id, customer_id, prediction, risk_score, predicted_at, "
            "event_timestamp, model_version, credit_score, geography, gender, tenure, balance, num_of_products, "
            "has_cr_card, is_active_member, estimated_salary, batch, kafka_partition, kafka_offset) "
            "select event_id, customer_id, prediction, risk_score, predicted_at, event_timestamp, model_version, "
            "credit_score, geography, gender, tenure, balance, num_of_products, has_cr_card, is_active_member, "
            "estimated_salary, batch, kafka_partition, kafka_offset from churn_predictions limit 1",
            "event ids",
        ),
        (
            "update churn_predictions set kafka_offset = 0 where kafka_partition = 0 and kafka_offset = 3",
            "offsets once",
        ),
        (
            "update churn_predictions set kafka_offset = 7000 where kafka_partition = 0 and kafka_offset = 3",
            "offsets in ranges",
        ),
        (
            "update dead_letter_events set kafka_offset = 7000",
            "offsets in ranges",
        ),
        ("delete from stream_skips", "ledger"),
        ("delete from stream_ranges where batch = (select max(batch) from stream_ranges)", "ledger"),
        (
            "alter table stream_ranges drop constraint no_offset_in_two_batches; "
            "update stream_ranges set start_offset = start_offset - 1 where start_offset > 0",
            "ledger",
        ),
        ("update stream_positions set first_offset = first_offset - 1", "ledger"),
        ("update stream_positions set covered_to = next_offset + 1", "ledger"),
        (
            "update churn_batch_hours set risk_sum = risk_sum + 0.5",
            "hours of batches",
        ),
        (
            "update churn_batch_hours set total_predictions = total_predictions + 1",
            "hours of batches",
        ),
        ("delete from churn_batch_hours", "hours of batches"),
        ("update churn_metrics_hourly set version = 900", "hours"),
        (
            "update churn_metrics_hourly m set version = d.version, avg_balance = avg_balance + 1 from dirty_hours d "
            "where d.hour_timestamp = m.hour_timestamp",
            "hours",
        ),
        ("delete from dirty_hours", "hours"),
        ("update churn_metrics_daily set total_predictions = total_predictions + 1", "days"),
        ("update churn_metrics_daily set avg_age = avg_age + 1", "days"),
        ("update churn_predictions set risk_score = risk_score / 2", "published"),
        (
            "delete from churn_predictions where event_id = (select min(event_id::text)::uuid from churn_predictions)",
            "published",
        ),
        ("delete from high_risk_customers", "high-risk predictions"),
        ("update high_risk_customers set risk_score = 0.99", "high-risk predictions"),
        ("insert into high_risk_customers select gen_random_uuid(), batch, 1, 0.9, geography, gender, age, balance, "
         "detected_at from high_risk_customers limit 1", "high-risk predictions"),
        ("update customer_summary set risk_score = risk_score / 2", "summary of customers"),
        ("update customer_summary set predictions = predictions + 1", "summary of customers"),
        (
            "delete from customer_summary where customer_id = (select max(customer_id) from customer_summary)",
            "summary of segments",
        ),
        ("update customer_segment_summary set risk_sum = risk_sum + 0.000001", "summary of segments"),
        ("update prediction_summary set churn_count = churn_count + 1", "summary of days"),
        ("delete from prediction_summary", "summary of days"),
        (
            "insert into stream_batches (batch, opened) values ('a', now()), ('b', now())",
            "open batch",
        ),
        (
            "drop index model_versions_champion; insert into model_versions (version, uri, run_id, metrics, "
            "promoted_at) values (9, '', '', '{}', now())",
            "champion",
        ),
    ],
)  # fmt: skip
def test_a_violated_invariant_is_found(stack: Stack, copied: Stream, damage: LiteralString, invariant: str) -> None:
    # The platform's own login may not drop the constraints that protect the invariants.
    with psycopg.connect(stack.owner_dsn, dbname=str(conninfo_to_dict(copied.config.dsn)["dbname"])) as owner:
        owner.execute(damage)

    found = invariants(copied)

    assert not found[invariant].holds
    assert found[invariant].violations


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="one that is already there"),
        pytest.param({"event_id": "01936c5e-7d3b-7c4e-9f61-3b1f0c2a8d10"}, id="one that is not in the table"),
    ],
)
def test_a_surplus_prediction_in_the_topic_is_found(republished: Stream, changes: dict[str, object]) -> None:
    publish(republished, copy_of_a_prediction(republished, **changes))

    assert violated(republished) == {"published"}


def test_foreign_messages_in_the_predictions_topic_are_counted_and_violate_no_invariant(republished: Stream) -> None:
    for value in (b"hello", b'{"some": "other JSON"}'):
        publish(republished, value)

    found = invariants(republished)

    assert [invariant.violations for invariant in found.values() if not invariant.holds] == []
    assert found["published"].figures["foreign"] == 2
    assert "2 messages that are not predictions" in found["published"].summary


def test_an_unpublished_prediction_is_found(copied: Stream) -> None:
    config = replace(copied.config, predictions_topic=f"{copied.config.predictions_topic}-empty")
    created_topics.create_missing(copied.admin, config)
    copied.config = config

    found = invariants(copied)["published"]

    assert found.figures["violations"] == 111
    assert "not published" in found.violations[0]


def test_a_missing_predictions_topic_is_found(copied: Stream) -> None:
    copied.config = replace(copied.config, predictions_topic="gone-predictions")

    assert violated(copied) == {"published"}


@pytest.mark.slow
def test_an_event_that_the_position_passed_without_reading_is_found(stream: Stream) -> None:
    give_history(with_low_threshold(stream))
    stream.send([event(1)], partition=2)
    stream.connection.execute("update stream_positions set next_offset = next_offset + 1 where kafka_partition = 2")

    found = invariants(stream)["ledger"]

    assert not found.holds
    assert "no batch has read" in found.violations[0]


def test_predictions_deleted_from_the_topic_by_retention_are_not_violations(republished: Stream) -> None:
    admin, name = republished.admin, republished.config.predictions_topic
    ends = topics.list_offsets(admin, topics.describe(admin, name), topics.LATEST)
    for future in admin.delete_records(
        [TopicPartition(name, number, end // 2) for number, end in ends.items()]
    ).values():
        future.result()

    found = invariants(republished)["published"]

    assert found.holds, found.violations
    assert found.figures["deleted"] == 111 - found.figures["published"] > 0


@pytest.mark.slow
def test_predictions_that_are_not_yet_published_are_not_violations(stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    stream.commit_and_die(stream.plan(), [event(number) for number in range(9, 20)])

    found = invariants(stream)

    assert [invariant.violations for invariant in found.values() if not invariant.holds] == []
    assert found["published"].figures["not_yet_published"] == 11


def test_summaries_that_the_worker_has_not_followed_to_the_end_are_out_of_date(copied: Stream) -> None:
    copied.connection.execute("update stream_positions set next_offset = next_offset + 1, covered_to = next_offset + 1")
    copied.connection.execute("delete from prediction_summary")

    found = invariants(copied)["summary of days"]

    assert found.holds
    assert found.figures["outdated"] == found.figures["count"] > 0


def test_archived_predictions_are_not_violations(copied: Stream) -> None:
    copied.connection.execute(
        "with gone as (update stream_batches set archived = now() where replays = 0 returning batch) "
        "delete from churn_predictions p using gone where p.batch = gone.batch"
    )

    found = invariants(copied)

    assert [invariant.violations for invariant in found.values() if not invariant.holds] == []
    assert found["published"].figures["archived"] == found["rows of batches"].figures["archived_predictions"] > 0


@pytest.mark.slow
def test_it_holds_while_the_stream_is_live(stream: Stream) -> None:
    stopped = threading.Event()
    key = stream.plan()
    running = threading.Thread(target=stream.materialize, args=(key,), kwargs={"idle_seconds": 3, "commit_events": 50})
    running.start()

    def feed() -> None:
        while not stopped.is_set():
            stream.send([event(number) for number in range(20)])  # not faster than they are read

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        wait_until(lambda: stream.batch(key).events > 500)
        found = [invariant for _ in range(3) for invariant in check_invariants(stream.config)]
    finally:
        stopped.set()
        feeding.join()
        running.join()

    assert [invariant for invariant in found if not invariant.holds] == []
    assert violated(stream) == set()


def test_an_offset_belongs_to_the_range_of_its_batch_whatever_its_topic() -> None:
    ranges = Ranges(
        batch=np.array([0, 0, 0, 2]),
        kafka_partition=np.array([0, 1, 1, 0]),
        partition=np.array([5, 6, 7, 5]),
        start=np.array([10, 0, 100, 20]),
        end=np.array([20, 10, 110, 30]),
    )

    found = ranges.partition_of(
        np.array([0, 0, 0, 0, 0, 1, 2, 2, -1]),
        np.array([0, 0, 1, 1, 1, 0, 0, 3, 0]),
        np.array([10, 20, 9, 100, 50, 10, 29, 20, 10]),
    )

    assert found.tolist() == [5, -1, 6, 7, -1, -1, 5, -1, -1]
