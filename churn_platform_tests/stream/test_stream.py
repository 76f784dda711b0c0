"""The stream on real Kafka and PostgreSQL: each event counts once, whatever is sent and whichever process dies."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest
from confluent_kafka import Producer

from churn_platform.database import model_versions, stream_batches, stream_pauses
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.lanes import WHOLE
from churn_platform.stream.exceptions import NoChampionError, UnknownBatchError
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until


def test_every_event_becomes_a_row_and_a_published_prediction(stream: Stream) -> None:
    sent = [event(number) for number in range(500)]
    stream.send(sent)

    batch = stream.stream()

    assert (batch.events, batch.predictions, batch.dead_letters, batch.duplicates) == (500, 500, 0, 0)
    assert stream.table_ids() == sorted(str(each["event_id"]) for each in sent) == stream.published_ids()
    assert stream.waiting() == 0


def test_a_row_contains_the_event_and_its_origin(stream: Stream) -> None:
    stream.send(
        [event(1, Age=None, event_id="evt_1", true_churn_label=1, event_timestamp="2026-11-24T08:30:00Z")], partition=2
    )

    batch = stream.stream()

    assert stream.rows(
        "select event_ref, customer_id, age, true_churn_label, event_timestamp, geography, gender, balance, batch, "
        "kafka_partition, kafka_offset, model_version, probability = risk_score from churn_predictions"
    ) == [
        ("evt_1", 15_600_001, None, 1, datetime(2026, 11, 24, 8, 30, tzinfo=UTC), "Germany", "Female", 1234.5,
         batch.batch, 2, 0, 1, True)
    ]  # fmt: skip
    assert stream.rows("select kafka_partition, start_offset, end_offset from stream_ranges") == [(2, 0, 1)]


def test_a_stored_score_is_the_bundles_own(stream: Stream) -> None:
    sent = [event(number) for number in range(60)]
    stream.send(sent)
    stream.stream()

    scores: dict[str, float] = dict(
        stream.connection.execute("select event_id::text, risk_score from churn_predictions").fetchall()
    )

    columns = {name: np.array([each[name] for each in sent]) for name in sent[0] if name[0].isupper()}
    expected = small_bundle().score(columns)
    assert [scores[str(each["event_id"])] for each in sent] == pytest.approx(expected.tolist(), abs=1e-7)


def test_bad_events_are_kept_with_their_reason_and_bytes(stream: Stream) -> None:
    stream.send([event(1), b"no json", None, event(2, Gender=None)], partition=0)

    batch = stream.stream()

    assert (batch.events, batch.predictions, batch.dead_letters) == (4, 1, 3)
    dead_letters = stream.rows("select kafka_offset, reason, payload from dead_letter_events order by 1")
    assert [offset for offset, _, _ in dead_letters] == [1, 2, 3]
    assert [bytes(payload) if isinstance(payload, bytes) else payload for _, _, payload in dead_letters][:2] == [
        b"no json",
        None,
    ]
    assert "Gender" in str(dead_letters[2][1])


@pytest.mark.slow
def test_an_event_sent_twice_counts_as_a_duplicate_within_a_commit_and_later(stream: Stream) -> None:
    first = event(1)
    stream.send([first, first, event(2)])
    together = stream.stream()
    stream.send([first, event(3)])
    later = stream.stream()

    assert (together.events, together.predictions, together.duplicates) == (3, 2, 1)
    assert (later.events, later.predictions, later.duplicates) == (2, 1, 1)
    assert len(stream.table_ids()) == 3
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.slow
def test_an_id_used_again_with_other_content_is_a_dead_letter(stream: Stream) -> None:
    first = event(1)
    stream.send([first])
    stream.stream()
    stream.send([{**first, "Balance": 99.0}, first])

    batch = stream.stream()

    assert (batch.predictions, batch.dead_letters, batch.duplicates) == (0, 1, 1)
    assert "other content" in str(stream.value("select reason from dead_letter_events"))
    assert stream.value("select balance from churn_predictions") == 1234.5


def test_a_late_event_counts_in_its_own_hour(stream: Stream) -> None:
    now = datetime.now(UTC)
    stream.send([event(1), event(2, event_timestamp=(now - timedelta(hours=5)).isoformat())])

    stream.stream()

    hours = [hour for (hour,) in stream.rows("select hour_timestamp from churn_batch_hours order by 1")]
    assert len(hours) == 2
    assert stream.rows("select hour_timestamp from dirty_hours order by 1") == [(hour,) for hour in hours]


def test_high_risk_customers_are_those_at_the_threshold(stream: Stream) -> None:
    stream.send([event(number, NumOfProducts=4, Age=55, Geography="Germany") for number in range(20)])
    stream.send([event(number) for number in range(200)])

    stream.stream(high_risk_threshold=0.5)

    assert int(str(stream.value("select count(*) from high_risk_customers"))) >= 20
    assert (
        stream.value(
            "select count(*) from churn_predictions p full join high_risk_customers h using (event_id) "
            "where (p.risk_score >= 0.5) is distinct from (h.event_id is not null)"
        )
        == 0
    )


@pytest.mark.slow
def test_a_batch_closes_at_its_number_of_events_and_the_next_one_continues(stream: Stream) -> None:
    stream.send([event(number) for number in range(250)])

    sizes = [stream.stream(batch_events=100, commit_events=40).events for _ in range(3)]

    assert sizes == [100, 100, 50]
    assert len(stream.table_ids()) == 250
    assert stream.value("select count(*) from stream_ranges a join stream_ranges b using (topic_id, kafka_partition) "
                        "where a.batch < b.batch and a.end_offset > b.start_offset") == 0  # fmt: skip


def test_a_run_that_sees_no_event_leaves_its_key_planned(stream: Stream) -> None:
    key = stream.plan()

    outcome = stream.materialize(key)

    assert not outcome.materialized
    assert stream.batch(key).opened is None
    assert stream_batches.oldest_unopened(stream.connection, lane=WHOLE, excluding=[]) == key


def test_a_key_that_nobody_planned_is_refused(stream: Stream) -> None:
    with pytest.raises(UnknownBatchError, match="planned by the sensor"):
        stream.materialize("20261124T000000000Z")


def test_without_a_champion_nothing_is_read(stream: Stream) -> None:
    stream.connection.execute("update model_versions set retired_at = now()")
    stream.send([event(1)])

    with pytest.raises(NoChampionError, match="champion_model"):
        stream.stream()

    assert stream.waiting() == 1


def test_another_champion_scores_the_next_commit(stream: Stream, bundle_uri: str) -> None:
    stream.send([event(number) for number in range(10)])
    key = stream.plan()
    running = stream.start(key, idle_seconds=10, batch_events=30)
    wait_until(lambda: stream.batch(key).events == 10)
    model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)
    # The commit that learns of the new champion is still scored by the old one.
    stream.send([event(number) for number in range(10, 20)])
    wait_until(lambda: stream.batch(key).events == 20)
    wait_until(lambda: any("Champion is now version 2" in line for line in stream.log))
    stream.send([event(number) for number in range(20, 30)])
    running.join()

    versions: dict[int, int] = dict(
        stream.connection.execute("select model_version, count(*) from churn_predictions group by 1").fetchall()
    )
    assert sum(versions.values()) == 30
    assert versions[2] >= 10


def test_a_rollback_scores_a_later_commit_of_the_batch_that_runs(stream: Stream, bundle_uri: str) -> None:
    model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)
    running = stream.start(key := stream.plan(), idle_seconds=60, batch_events=30)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    model_versions.rollback(stream.connection, reason="it calls the wrong customers")
    # The commit that learns of the rollback is still scored by the version that was rolled back.
    stream.send([event(number) for number in range(10, 20)])
    wait_until(lambda: stream.batch(key).events == 20)
    wait_until(lambda: any("Champion is now version 1" in line for line in stream.log))
    stream.send([event(number) for number in range(20, 30)])
    running.join()

    scored = stream.rows("select model_version, batch from churn_predictions order by customer_id")
    assert scored[:10] == [(2, key)] * 10
    assert scored[20:] == [(1, key)] * 10


def test_while_a_champion_cannot_be_loaded_the_former_one_scores(stream: Stream, bundle_uri: str) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60, batch_events=30)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    model_versions.register(stream.connection, version=2, uri=f"{bundle_uri}-gone", run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)
    stream.send([event(number) for number in range(10, 20)])
    wait_until(lambda: any("Champion version 2 cannot be used" in line for line in stream.log))
    stream.send([event(number) for number in range(20, 30)])
    running.join()

    assert stream.rows("select model_version, count(*) from churn_predictions group by 1") == [(1, 30)]


@pytest.mark.slow
def test_a_paused_stream_ends_its_batch_after_the_commit_and_starts_none(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    stream_pauses.pause(stream.connection, stream.config.events_topic)
    running.join()
    stream.send([event(number) for number in range(10, 20)])
    while_paused = stream.stream()
    stream_pauses.resume(stream.connection, stream.config.events_topic)

    assert stream.batch(key).closed is not None
    assert (while_paused.events, while_paused.opened) == (0, None)
    assert stream.stream().events == 10
    assert stream.published_ids() == stream.table_ids()


def test_the_ledger_refuses_an_offset_in_two_batches(stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    batch = stream.stream()
    other = stream.plan()

    with pytest.raises(psycopg.errors.ExclusionViolation):
        stream.connection.execute(
            "insert into stream_ranges select %s, topic_id, kafka_partition, end_offset - 1, end_offset + 5 "
            "from stream_ranges where batch = %s",
            (other, batch.batch),
        )


@pytest.mark.slow
def test_aborted_transactions_and_markers_are_neither_events_nor_lag(stream: Stream) -> None:
    producer = Producer({**stream.config.kafka.client, "transactional.id": "upstream"})
    producer.init_transactions(30)
    for number, commit in enumerate((True, False, True, False)):
        producer.begin_transaction()
        for each in range(5):
            producer.produce(stream.config.events_topic, json.dumps(event(number * 5 + each)).encode(), partition=0)
        producer.flush(30)
        producer.commit_transaction(30) if commit else producer.abort_transaction(30)

    batch = stream.stream(idle_seconds=2.5)

    assert batch.events == 10
    assert stream.waiting() == 0
    stream.materialize(batch.batch)
    assert stream.batch(batch.batch).events == 10


def test_the_stream_creates_missing_topics(stream: Stream) -> None:
    missing = {"events_topic": "created-by-the-stream", "predictions_topic": "created-by-the-stream-too"}

    batch = stream.stream(**missing)

    assert batch.events == 0
    assert set(missing.values()) <= stream.admin.list_topics(timeout=10).topics.keys()


def test_a_topic_that_does_not_exist_is_named(stream: Stream) -> None:
    with pytest.raises(TopicMissingError, match="nowhere"):
        topics.describe(stream.admin, "nowhere")


def test_a_commit_of_large_events_ends_at_its_bytes(stream: Stream) -> None:
    stream.limits = replace(stream.limits, commit_bytes=1_000_000)
    stream.send([event(number, note="x" * 1_000) for number in range(5_000)])

    batch = stream.stream(linger=3.0)  # long enough for all of them to be in one commit

    assert batch.events == 5_000
    assert batch.commits >= 2
