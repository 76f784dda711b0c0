"""Two environments on one database or one topic: whoever comes second is told whom it met, and where."""

from dataclasses import replace

import psycopg
import pytest
from confluent_kafka import TopicPartition

from churn_platform.local.stack import Stack
from churn_platform.storage import environments, ledger
from churn_platform.streaming.exceptions import NotAloneError
from churn_platform.streaming.neighbours import require_alone
from churn_platform.streaming.reader import make_consumer, markers
from churn_platform.streaming.topics import describe
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.streaming.stream import Stream, event

OTHER = "another machine:/srv/churn"


def test_an_environment_is_no_neighbour_of_itself(stream: Stream) -> None:
    environments.note(stream.connection, stream.config.environment)
    stream.send([event(number) for number in range(9)])
    stream.stream()

    require_alone(stream.connection, stream.admin, stream.config)


def test_one_on_the_same_database_is_named(stream: Stream) -> None:
    environments.note(stream.connection, OTHER)

    with pytest.raises(NotAloneError, match=f"'{OTHER}' works on the database 'test_"):
        require_alone(stream.connection, stream.admin, stream.config)


def test_one_that_has_been_silent_for_long_is_forgotten(stream: Stream) -> None:
    environments.note(stream.connection, OTHER)
    stream.connection.execute("update environments set seen = now() - interval '2 minutes'")

    require_alone(stream.connection, stream.admin, stream.config)


def test_a_live_run_without_a_sensor_is_named_by_its_session(stream: Stream) -> None:
    with psycopg.connect(stream.config.dsn, application_name=ledger.session_name("run-1")) as holder:
        ledger.lock_stream(holder, stream.config.events_topic)

        with pytest.raises(NotAloneError, match="the session 'churn stream run-1' streams 'events-"):
            require_alone(stream.connection, stream.admin, stream.config)


def test_one_with_another_database_on_the_same_topic_is_named(
    stream: Stream, stack: Stack, template_database: str
) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream(environment=OTHER)
    ours = copy_database(stack, template_database)

    with psycopg.connect(ours, autocommit=True) as connection, pytest.raises(NotAloneError, match=f"'{OTHER}' publish"):
        require_alone(connection, stream.admin, replace(stream.config, dsn=ours))


def test_a_marker_of_an_earlier_version_still_holds(stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    topic = describe(stream.admin, stream.config.events_topic)
    consumer = make_consumer(stream.config)
    try:
        written = markers(consumer, topic, seconds=10)
        unsigned = [TopicPartition(topic.name, partition, end, topic.topic_id) for partition, end in written.items()]
        consumer.commit(offsets=unsigned, asynchronous=False)
        again = markers(consumer, topic, seconds=10)
    finally:
        consumer.close()

    assert again == written
    require_alone(stream.connection, stream.admin, replace(stream.config, environment=OTHER))
