"""The gatherer notices a consumer that has stopped reading."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import TopicPartition

from churn_platform.database import churn_predictions
from churn_platform.database.erased_customers import NOBODY
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import ReadingStalledError
from churn_platform.kafka.following import FollowingConsumer
from churn_platform.lanes import WHOLE
from churn_platform.positions.truncation import Resumed
from churn_platform.stream.gatherer import Gatherer
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.takeover import Takeover
from churn_platform.stream.topic_identity import TopicIdentity
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until


class Reading:
    """A gatherer of the stream's topic from the beginning, its consumer, and its clock."""

    def __init__(self, stream: Stream, consumer: FollowingConsumer) -> None:
        self.now = 0.0
        self.consumer = consumer
        topic = topics.describe(stream.admin, stream.config.events_topic)
        positions = dict.fromkeys(topic.partitions, 0)
        self.assigned = [TopicPartition(topic.name, partition, 0) for partition in topic.partitions]
        consumer.current.assign(self.assigned)
        key = stream.plan()
        run = RunContext(config=stream.config, batch=key, run_id="run", log=lambda _: None, lane=WHOLE)
        self._seconds = run.limits.stalled_seconds
        self.gatherer = Gatherer(
            run,
            consumer,
            TopicIdentity(stream.admin, topic),
            Takeover(
                topic=topic,
                own=topic,
                batch=stream.batch(key),
                positions=positions,
                last_records={},
                resumed=Resumed(),
                row_type=churn_predictions.row_type(stream.connection),
                paused=False,
                erased=NOBODY,
            ),
            last_stable_offsets=lambda: topics.list_offsets(stream.admin, topic, topics.LATEST),
            writer_is_idle=lambda: True,
            monotonic=lambda: self.now,
        )

    def read(self, count: int) -> None:
        """Read until this many messages were returned."""
        found = []

        def is_read() -> bool:
            messages = self.gatherer.gather(count)
            self.gatherer.advance(messages)
            found.extend(messages)
            return len(found) >= count

        wait_until(is_read)

    def check_later(self) -> None:
        """Check twice, so far apart that a consumer without progress has stalled."""
        self.gatherer.require_reading()
        self.now += self._seconds
        self.gatherer.require_reading()


@contextmanager
def reading(stream: Stream) -> Iterator[Reading]:
    consumer = FollowingConsumer(stream.config.kafka, collect_seconds=stream.config.linger)
    try:
        yield Reading(stream, consumer)
    finally:
        consumer.close()


@pytest.fixture
def reader(stream: Stream) -> Iterator[Reading]:
    stream.send([event(number) for number in range(6)])
    with reading(stream) as found:
        yield found


def test_a_consumer_that_has_read_everything_has_not_stalled(reader: Reading) -> None:
    reader.read(6)

    reader.check_later()


def test_a_consumer_that_returns_nothing_although_the_topic_holds_more_is_named(
    reader: Reading, stream: Stream
) -> None:
    reader.read(6)
    reader.consumer.current.pause(reader.assigned)
    stream.send([event(7)], partition=1)

    with pytest.raises(ReadingStalledError, match=r"Nothing was read from .*\[1\] for 15 s. The position is 2, .* 3\."):
        reader.check_later()


def test_a_consumer_that_reads_on_has_not_stalled(reader: Reading, stream: Stream) -> None:
    reader.read(6)
    reader.consumer.current.pause(reader.assigned)
    stream.send([event(7)], partition=1)
    reader.gatherer.require_reading()
    reader.consumer.current.resume(reader.assigned)
    reader.read(1)

    reader.check_later()
