"""Reading from Kafka: the consumer's settings, its errors, and exact offset ranges."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from churn_platform.kafka import clients, topics
from churn_platform.kafka.clients import DiagnosticConsumer, translate_kafka_errors
from churn_platform.kafka.config import KafkaConfig
from churn_platform.kafka.exceptions import RangeLostError
from churn_platform.kafka.messages import KNOWN_MILLISECONDS, UNIX_EPOCH, offset_of, partition_of
from churn_platform.kafka.topics import Topic

WATERMARK_SECONDS: Final = 10
# Longest time without a message while a range is read that the brokers are known to hold.
RANGE_TIMEOUT_SECONDS: Final = 60
# Longest wait for the first message that an open transaction holds back.
FIRST_MESSAGE_SECONDS: Final = 5
# consume() returns when it has the requested number of messages, or after this long. Reading the end of a range takes
# this long, so it is short.
POLL_SECONDS: Final = 0.05
CHUNK_MESSAGES: Final = 10_000
# A consumer that is refused messages, because their topic was deleted for example, asks again after this long.
REFUSED_SECONDS: Final = 0.5


def make_consumer(
    kafka: KafkaConfig, *, isolation: str = "read_committed", wait_milliseconds: int = 10, least_bytes: int = 1
) -> DiagnosticConsumer:
    """Create a consumer to which offsets are assigned. It fails at lost offsets and reports the end of a partition.

    Its group is only used to read the published offsets. It does not join the group and commits nothing automatically.

    Args:
        kafka: the brokers.
        isolation: librdkafka's `isolation.level`.
        wait_milliseconds: how long a broker waits for `least_bytes` before it answers a request for messages. The
            consumer learns that it is at the end of a partition from an answer without messages.
        least_bytes: size of the messages that a broker answers with at once.
    """
    return clients.consumer(
        {
            **kafka.client,
            "group.id": kafka.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 2,  # the default of 1000 turns 0.3 s of reading into 2.2 s
            "fetch.error.backoff.ms": round(REFUSED_SECONDS * 1000),
            "fetch.wait.max.ms": wait_milliseconds,
            "fetch.min.bytes": least_bytes,
            "fetch.max.bytes": 16 * 1024 * 1024,
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 64 * 1024,
        }
    )


def sort_messages(polled: Sequence[Message], into: list[Message], ends: dict[int, int]) -> None:
    """Append the polled messages to `into`, and record the offsets of partition ends in `ends`.

    Raises:
        RangeLostError: Kafka no longer holds the next offset.
        KafkaException: another error of the consumer.
    """
    failed = [message for message in polled if message.error() is not None]
    if not failed:
        into.extend(polled)
        return
    for message in polled:
        error = message.error()
        if error is None:
            into.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            ends[partition_of(message)] = offset_of(message)
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise RangeLostError(f"Kafka no longer holds an offset that has to be read: {error.str()}")
        else:
            raise KafkaException(error)


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Return the oldest offset, and the one after the newest that a read_committed reader sees."""
    with translate_kafka_errors(consumer):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), WATERMARK_SECONDS)
    return low, high


def first_times(kafka: KafkaConfig, topic: Topic, offsets: Mapping[int, int]) -> dict[int, datetime]:
    """Return Kafka's timestamps of the first messages from these offsets on, by Kafka partition, committed or not.

    A partition is left out when its message has no timestamp, or does not arrive within FIRST_MESSAGE_SECONDS.
    """
    consumer = make_consumer(kafka, isolation="read_uncommitted")
    found: dict[int, datetime] = {}
    try:
        consumer.assign([TopicPartition(topic.name, partition, offset) for partition, offset in offsets.items()])
        deadline, left = time.monotonic() + FIRST_MESSAGE_SECONDS, set(offsets)
        while left and time.monotonic() < deadline:
            message = consumer.poll(POLL_SECONDS)
            if message is None or message.error() is not None or partition_of(message) not in left:
                continue
            left.discard(partition_of(message))
            kind, milliseconds = message.timestamp()
            if kind != TIMESTAMP_NOT_AVAILABLE and milliseconds in KNOWN_MILLISECONDS:
                found[partition_of(message)] = UNIX_EPOCH + timedelta(milliseconds=milliseconds)
    finally:
        consumer.close()
    return found


def require_ranges(kafka: KafkaConfig, topic: str, ranges: Mapping[int, tuple[int, int]]) -> None:
    """Make sure that Kafka holds all of these offset ranges [start, end), by Kafka partition.

    Raises:
        RangeLostError: it does not.
    """
    consumer = make_consumer(kafka)
    try:
        _require_held(consumer, topic, ranges)
    finally:
        consumer.close()


def _require_held(consumer: Consumer, topic: str, ranges: Mapping[int, tuple[int, int]]) -> None:
    lost = []
    for partition, (start, end) in ranges.items():
        low, high = watermarks(consumer, topic, partition)
        if low > start or high < end:
            lost.append(f"{topic}[{partition}] holds offsets {low}..{high - 1}, but {start}..{end - 1} are needed.")
    if lost:
        raise RangeLostError(
            f"{' '.join(lost)} Retention has deleted them, or the topic was truncated. Rows that were already "
            f"written are unchanged."
        )


def read_ranges(
    kafka: KafkaConfig, topic: str, ranges: Mapping[int, tuple[int, int]], *, chunk: int
) -> Generator[list[Message], None, None]:
    """Yield exactly the messages of offset ranges [start, end), by Kafka partition, in lists of about `chunk`.

    Raises:
        RangeLostError: Kafka no longer holds all of a range, or stopped delivering it.
    """
    consumer = make_consumer(kafka)
    try:
        _require_held(consumer, topic, ranges)
        consumer.assign([TopicPartition(topic, partition, start) for partition, (start, _) in ranges.items()])
        yield from _read_assigned(consumer, topic, {partition: end for partition, (_, end) in ranges.items()}, chunk)
    finally:
        consumer.close()


def _read_assigned(consumer: Consumer, topic: str, open_ends: dict[int, int], chunk: int) -> Iterator[list[Message]]:
    buffer: list[Message] = []
    last_message_at = time.monotonic()
    while open_ends:
        polled = consumer.consume(chunk, POLL_SECONDS)
        if polled:
            last_message_at = time.monotonic()
        elif time.monotonic() - last_message_at > RANGE_TIMEOUT_SECONDS:
            raise RangeLostError(
                f"{topic}: no message for {RANGE_TIMEOUT_SECONDS} s, while offsets up to {open_ends} were expected. "
                f"Are the brokers up?"
            )
        messages: list[Message] = []
        reached: dict[int, int] = {}
        with translate_kafka_errors(consumer):
            sort_messages(polled, messages, reached)
        for message in messages:
            partition, offset = partition_of(message), offset_of(message)
            if partition not in open_ends:
                continue
            if offset < open_ends[partition]:
                buffer.append(message)
            reached[partition] = max(reached.get(partition, 0), offset + 1)
        for partition, offset in reached.items():
            # A range may end in transaction markers, which are never delivered. Then the partition's end shows that
            # the range is read.
            if partition in open_ends and offset >= open_ends[partition]:
                del open_ends[partition]
        if len(buffer) >= chunk:
            yield buffer
            buffer = []
    if buffer:
        yield buffer


def read_all(kafka: KafkaConfig, topic: str, starts: Mapping[int, int] | None = None) -> Iterator[Message]:
    """Yield every message that a topic holds now, including transactions that were just committed.

    Args:
        kafka: the brokers.
        topic: name of the topic.
        starts: offsets to begin at, by Kafka partition; None: the oldest ones.
    """
    admin = clients.admin(kafka.client)
    described = topics.describe(admin, topic)
    begin = topics.list_offsets(admin, described, topics.EARLIEST) if starts is None else starts
    # A read_committed reader may see an earlier end for a moment, until the markers of a commit are written.
    ends = topics.list_offsets(admin, described, topics.LATEST, isolation=IsolationLevel.READ_UNCOMMITTED)
    consumer = make_consumer(kafka)
    try:
        consumer.assign([TopicPartition(topic, partition, start) for partition, start in begin.items()])
        for messages in _read_assigned(consumer, topic, {p: ends[p] for p in begin}, chunk=CHUNK_MESSAGES):
            yield from messages
    finally:
        consumer.close()
