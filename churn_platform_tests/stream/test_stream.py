"""The stream on real Kafka and PostgreSQL: every event once, whatever is sent and whoever dies."""

import itertools
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition

from churn_platform.database import ledger, model_versions
from churn_platform.kafka import topics
from churn_platform.kafka.clients import DiagnosticProducer
from churn_platform.kafka.exceptions import RangeLostError, TopicMissingError
from churn_platform.operations.extracts import read_published
from churn_platform.stream.exceptions import NoChampionError, ReplayError, UnknownBatchError
from churn_platform.stream.result import Ending
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

SNAPSHOT = """
    select event_id, risk_score, prediction, batch, kafka_partition, kafka_offset, event_timestamp, age
    from churn_predictions order by event_id
"""
HOURS = """
    select hour_timestamp, total_predictions, churn_count, high_risk_count, age_count from churn_batch_hours order by 1
"""


def test_every_event_becomes_a_row_and_a_published_prediction(stream: Stream) -> None:
    sent = [event(number) for number in range(500)]
    stream.send(sent)

    batch = stream.stream()

    assert (batch.events, batch.predictions, batch.dead_letters, batch.duplicates) == (500, 500, 0, 0)
    assert stream.table_ids() == sorted(str(each["event_id"]) for each in sent) == stream.published_ids()
    assert stream.waiting() == 0


def test_a_row_holds_what_the_event_said_and_where_it_came_from(stream: Stream) -> None:
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
    letters = stream.rows("select kafka_offset, reason, payload from dead_letter_events order by 1")
    assert [offset for offset, _, _ in letters] == [1, 2, 3]
    assert [bytes(payload) if isinstance(payload, bytes) else payload for _, _, payload in letters][:2] == [
        b"no json",
        None,
    ]
    assert "Gender" in str(letters[2][1])


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


def test_a_batch_closes_at_its_number_of_events_and_the_next_one_goes_on(stream: Stream) -> None:
    stream.send([event(number) for number in range(250)])

    sizes = [stream.stream(batch_events=100, commit_events=40).events for _ in range(3)]

    assert sizes == [100, 100, 50]
    assert len(stream.table_ids()) == 250
    assert stream.value("select count(*) from stream_ranges a join stream_ranges b using (topic_id, kafka_partition) "
                        "where a.batch < b.batch and a.end_offset > b.start_offset") == 0  # fmt: skip


def test_replaying_a_batch_leaves_the_same_rows_sums_and_topic(stream: Stream) -> None:
    first = event(0)
    stream.send([first, *(event(number) for number in range(300)), first, b"bad"])
    batch = stream.stream(commit_events=100)
    before, hours, published = stream.rows(SNAPSHOT), stream.rows(HOURS), stream.published_ids()

    outcome = stream.materialize(batch.batch)

    assert outcome.metadata["mode"] == "replay"
    assert stream.rows(SNAPSHOT) == before
    assert stream.rows(HOURS) == hours
    assert stream.published_ids() == published
    assert stream.batch(batch.batch).replays == 1
    assert stream.batch(batch.batch).duplicates == 1


def test_a_replay_scores_with_todays_champion_and_never_touches_alerts(stream: Stream, bundle_uri: str) -> None:
    stream.send([event(number) for number in range(50)])
    batch = stream.stream(high_risk_threshold=0.0)
    stream.connection.execute("update high_risk_customers set alert_sent = true, alert_sent_at = now()")
    model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)

    stream.materialize(batch.batch, high_risk_threshold=2.0)

    assert stream.rows("select distinct model_version from churn_predictions") == [(2,)]
    assert stream.value("select count(*) from high_risk_customers where alert_sent") == 50


def test_a_replay_whose_events_are_gone_changes_nothing(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)], partition=0)
    batch = stream.stream()
    before = stream.rows(SNAPSHOT)
    deleted = stream.admin.delete_records([TopicPartition(stream.config.events_topic, 0, 10)])
    for future in deleted.values():
        future.result()

    with pytest.raises(ReplayError, match="holds offsets"):
        stream.materialize(batch.batch)

    assert stream.rows(SNAPSHOT) == before


def test_several_closed_batches_replay_in_one_run(stream: Stream) -> None:
    keys = []
    for _ in range(2):
        stream.send([event(number) for number in range(10)])
        keys.append(stream.stream().batch)
    before = stream.rows(SNAPSHOT)

    stream.materialize(*keys)

    assert stream.rows(SNAPSHOT) == before
    assert [stream.batch(key).replays for key in keys] == [1, 1]


def test_a_run_over_several_batches_refuses_one_that_is_not_closed(stream: Stream) -> None:
    stream.send([event(1)])
    closed, planned = stream.stream().batch, stream.plan()

    with pytest.raises(ReplayError, match=planned):
        stream.materialize(closed, planned)

    assert stream.batch(closed).replays == 0


def test_a_run_that_sees_no_event_leaves_its_key_planned(stream: Stream) -> None:
    key = stream.plan()

    outcome = stream.materialize(key)

    assert not outcome.materialized
    assert stream.batch(key).opened is None
    assert ledger.unopened_batch(stream.connection, excluding=[]) == key


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


def test_an_open_batch_is_resumed_where_it_stopped(stream: Stream) -> None:
    key = stream.plan()
    stream.commit_and_die(key, [event(number) for number in range(40)])
    stream.send([event(number) for number in range(40, 60)])

    stream.materialize(key)

    assert (stream.batch(key).events, len(stream.table_ids())) == (60, 60)
    assert stream.published_ids() == stream.table_ids()


def test_an_old_batch_that_is_resumed_is_published_and_closed_at_once(stream: Stream) -> None:
    key = stream.plan()
    stream.commit_and_die(key, [event(number) for number in range(40)])
    stream.connection.execute("update stream_batches set opened = opened - interval '1 hour'")

    stream.materialize(key, idle_seconds=60)

    assert stream.batch(key).closed is not None
    assert stream.published_ids() == stream.table_ids()
    assert len(stream.table_ids()) == 40


def test_a_successor_closes_what_was_left_open_and_publishes_its_rest(stream: Stream) -> None:
    dead = stream.plan()
    stream.commit_and_die(dead, [event(number) for number in range(40)])
    assert stream.published_ids() == []
    stream.send([event(number) for number in range(40, 60)])

    successor = stream.stream()

    assert [line for line in stream.log if line.startswith(f"Closed batch {dead}, left open")]
    assert stream.batch(dead).closed is not None
    assert successor.events == 20
    assert len(stream.table_ids()) == 60
    assert stream.published_ids() == stream.table_ids()


def test_what_was_published_is_not_published_again_when_the_marker_has_expired(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    stream.stream()
    for future in stream.admin.delete_consumer_groups([stream.config.kafka.group]).values():
        future.result()
    dead = stream.plan()
    stream.commit_and_die(dead, [event(number) for number in range(30, 50)])

    stream.stream()

    assert len(stream.table_ids()) == 50
    assert stream.published_ids() == stream.table_ids()


def test_messages_of_others_in_the_predictions_topic_do_not_stop_the_search_for_what_was_published(
    stream: Stream,
) -> None:
    stream.send([event(number) for number in range(10)])
    stream.stream()
    producer = Producer(stream.config.kafka.client)
    foreign = (b"hello", b"", None, b"\xff\xfe", b'{"batch": 1}', b'{"more": ' + b"[" * 100_000)
    for value in foreign:
        producer.produce(stream.config.predictions_topic, value)
    assert producer.flush(30) == 0
    for future in stream.admin.delete_consumer_groups([stream.config.kafka.group]).values():
        future.result()
    stream.connection.execute("update stream_positions set published_to = 0")

    stream.send([event(number) for number in range(10, 20)])
    stream.stream()

    assert len(stream.table_ids()) == 20
    found = read_published(stream.config, lambda *_: None)
    assert found.foreign == len(foreign)
    whole = found.event_id.tobytes()
    assert [str(UUID(bytes=whole[at : at + 16])) for at in range(0, len(whole), 16)] == stream.table_ids()


def test_a_zombie_cannot_commit_after_its_successor_took_over(stream: Stream) -> None:
    key = stream.plan()
    stream.send([event(number) for number in range(10)])
    zombie = stream.start(key, idle_seconds=60)
    wait_until(lambda: stream.batch(key).events == 10)
    with stream.connection.transaction():
        ledger.take_over(stream.connection, batch=stream.plan(), run_id="successor")
    stream.send([event(number) for number in range(10, 20)])
    zombie.join()

    assert any("Another run has taken over" in line for line in stream.log)
    assert any(str(Ending.CLOSED) in line for line in stream.log)
    assert stream.batch(key).events == 10
    assert stream.waiting() == 10


def test_a_run_whose_batch_was_closed_while_it_waited_does_nothing(stream: Stream) -> None:
    key = stream.plan()
    stream.send([event(1)])
    with stream.standby(key) as standby:
        stream.connection.execute("update stream_batches set opened = now(), closed = now() where batch = %s", (key,))
    standby.join()

    assert any(str(Ending.CLOSED) in line for line in stream.log)
    assert stream.table_ids() == []


def test_a_standby_reads_the_topic_that_there_is_when_it_takes_over(stream: Stream) -> None:
    with stream.standby(stream.plan()) as standby:
        stream.make_topic_anew()
        stream.send([event(number) for number in range(20)])
    standby.join()

    assert len(stream.table_ids()) == 20
    assert stream.published_ids() == stream.table_ids()


def test_a_standby_scores_with_the_champion_of_the_moment_it_takes_over(stream: Stream, bundle_uri: str) -> None:
    with stream.standby(stream.plan()) as standby:
        model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
        model_versions.promote(stream.connection, 2)
        stream.send([event(number) for number in range(20)])
    standby.join()

    assert stream.rows("select model_version, count(*) from churn_predictions group by 1") == [(2, 20)]


def test_a_champion_that_cannot_be_loaded_leaves_the_former_at_work(stream: Stream, bundle_uri: str) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60, batch_events=30)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    model_versions.register(stream.connection, version=2, uri=f"{bundle_uri}-gone", run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)
    stream.send([event(number) for number in range(10, 20)])
    wait_until(lambda: any("Champion version 2 cannot be loaded" in line for line in stream.log))
    stream.send([event(number) for number in range(20, 30)])
    running.join()

    assert stream.rows("select model_version, count(*) from churn_predictions group by 1") == [(1, 30)]


def test_a_paused_stream_ends_its_batch_after_the_commit_and_starts_none(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    ledger.pause(stream.connection, stream.config.events_topic)
    running.join()
    stream.send([event(number) for number in range(10, 20)])
    while_paused = stream.stream()
    ledger.resume(stream.connection, stream.config.events_topic)

    assert stream.batch(key).closed is not None
    assert (while_paused.events, while_paused.opened) == (0, None)
    assert stream.stream().events == 10
    assert stream.published_ids() == stream.table_ids()


def test_a_run_whose_session_was_ended_goes_on_with_its_batch(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60, batch_events=30)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    stream.connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where starts_with(application_name, %s)",
        (ledger.SESSION_PREFIX,),
    )
    stream.send([event(number) for number in range(10, 30)])
    running.join()

    assert any("after a fault" in line and "terminating connection" in line for line in stream.log)
    assert (stream.batch(key).events, stream.value("select count(*) from stream_batches")) == (30, 1)
    assert len(stream.table_ids()) == 30
    assert stream.published_ids() == stream.table_ids()


def test_a_silent_session_is_ended_by_postgres_and_so_gives_up_the_lock(stream: Stream) -> None:
    with psycopg.connect(stream.config.dsn, autocommit=True) as frozen:
        ledger.lock_stream(frozen, stream.config.events_topic)
        ledger.take_lease(frozen, idle_seconds=1, statement_seconds=60)
        stream.send([event(number) for number in range(10)])

        assert stream.stream().events == 10
        with pytest.raises(psycopg.errors.IdleSessionTimeout):
            frozen.execute("select 1")


def test_a_quiet_stream_keeps_its_lease(stream: Stream) -> None:
    stream.limits = replace(stream.limits, lease_seconds=2, heartbeat_seconds=0.2)
    running = stream.start(key := stream.plan(), idle_seconds=5)
    running.join()

    assert not any("fault" in line for line in stream.log)
    assert stream.batch(key).opened is None


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


def test_a_partition_added_to_the_topic_is_read_from_its_beginning(stream: Stream) -> None:
    stream.send([event(1)])
    stream.stream()
    stream.add_partition()
    stream.send([event(number) for number in range(5)], partition=3)

    assert stream.stream(start="latest").events == 5


def test_a_partition_added_while_a_run_streams_is_read_by_that_run(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60, batch_events=15)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    stream.add_partition()
    stream.send([event(number) for number in range(5)], partition=3)
    running.join()

    assert stream.batch(key).events == 15
    assert stream.published_ids() == stream.table_ids()


def test_a_topic_made_anew_is_another_topic_and_is_read_from_its_beginning(stream: Stream) -> None:
    stream.send([event(number) for number in range(20)])
    first = stream.stream()
    stream.make_topic_anew()
    stream.send([event(number) for number in range(50)])

    assert stream.stream().events == 50
    assert len(stream.table_ids()) == 70
    assert stream.published_ids() == stream.table_ids()
    with pytest.raises(ReplayError, match="made anew"):
        stream.materialize(first.batch)


def test_a_topic_made_anew_under_a_run_that_streams_is_read_from_its_beginning(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60)
    stream.send([event(number) for number in range(20)])
    wait_until(lambda: stream.batch(key).events == 20)
    stream.make_topic_anew()
    # More than the old topic held: a consumer that went on from the old offsets would find events there.
    stream.send([event(number) for number in range(100)])
    running.join()
    following = stream.stream()

    assert (stream.batch(key).events, following.events) == (20, 100)
    assert stream.value("select count(distinct topic_id) from stream_ranges") == 2
    assert len(stream.table_ids()) == 120
    assert stream.published_ids() == stream.table_ids()


def test_what_a_deleted_topic_left_unpublished_is_published_all_the_same(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)])
    stream.stream()
    dead = stream.plan()
    stream.commit_and_die(dead, [event(number) for number in range(30, 50)])
    stream.make_topic_anew()
    stream.send([event(number) for number in range(50, 60)])

    stream.stream()
    stream.stream()

    assert len(stream.table_ids()) == 60
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.parametrize(("partition", "end"), [(0, 10), (1, 30)])
def test_events_that_retention_took_before_they_were_read_stop_the_stream_and_nothing_is_skipped(
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


def test_a_stream_makes_the_topics_that_are_missing(stream: Stream) -> None:
    missing = {"events_topic": "made-by-the-stream", "predictions_topic": "made-by-the-stream-too"}

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


def test_a_call_to_kafka_that_never_returns_is_given_up_and_its_predictions_are_published_once(stream: Stream) -> None:
    calls, returned = itertools.count(), threading.Event()

    class ForgetfulProducer(DiagnosticProducer):
        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            if next(calls) == 0:
                returned.wait()  # as librdkafka does when its coordinator goes away at the wrong moment, but forever
            super().send_offsets_to_transaction(*arguments)

    stream.make_producer = ForgetfulProducer
    stream.limits = replace(stream.limits, kafka_seconds=5, kafka_grace_seconds=0)
    stream.send([event(number) for number in range(30)])

    batch = stream.stream()
    returned.set()
    wait_until(lambda: not any(thread.name == "publisher" for thread in threading.enumerate()))

    assert batch.predictions == 30
    assert any("has not returned" in line for line in stream.log)
    assert stream.published_ids() == stream.table_ids()
