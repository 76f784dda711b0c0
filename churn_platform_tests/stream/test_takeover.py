"""A run that takes over continues from the ledger's positions, however the previous run ended."""

import itertools
import threading
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import Producer

from churn_platform.database import advisory_locks, model_versions, stream_batches
from churn_platform.database.erased_customers import NOBODY
from churn_platform.kafka import topics
from churn_platform.kafka.clients import DiagnosticProducer
from churn_platform.lanes import WHOLE
from churn_platform.operations.verification.extracts import read_published
from churn_platform.stream import faults
from churn_platform.stream.exceptions import PublishError
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.result import Ending
from churn_platform_tests.stream.streams import Killed, Stream, event
from churn_platform_tests.waiting import wait_until


@pytest.mark.slow
def test_an_open_batch_is_resumed_where_it_stopped(stream: Stream) -> None:
    key = stream.plan()
    stream.commit_and_die(key, [event(number) for number in range(40)])
    stream.send([event(number) for number in range(40, 60)])

    stream.materialize(key)

    assert (stream.batch(key).events, len(stream.table_ids())) == (60, 60)
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.slow
def test_an_old_batch_that_is_resumed_is_published_and_closed_at_once(stream: Stream) -> None:
    key = stream.plan()
    stream.commit_and_die(key, [event(number) for number in range(40)])
    stream.connection.execute("update stream_batches set opened = opened - interval '1 hour'")

    stream.materialize(key, idle_seconds=60)

    assert stream.batch(key).closed is not None
    assert stream.published_ids() == stream.table_ids()
    assert len(stream.table_ids()) == 40


def test_what_a_dead_run_left_is_published_in_several_transactions(stream: Stream) -> None:
    stream.commit_and_die(stream.plan(), [event(number) for number in range(600)])
    stream.limits = replace(stream.limits, transaction_predictions=50)
    remaining = itertools.count(-2)

    def die_in_the_third_transaction(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_KAFKA_COMMIT and next(remaining) == 0:
            raise Killed(point)

    with faults.installed(die_in_the_third_transaction), pytest.raises(PublishError):
        stream.stream()
    stream.stream()

    assert stream.published_ids() == stream.table_ids()
    assert len(stream.table_ids()) == 600
    topic = topics.describe(stream.admin, stream.config.predictions_topic)
    markers = sum(topics.list_offsets(stream.admin, topic, topics.LATEST).values()) - 600
    assert markers >= 600 / 50  # each transaction ends with one in each partition that it has written to


@pytest.mark.slow
def test_a_successor_closes_an_open_batch_and_publishes_its_remaining_predictions(stream: Stream) -> None:
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


@pytest.mark.slow
def test_what_was_published_is_not_published_again_when_the_published_offsets_have_expired(stream: Stream) -> None:
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
    found = read_published(stream.config, NOBODY, lambda *_: None)
    assert found.foreign == len(foreign)
    ids = found.event_id.tobytes()
    assert [str(UUID(bytes=ids[at : at + 16])) for at in range(0, len(ids), 16)] == stream.table_ids()


def test_a_zombie_cannot_commit_after_its_successor_took_over(stream: Stream) -> None:
    key = stream.plan()
    stream.send([event(number) for number in range(10)])
    zombie = stream.start(key, idle_seconds=60)
    wait_until(lambda: stream.batch(key).events == 10)
    with stream.connection.transaction():
        stream_batches.take_over(stream.connection, batch=stream.plan(), run_id="successor", lane=WHOLE)
    stream.send([event(number) for number in range(10, 20)])
    zombie.join()

    assert any("Another run has taken over" in line for line in stream.log)
    assert any(str(Ending.CLOSED) in line for line in stream.log)
    assert stream.batch(key).events == 10
    assert stream.waiting() == 10


def test_a_waiting_run_lets_postgresql_remove_old_versions_of_rows(stream: Stream) -> None:
    with stream.standby(stream.plan()) as standby:
        wait_until(
            lambda: stream.value(
                "select count(*) from pg_stat_activity where application_name like 'churn stream %' "
                "and backend_xmin is null"
            )
        )
    standby.join()


def test_a_run_whose_batch_was_closed_while_it_waited_does_nothing(stream: Stream) -> None:
    key = stream.plan()
    stream.send([event(1)])
    with stream.standby(key) as standby:
        stream.connection.execute("update stream_batches set opened = now(), closed = now() where batch = %s", (key,))
    standby.join()

    assert any(str(Ending.CLOSED) in line for line in stream.log)
    assert stream.table_ids() == []


@pytest.mark.slow
def test_a_standby_reads_the_topic_that_exists_when_it_takes_over(stream: Stream) -> None:
    with stream.standby(stream.plan()) as standby:
        stream.recreate_topic()
        stream.send([event(number) for number in range(20)])
    standby.join()

    assert len(stream.table_ids()) == 20
    assert stream.published_ids() == stream.table_ids()


def test_a_standby_scores_with_the_champion_at_its_takeover(stream: Stream, bundle_uri: str) -> None:
    with stream.standby(stream.plan()) as standby:
        model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
        model_versions.promote(stream.connection, 2)
        stream.send([event(number) for number in range(20)])
    standby.join()

    assert stream.rows("select model_version, count(*) from churn_predictions group by 1") == [(2, 20)]


def test_a_run_whose_session_was_ended_continues_its_batch(stream: Stream) -> None:
    running = stream.start(key := stream.plan(), idle_seconds=60, batch_events=30)
    stream.send([event(number) for number in range(10)])
    wait_until(lambda: stream.batch(key).events == 10)
    stream.connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where starts_with(application_name, %s)",
        (advisory_locks.SESSION_PREFIX,),
    )
    stream.send([event(number) for number in range(10, 30)])
    running.join()

    (fault,) = [line for line in stream.log if "after a fault" in line]
    # The publisher may notice it before the thread that writes does.
    assert "terminating connection" in fault or "PostgreSQL has ended the session" in fault
    assert (stream.batch(key).events, stream.value("select count(*) from stream_batches")) == (30, 1)
    assert len(stream.table_ids()) == 30
    assert stream.published_ids() == stream.table_ids()


def test_postgres_ends_a_silent_session_which_releases_the_lock(stream: Stream) -> None:
    with psycopg.connect(stream.config.dsn, autocommit=True) as frozen:
        advisory_locks.lock_stream(frozen, stream.config.events_topic)
        advisory_locks.take_lease(frozen, idle_seconds=1, statement_seconds=60)
        stream.send([event(number) for number in range(10)])

        assert stream.stream().events == 10
        with pytest.raises(psycopg.errors.IdleSessionTimeout):
            frozen.execute("select 1")


@pytest.mark.slow
def test_a_quiet_stream_keeps_its_lease(stream: Stream) -> None:
    stream.limits = replace(stream.limits, lease_seconds=2, heartbeat_seconds=0.2)
    running = stream.start(key := stream.plan(), idle_seconds=5)
    running.join()

    assert not any("fault" in line for line in stream.log)
    assert stream.batch(key).opened is None


@pytest.mark.slow
def test_a_call_to_kafka_that_never_returns_is_given_up_and_its_predictions_are_published_once(stream: Stream) -> None:
    calls, returned = itertools.count(), threading.Event()

    class HangingProducer(DiagnosticProducer):
        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            if next(calls) == 0:
                returned.wait()  # as in librdkafka when the coordinator goes away at the wrong moment
            super().send_offsets_to_transaction(*arguments)

    stream.make_producer = HangingProducer
    stream.limits = replace(stream.limits, kafka_seconds=5, kafka_grace_seconds=0)
    stream.send([event(number) for number in range(30)])

    batch = stream.stream()
    returned.set()
    wait_until(lambda: not any(thread.name == "publisher" for thread in threading.enumerate()))

    assert batch.predictions == 30
    assert any("has not returned" in line for line in stream.log)
    assert stream.published_ids() == stream.table_ids()
