"""A consumer that follows a topic returns each message once, whether or not brokers collect messages meanwhile."""

import time
from collections.abc import Iterator, Mapping

import pytest
from confluent_kafka import Message, TopicPartition

from churn_platform.kafka import topics
from churn_platform.kafka.following import FREQUENT, STILL_FREQUENT, WINDOW_SECONDS, FollowingConsumer
from churn_platform.kafka.messages import offset_of, partition_of
from churn_platform.kafka.reading import sort_messages
from churn_platform.kafka.retries import retry_on
from churn_platform.kafka.topics import LEADER_MOVING
from churn_platform.stream.topic_identity import CONFIRMED_SECONDS
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until


class Following:
    """A following consumer at the beginning of the stream's topic, and what it has returned."""

    def __init__(self, stream: Stream, consumer: FollowingConsumer) -> None:
        self._topic = topics.describe(stream.admin, stream.config.events_topic)
        self._now = 0.0
        self.consumer = consumer
        self.positions = dict.fromkeys(self._topic.partitions, 0)
        self.read: list[tuple[int, int]] = []
        retry_on(LEADER_MOVING, seconds=30)(lambda: consumer.warm_up(self._topic))  # the topic is new
        consumer.adapt(self._topic.name, self.positions, now=self._now)  # the first window begins
        consumer.current.assign(topics_at(self._topic.name, self.positions))

    def arrive(self, times: int) -> None:
        """Let messages arrive so often within a window, and the next window begin."""
        for _ in range(times):
            self.consumer.count_arrival()
        self._now += WINDOW_SECONDS
        self.consumer.adapt(self._topic.name, self.positions, now=self._now)

    def read_until(self, count: int) -> None:
        """Read until this many messages were returned in all."""

        def is_read() -> bool:
            messages: list[Message] = []
            sort_messages(self.consumer.current.consume(10, 0.1), messages, {})
            for message in messages:
                self.positions[partition_of(message)] = offset_of(message) + 1
                self.read.append((partition_of(message), offset_of(message)))
            return len(self.read) >= count

        wait_until(is_read)


def topics_at(topic: str, positions: Mapping[int, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for partition, offset in positions.items()]


@pytest.fixture
def following(stream: Stream) -> Iterator[Following]:
    consumer = FollowingConsumer(stream.config.kafka, collect_seconds=0.03)
    try:
        yield Following(stream, consumer)
    finally:
        consumer.close()


def test_brokers_collect_messages_once_they_are_frequent_and_until_they_are_rare(following: Following) -> None:
    collects = []
    for times in (0, FREQUENT - 1, FREQUENT, STILL_FREQUENT, STILL_FREQUENT - 1):
        following.arrive(times)
        collects.append(following.consumer.collects)

    assert collects == [False, False, True, True, False]


def test_each_message_is_returned_once_although_the_consumer_changes(stream: Stream, following: Following) -> None:
    stream.send([event(number) for number in range(9)])
    following.read_until(9)
    stream.send([event(number) for number in range(9)])
    following.arrive(FREQUENT)  # those of the second group may already wait in the consumer that is left
    following.read_until(18)
    following.arrive(0)
    stream.send([event(number) for number in range(9)])
    following.read_until(27)

    assert sorted(following.read) == [(partition, offset) for partition in range(3) for offset in range(9)]


def test_a_single_message_is_returned_while_brokers_collect(stream: Stream, following: Following) -> None:
    following.arrive(FREQUENT)
    stream.send([event()], partition=1)

    following.read_until(1)

    assert following.read == [(1, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("times", [0, FREQUENT], ids=["at once", "collected"])
def test_nothing_of_a_recreated_topic_is_returned_while_the_former_one_counts_as_confirmed(
    stream: Stream, following: Following, times: int
) -> None:
    following.arrive(times)
    stream.send([event(number) for number in range(3)], partition=0)
    following.read_until(3)
    began = time.monotonic()
    stream.recreate_topic()
    # Beyond the position of the former topic, so that a consumer which continues there finds some.
    stream.send([event(number) for number in range(20)], partition=0)
    following.read_until(4)

    assert time.monotonic() - began > CONFIRMED_SECONDS
