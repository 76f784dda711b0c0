"""The status of the stream, also while servers or tables are missing."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from psycopg import sql
from psycopg.conninfo import make_conninfo
from rich.console import Console

from churn_platform.commands import stream_status
from churn_platform.database import advisory_locks, challengers, model_versions, stream_pauses, stream_positions
from churn_platform.database.dead_letter_events import DeadLetterCounts
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import RangeLostError
from churn_platform.local.stack import Stack
from churn_platform.operations import status
from churn_platform.positions import backlog
from churn_platform.settings import settings
from churn_platform_tests.stream.streams import Stream, event, with_changes
from churn_platform_tests.waiting import wait_until


@pytest.mark.slow
def test_without_a_live_run_the_status_has_the_latest_results(stream: Stream) -> None:
    stream.send([*(event(number) for number in range(20)), b"bad"])
    batch = stream.stream()

    found = status.collect_status(stream.config)

    assert (found.waiting, found.unpublished, found.events_per_second) == (0, 0, 0.0)
    assert (found.live_run, found.standbys, found.lock_holder, found.paused_since) == (None, [], None, None)
    assert found.latest_batch is not None
    assert (found.latest_batch.batch, found.latest_batch.state, found.latest_batch.events) == (
        batch.batch,
        "closed",
        21,
    )
    assert found.dead_letters == DeadLetterCounts(today=1, unresolved=1, retried=0)
    assert (found.model_version, found.problems) == (1, [])


def test_the_lag_is_counted_by_partition(stream: Stream) -> None:
    stream.waiting()
    stream.send([event(number) for number in range(4)], partition=1)

    found = status.collect_status(stream.config)

    assert [(each.position, each.end, each.waiting) for each in found.partitions] == [(0, 0, 0), (0, 4, 4), (0, 0, 0)]
    assert found.waiting == 4


def test_each_lane_has_its_own_batch_and_lag(stream: Stream) -> None:
    lanes = stream.want_lanes(3)
    keys = [stream.plan(lane) for lane in lanes]
    stream.send([event(number) for number in range(30)])
    for key in keys:
        stream.materialize(key)
    stream.send([event(number) for number in range(4)], partition=1)

    found = status.collect_status(stream.config)
    plain = found.as_dict()

    assert [each.latest_batch.batch for each in found.lanes if each.latest_batch is not None] == keys
    assert [found.waiting_of(each.lane) for each in found.lanes] == [0, 4, 0]
    assert (found.wanted_lanes, found.live_run, found.problems) == (3, None, [])
    assert isinstance(plain["lanes"], list)
    assert [each["waiting"] for each in plain["lanes"]] == [0, 4, 0]


def test_models_that_are_tried_are_reported(stream: Stream) -> None:
    for version in (2, 3):
        model_versions.register(stream.connection, version=version, uri="", run_id="", metrics={})
    challengers.start(stream.connection, "shadow", model_version=2, share=1.0)
    stopped = challengers.start(stream.connection, "canary", model_version=3, share=0.5)
    challengers.end(stream.connection, stopped, by="hand", reason="It was stopped.")
    canary = challengers.start(stream.connection, "canary", model_version=3, share=0.1)
    challengers.record_followed(stream.connection, canary, events=1_234)

    found = status.collect_status(stream.config)
    console = Console(record=True, width=160)
    stream_status.show(console, found)
    text = console.export_text()

    assert [(each.kind, each.model_version, each.share, each.events) for each in found.trials] == [
        ("shadow", 2, 1.0, 0),
        ("canary", 3, 0.1, 1_234),
    ]
    assert "version 2 for 1 of the customers, 0 events scored since" in text
    assert "version 3 for 0.1 of the customers, 1,234 events scored since" in text
    json.dumps(found.as_dict())


@pytest.mark.slow
def test_a_live_run_its_standby_and_its_rate_are_reported(stream: Stream) -> None:
    live, standby = stream.plan(), stream.plan()
    first = threading.Thread(target=stream.materialize, args=(live,), kwargs={"idle_seconds": 5})
    first.start()
    wait_until(lambda: advisory_locks.lock_sessions(stream.connection, stream.config.events_topic)[0])
    second = threading.Thread(target=stream.materialize, args=(standby,))
    second.start()
    wait_until(lambda: advisory_locks.lock_sessions(stream.connection, stream.config.events_topic)[1])
    stopped = threading.Event()

    def feed() -> None:
        while not stopped.is_set():
            stream.send([event(number) for number in range(50)])

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        wait_until(lambda: stream.batch(live).events > 0)
        found = status.collect_status(stream.config)
    finally:
        stopped.set()
        feeding.join()
        first.join()
        second.join()

    assert found.live_run == f"run of {live}"
    assert found.standbys == [f"run of {standby}"]
    assert found.events_per_second is not None
    assert found.events_per_second > 0


def test_a_session_that_holds_the_lock_without_a_run_is_reported(stream: Stream) -> None:
    with psycopg.connect(stream.config.dsn, autocommit=True, application_name="somebody") as holder:
        advisory_locks.lock_stream(holder, stream.config.events_topic)

        found = status.collect_status(stream.config)

    assert (found.live_run, found.lock_holder) == (None, "somebody")


def test_a_pause_is_reported_with_its_start(stream: Stream) -> None:
    stream_pauses.pause(stream.connection, stream.config.events_topic)

    found = status.collect_status(stream.config)

    assert found.paused_since is not None
    assert str(found.as_dict()["paused_since"]).startswith(f"{found.paused_since.astimezone(UTC):%Y-%m-%dT%H:%M:%S}")


@pytest.mark.slow
def test_dead_letters_of_yesterday_are_unresolved_but_not_counted_today(stream: Stream) -> None:
    stream.send([b"bad", b"worse"])
    stream.stream()
    stream.connection.execute("update dead_letter_events set received_at = now() - interval '1 day'")
    stream.connection.execute(
        "update dead_letter_events set retry_event_id = gen_random_uuid() where kafka_partition = 0"
    )

    assert status.collect_status(stream.config).dead_letters == DeadLetterCounts(today=0, unresolved=2, retried=1)


def test_a_missing_topic_and_a_missing_champion_are_reported(stream: Stream) -> None:
    stream.connection.execute("update model_versions set retired_at = now()")

    found = status.collect_status(replace(stream.config, events_topic="no-such-topic"))

    assert found.partitions == []
    assert (found.waiting, found.unpublished, found.model_version, found.latest_batch) == (None, None, None, None)
    assert any("champion_model" in problem for problem in found.problems)
    assert any("'no-such-topic' does not exist" in problem for problem in found.problems)


def test_before_the_first_tick_of_the_sensor_there_are_no_positions(stream: Stream) -> None:
    found = status.collect_status(stream.config)

    assert [each.position for each in found.partitions] == [None, None, None]
    assert found.waiting is None
    assert (
        stream_positions.next_offsets(
            stream.connection, topics.describe(stream.admin, stream.config.events_topic).topic_id
        )
        == {}
    )


def test_a_topic_read_from_its_end_has_nothing_to_publish(stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    described = topics.describe(stream.admin, stream.config.events_topic)
    backlog.register(stream.connection, stream.admin, described, "latest")

    assert status.collect_status(stream.config).unpublished == 0


def test_lost_offsets_are_reported_with_the_remedy(stream: Stream) -> None:
    stream.waiting()
    stream.send([event(number) for number in range(9)], partition=0)
    for future in stream.admin.delete_records([TopicPartition(stream.config.events_topic, 0, 5)]).values():
        future.result()

    found = status.collect_status(stream.config)

    assert [problem for problem in found.problems if "churn stream reset" in problem] == found.problems != []
    assert found.waiting == 9


def test_without_the_database_the_status_has_what_kafka_knows(stream: Stream) -> None:
    found = status.collect_status(replace(stream.config, dsn=make_conninfo(stream.config.dsn, port="1")))

    assert [problem.partition(":")[0] for problem in found.problems] == ["PostgreSQL does not answer"]
    assert not found.answered
    assert found.events_per_second is None
    assert len(found.partitions) == 3


@pytest.mark.slow
def test_without_the_brokers_the_status_has_what_the_ledger_knows(stream: Stream) -> None:
    found = status.collect_status(with_changes(stream.config, client={"bootstrap.servers": "127.0.0.1:1"}))

    (problem,) = found.problems
    assert "Kafka at 127.0.0.1:1 does not answer" in problem
    assert (found.model_version, found.answered) == (1, False)


def test_a_database_without_the_schema_is_reported(stream: Stream) -> None:
    found = status.collect_status(replace(stream.config, dsn=make_conninfo(settings().postgres_dsn, dbname="postgres")))

    assert any("churn db upgrade" in problem for problem in found.problems)


@pytest.mark.slow
def test_times_are_text_in_json(stream: Stream) -> None:
    stream.send([event(1)])
    stream.stream()

    plain = status.collect_status(stream.config).as_dict()

    batch = plain["latest_batch"]
    assert isinstance(batch, dict)
    assert datetime.fromisoformat(batch["last_commit"]).tzinfo is not None
    assert (plain["waiting"], plain["unpublished"]) == (0, 0)


@pytest.mark.slow
def test_offsets_held_back_by_an_open_transaction_are_reported_with_its_start(stream: Stream) -> None:
    stream.send([event(number) for number in range(3)], partition=1)
    stream.stream()
    began = datetime.now(UTC) - timedelta(hours=1)
    producer = Producer({**stream.config.kafka.client, "transactional.id": f"of {stream.config.events_topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in range(5):
        value = json.dumps(event(number)).encode()
        producer.produce(stream.config.events_topic, value, partition=1, timestamp=round(began.timestamp() * 1000))
    producer.flush(30)
    stream.send([event(7)], partition=1)  # from another producer; it is held back, too

    wait_until(lambda: status.collect_status(stream.config).held == 6)
    found = status.collect_status(stream.config)

    assert (found.waiting, [each.held for each in found.partitions]) == (0, [0, 6, 0])
    assert found.held_since is not None
    assert abs(found.held_since - began) < timedelta(seconds=1)
    (problem,) = found.problems
    assert f"[1]: 6 offsets from {found.partitions[1].end} on are held back by a transaction" in problem
    assert found.as_dict()["held"] == 6

    producer.commit_transaction(30)
    wait_until(lambda: status.collect_status(stream.config).held == 0)
    found = status.collect_status(stream.config)
    assert (found.waiting, found.held_since, found.problems) == (7, None, [])  # one of them is the marker


@pytest.mark.slow
def test_all_partitions_with_lost_offsets_are_reported_together(stream: Stream) -> None:
    stream.waiting()
    for partition in (0, 2):
        stream.send([event(number) for number in range(4)], partition=partition)
    gone = [TopicPartition(stream.config.events_topic, partition, 3) for partition in (0, 2)]
    for deleted in stream.admin.delete_records(gone).values():
        deleted.result()

    problems = "\n".join(status.collect_status(stream.config).problems)

    for partition in (0, 2):
        assert f"{stream.config.events_topic}[{partition}] no longer holds offsets 0..2" in problems
    with pytest.raises(RangeLostError) as lost:
        stream.materialize(stream.plan())
    for partition in (0, 2):
        assert f"--partition {partition} --to 3" in str(lost.value)


def test_a_login_without_rights_is_reported(stream: Stream, stack: Stack) -> None:
    login = f"nobody_{stream.config.kafka.group.rsplit('-', 1)[-1]}"
    with psycopg.connect(stack.owner_dsn, autocommit=True) as owner:
        owner.execute(sql.SQL("create role {} login password 'x'").format(sql.Identifier(login)))

    dsn = make_conninfo(stream.config.dsn, user=login, password="x")  # noqa: S106  of a login that this test creates
    found = status.collect_status(replace(stream.config, dsn=dsn))

    assert not found.answered
    assert any("PostgreSQL refuses" in problem and "permission denied" in problem for problem in found.problems)
    assert [each.end for each in found.partitions] == [0, 0, 0]
