"""Following a topic all day, at little cost: when messages are read one by one, and when brokers collect them."""

import math
from collections.abc import Mapping
from typing import Final

from confluent_kafka import TopicPartition

from churn_platform.kafka.clients import ERROR_HISTORY_SECONDS, DiagnosticConsumer
from churn_platform.kafka.config import KafkaConfig
from churn_platform.kafka.reading import make_consumer, watermarks
from churn_platform.kafka.topics import Topic

# A broker without messages answers a waiting request after this long. It costs about a millisecond of CPU time.
IDLE_MILLISECONDS: Final = 250
# Brokers do not wait for more messages than this. A backlog is much larger, so it is read without waiting.
COLLECTED_BYTES: Final = 1_000_000
# How often per second messages have to arrive for brokers to collect them, and to keep collecting them.
FREQUENT: Final = 10
STILL_FREQUENT: Final = 5
WINDOW_SECONDS: Final = 1.0


class FollowingConsumer:
    """Reads messages at once while they are rare, and in groups that brokers collect while they are frequent.

    A consumer that reads at once asks a broker for more as soon as it has an answer. With hundreds of messages a second
    that is hundreds of requests, each of which costs the broker half a millisecond of CPU time. How long brokers wait
    is fixed when a consumer is created, so there are two of them, and one is in use.
    """

    def __init__(self, kafka: KafkaConfig, *, collect_seconds: float) -> None:
        """Create both consumers. The one that reads at once is in use.

        Args:
            kafka: the brokers.
            collect_seconds: how long brokers collect messages.
        """
        self._at_once = make_consumer(kafka, wait_milliseconds=IDLE_MILLISECONDS)
        self._collecting = make_consumer(
            kafka, wait_milliseconds=max(1, round(collect_seconds * 1000)), least_bytes=COLLECTED_BYTES
        )
        self.current: DiagnosticConsumer = self._at_once
        self._arrivals = 0
        self._window_began = 0.0
        self._assigned_at = -math.inf

    @property
    def undisturbed_since(self) -> float:
        """Since when the consumer in use has read without a break, in seconds of time.monotonic().

        That is when it came into use. After an error it is disturbed for a while, and this time is in the future: its
        connections may break again, and librdkafka does not report the same error twice in a row.
        """
        return max(self._assigned_at, self.current.errors.latest() + ERROR_HISTORY_SECONDS)

    @property
    def collects(self) -> bool:
        """Whether brokers collect messages at present."""
        return self.current is self._collecting

    def warm_up(self, topic: Topic) -> None:
        """Find the brokers of the topic's partitions, before there is something to read."""
        for consumer in (self._at_once, self._collecting):
            for partition in topic.partitions:
                watermarks(consumer, topic.name, partition)

    def count_arrival(self) -> None:
        """Count messages that arrived together."""
        self._arrivals += 1

    def adapt(self, topic: str, positions: Mapping[int, int], *, now: float) -> None:
        """Change to the other consumer if messages have become frequent, or rare.

        Args:
            topic: name of the topic.
            positions: next offset to read, by Kafka partition. Nothing that the consumer returned is after them.
            now: seconds of time.monotonic().
        """
        if now - self._window_began < WINDOW_SECONDS:
            return
        frequent = self._arrivals >= (STILL_FREQUENT if self.collects else FREQUENT)
        self._arrivals, self._window_began = 0, now
        if frequent != self.collects:
            self.current.unassign()
            self.current = self._collecting if frequent else self._at_once
            self._assigned_at = now
            self.current.assign([TopicPartition(topic, partition, offset) for partition, offset in positions.items()])

    def close(self) -> None:
        """Disconnect."""
        self._at_once.close()
        self._collecting.close()
