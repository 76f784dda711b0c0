"""How the stream stands, also when there is not much to look at."""

import threading
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
from confluent_kafka import TopicPartition
from psycopg.conninfo import make_conninfo

from churn_platform.settings import settings
from churn_platform.storage import ledger
from churn_platform.streaming import status, topics
from churn_platform_tests.streaming.stream import Stream, event
from churn_platform_tests.waiting import wait_until


def test_at_rest_it_says_what_was_done(stream: Stream) -> None:
    stream.send([*(event(number) for number in range(20)), b"bad"])
    batch = stream.stream()

    found = status.look(stream.config)

    assert (found.waiting, found.unpublished, found.events_per_second) == (0, 0, 0.0)
    assert (found.live_run, found.standbys, found.lock_holder, found.paused_since) == (None, [], None, None)
    assert found.latest_batch is not None
    assert (found.latest_batch.batch, found.latest_batch.state, found.latest_batch.events) == (
        batch.batch,
        "closed",
        21,
    )
    assert found.dead_letters == status.Letters(today=1, unresolved=1, retried=0)
    assert (found.model_version, found.problems) == (1, [])


def test_what_waits_is_counted_by_partition(stream: Stream) -> None:
    stream.waiting()
    stream.send([event(number) for number in range(4)], partition=1)

    found = status.look(stream.config)

    assert [(each.position, each.end, each.waiting) for each in found.partitions] == [(0, 0, 0), (0, 4, 4), (0, 0, 0)]
    assert found.waiting == 4


def test_a_live_run_its_standby_and_its_rate_are_seen(stream: Stream) -> None:
    live, standby = stream.plan(), stream.plan()
    first = threading.Thread(target=stream.materialize, args=(live,), kwargs={"idle_seconds": 5})
    first.start()
    wait_until(lambda: ledger.lock_sessions(stream.connection, stream.config.events_topic)[0])
    second = threading.Thread(target=stream.materialize, args=(standby,))
    second.start()
    wait_until(lambda: ledger.lock_sessions(stream.connection, stream.config.events_topic)[1])
    stopped = threading.Event()

    def feed() -> None:
        while not stopped.is_set():
            stream.send([event(number) for number in range(50)])

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        wait_until(lambda: stream.batch(live).events > 0)
        found = status.look(stream.config)
    finally:
        stopped.set()
        feeding.join()
        first.join()
        second.join()

    assert found.live_run == f"run of {live}"
    assert found.standbys == [f"run of {standby}"]
    assert found.events_per_second is not None
    assert found.events_per_second > 0


def test_a_lock_that_no_run_holds_is_named(stream: Stream) -> None:
    with psycopg.connect(stream.config.dsn, autocommit=True, application_name="somebody") as holder:
        ledger.lock_stream(holder, stream.config.events_topic)

        found = status.look(stream.config)

    assert (found.live_run, found.lock_holder) == (None, "somebody")


def test_a_pause_is_seen_with_its_beginning(stream: Stream) -> None:
    ledger.pause(stream.connection, stream.config.events_topic)

    found = status.look(stream.config)

    assert found.paused_since is not None
    assert str(found.as_dict()["paused_since"]).startswith(f"{found.paused_since.astimezone(UTC):%Y-%m-%dT%H:%M:%S}")


def test_letters_of_yesterday_are_unresolved_but_not_of_today(stream: Stream) -> None:
    stream.send([b"bad", b"worse"])
    stream.stream()
    stream.connection.execute("update dead_letter_events set received_at = now() - interval '1 day'")
    stream.connection.execute(
        "update dead_letter_events set retry_event_id = gen_random_uuid() where kafka_partition = 0"
    )

    assert status.look(stream.config).dead_letters == status.Letters(today=0, unresolved=2, retried=1)


def test_without_topic_and_champion_it_says_what_is_missing(stream: Stream) -> None:
    stream.connection.execute("update model_versions set retired_at = now()")

    found = status.look(replace(stream.config, events_topic="no-such-topic"))

    assert found.partitions == []
    assert (found.waiting, found.unpublished, found.model_version, found.latest_batch) == (None, None, None, None)
    assert any("champion_model" in problem for problem in found.problems)
    assert any("'no-such-topic' does not exist" in problem for problem in found.problems)


def test_before_the_first_look_of_the_sensor_no_position_is_made_up(stream: Stream) -> None:
    found = status.look(stream.config)

    assert [each.position for each in found.partitions] == [None, None, None]
    assert found.waiting is None
    assert (
        ledger.positions_of(stream.connection, topics.describe(stream.admin, stream.config.events_topic).topic_id) == {}
    )


def test_a_topic_read_from_its_end_has_nothing_to_publish(stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    described = topics.describe(stream.admin, stream.config.events_topic)
    topics.register(stream.connection, stream.admin, described, "latest")

    assert status.look(stream.config).unpublished == 0


def test_lost_offsets_are_a_problem_with_its_remedy(stream: Stream) -> None:
    stream.waiting()
    stream.send([event(number) for number in range(9)], partition=0)
    for future in stream.admin.delete_records([TopicPartition(stream.config.events_topic, 0, 5)]).values():
        future.result()

    found = status.look(stream.config)

    assert [problem for problem in found.problems if "churn stream reset" in problem] == found.problems != []
    assert found.waiting == 9


def test_a_database_that_does_not_answer_leaves_what_kafka_says(stream: Stream) -> None:
    found = status.look(replace(stream.config, dsn=make_conninfo(stream.config.dsn, port="1")))

    assert [problem.partition(":")[0] for problem in found.problems] == ["PostgreSQL does not answer"]
    assert found.events_per_second is None
    assert len(found.partitions) == 3


def test_brokers_that_do_not_answer_leave_what_the_ledger_says(stream: Stream) -> None:
    found = status.look(replace(stream.config, kafka={**stream.config.kafka, "bootstrap.servers": "127.0.0.1:1"}))

    assert [problem.partition(":")[0] for problem in found.problems] == ["Kafka does not answer"]
    assert found.model_version == 1


def test_a_database_without_the_schema_is_told_from_one_that_does_not_answer(stream: Stream) -> None:
    found = status.look(replace(stream.config, dsn=make_conninfo(settings().postgres_dsn, dbname="postgres")))

    assert any("churn db upgrade" in problem for problem in found.problems)


def test_as_json_moments_are_text(stream: Stream) -> None:
    stream.send([event(1)])
    stream.stream()

    plain = status.look(stream.config).as_dict()

    batch = plain["latest_batch"]
    assert isinstance(batch, dict)
    assert datetime.fromisoformat(batch["last_commit"]).tzinfo is not None
    assert (plain["waiting"], plain["unpublished"]) == (0, 0)
