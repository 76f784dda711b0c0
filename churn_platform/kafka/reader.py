"""Reading of Kafka: the consumer's settings, its errors, and exact offset ranges."""

import time
from collections.abc import Iterator, Mapping, Sequence
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
from churn_platform.kafka.topics import Topic
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.events import KNOWN_MILLISECONDS, UNIX_EPOCH, Received
from churn_platform.stream.exceptions import BrokersUnreachableError, LogTruncatedError, RangeLostError

WATERMARK_SECONDS: Final = 10
# Longest silence while a range is read that the brokers are known to hold.
RANGE_SILENCE_SECONDS: Final = 60
# Longest wait for the first message that an open transaction holds back.
FIRST_SECONDS: Final = 5
# consume() waits for all it is asked for or for this long: short, or the end of every range costs it.
POLL_SECONDS: Final = 0.05
SCANNED_AT_ONCE: Final = 10_000
# Offsets that other events will bear cannot be read under the same topic id: they are in the ledger already.
TRUNCATED_REMEDY: Final = (
    "Restore it, or delete it and create it again ('churn stream recreate-topic', for a topic that the platform "
    "created): another topic id is read from its beginning. Events sent since it was truncated have to be sent again."
)
# A broker that has just started has no group coordinator for a moment; librdkafka hands that on instead of waiting.
COORDINATOR_MOVING: Final = frozenset(
    {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE}
)


def make_consumer(config: StreamConfig, *, isolation: str = "read_committed") -> DiagnosticConsumer:
    """A consumer that is assigned its offsets, stops at lost ones and reports the end of a partition.

    The group is only looked up for the published offsets; no membership, no automatic commit.
    """
    return clients.consumer(
        {
            **config.kafka,
            "group.id": config.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 2,  # the default of 1000 turns 0.3 s of reading into 2.2 s
            "fetch.wait.max.ms": 10,
            "fetch.max.bytes": 16 * 1024 * 1024,
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 64 * 1024,
        }
    )


def sort_messages(polled: Sequence[Message], into: list[Message], ends: dict[int, int]) -> None:
    """Put events into `into` and the offsets of partition ends into `ends`.

    Raises:
        RangeLostError: Kafka does not hold the next offset any more.
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


def partition_of(message: Received) -> int:
    """Kafka partition of a message that was read."""
    partition = message.partition()
    if partition is None:
        raise TypeError("A message that was read has a partition; this one has none.")
    return partition


def offset_of(message: Received) -> int:
    """Offset of a message that was read."""
    offset = message.offset()
    if offset is None:
        raise TypeError("A message that was read has an offset; this one has none.")
    return offset


def check_positions(consumer: Consumer, topic: str, positions: Mapping[int, int]) -> dict[int, int]:
    """Make sure that Kafka still holds what comes next, and return its oldest offset, by Kafka partition.

    Raises:
        RangeLostError: events were deleted before they were read.
        LogTruncatedError: the topic ends before the position.
    """
    oldest: dict[int, int] = {}
    lost: list[str] = []
    truncated = False
    for partition, position in positions.items():
        low, high = watermarks(consumer, topic, partition)
        if low > position:
            lost.append(
                f"{topic}[{partition}] no longer holds offsets {position}..{low - 1}: the broker's oldest is {low}. "
                f"They were deleted by retention before they were read. Accept the loss with "
                f"'churn stream reset --topic {topic} --partition {partition} --to {low}', or restore the topic."
            )
        if high < position:
            truncated = True
            lost.append(
                f"{topic}[{partition}] ends at offset {high}, but the ledger has read up to {position}: the topic was "
                f"truncated. {TRUNCATED_REMEDY}"
            )
        oldest[partition] = low
    if lost:
        raise (LogTruncatedError if truncated else RangeLostError)("\n".join(lost))
    return oldest


def marker_note(topic: Topic, environment: str) -> str:
    """What a marker says beside its offset: the topic's id, since one of its name may follow it, and whose it is.

    Args:
        environment: id of the environment that writes it.
    """
    return f"{topic.topic_id} {environment}"


def markers(consumer: Consumer, topic: Topic, *, seconds: float) -> dict[int, int]:
    """Position up to which predictions are published, by Kafka partition of the events topic; only those that say so.

    A marker that another topic of the same name has left is none.

    Args and errors: see marks().
    """
    return {partition: offset for partition, (offset, _) in marks(consumer, topic, seconds=seconds).items()}


def marks(consumer: Consumer, topic: Topic, *, seconds: float) -> dict[int, tuple[int, str]]:
    """The markers of a topic, each with the id of the environment that wrote it.

    Args:
        consumer: of the group that carries the markers.
        seconds: longest wait for an answer.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    asked = [TopicPartition(topic.name, partition) for partition in topic.partitions]
    deadline = time.monotonic() + seconds
    while True:
        try:
            with translate_kafka_errors(consumer):
                committed = consumer.committed(asked, max(deadline - time.monotonic(), POLL_SECONDS))
                _raise_first([found.error for found in committed])
        except KafkaException as error:
            if error.args[0].code() not in COORDINATOR_MOVING or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        except BrokersUnreachableError:
            _raise_refusal(consumer)
            raise
        else:
            notes = {found.partition: (found.metadata or "").partition(" ") for found in committed}
            return {
                found.partition: (found.offset, notes[found.partition][2])
                for found in committed
                if found.offset >= 0 and notes[found.partition][0] == topic.topic_id
            }


def _raise_refusal(consumer: Consumer) -> None:
    """Raise why the brokers refuse the consumer its group, if it is that what it waited for in vain.

    Raises:
        BrokerRefusedError: the user has no rights on the group.
    """
    if isinstance(consumer, DiagnosticConsumer):
        settings = dict(consumer.complaints.settings)
        refusal = clients.group_refusal(settings, str(settings.pop("group.id")))
        if refusal is not None:
            raise refusal


def _raise_first(errors: Sequence[KafkaError | None]) -> None:
    """Raise what the brokers say of a partition; librdkafka hands that back beside the offsets of the others."""
    for error in errors:
        if error is not None:
            raise KafkaException(error)


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Oldest offset, and the one after the newest that a read_committed reader sees."""
    with translate_kafka_errors(consumer):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), WATERMARK_SECONDS)
    return low, high


def first_times(config: StreamConfig, topic: Topic, offsets: Mapping[int, int]) -> dict[int, datetime]:
    """Kafka's times of the first messages from these offsets on, by Kafka partition, committed or not.

    A partition whose message has no time, or does not come within FIRST_SECONDS, is left out.
    """
    consumer = make_consumer(config, isolation="read_uncommitted")
    found: dict[int, datetime] = {}
    try:
        consumer.assign([TopicPartition(topic.name, partition, offset) for partition, offset in offsets.items()])
        deadline, left = time.monotonic() + FIRST_SECONDS, set(offsets)
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


def read_ranges(
    config: StreamConfig, topic: str, ranges: Mapping[int, tuple[int, int]], *, chunk: int
) -> Iterator[list[Message]]:
    """Exactly the events of offset ranges [start, end), by Kafka partition, in lists of about `chunk`.

    Raises:
        RangeLostError: Kafka does not hold all of a range any more, or stopped giving it.
    """
    consumer = make_consumer(config)
    try:
        lost = []
        for partition, (start, end) in ranges.items():
            low, high = watermarks(consumer, topic, partition)
            if low > start or high < end:
                lost.append(f"{topic}[{partition}] holds offsets {low}..{high - 1}, but {start}..{end - 1} are needed.")
        if lost:
            raise RangeLostError(
                f"{' '.join(lost)} Retention has deleted them, or the topic was truncated. What was read of them stays "
                f"as it is; 'churn stream reset' accepts the loss of offsets that were never read."
            )
        consumer.assign([TopicPartition(topic, partition, start) for partition, (start, _) in ranges.items()])
        yield from _read_assigned(consumer, topic, {partition: end for partition, (_, end) in ranges.items()}, chunk)
    finally:
        consumer.close()


def _read_assigned(consumer: Consumer, topic: str, open_ends: dict[int, int], chunk: int) -> Iterator[list[Message]]:
    buffer: list[Message] = []
    last_heard = time.monotonic()
    while open_ends:
        polled = consumer.consume(chunk, POLL_SECONDS)
        if polled:
            last_heard = time.monotonic()
        elif time.monotonic() - last_heard > RANGE_SILENCE_SECONDS:
            raise RangeLostError(
                f"{topic}: no event for {RANGE_SILENCE_SECONDS} s, while offsets up to {open_ends} were still to come. "
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
            # A range may end in transaction markers, which are never delivered: then the partition's end tells.
            if partition in open_ends and offset >= open_ends[partition]:
                del open_ends[partition]
        if len(buffer) >= chunk:
            yield buffer
            buffer = []
    if buffer:
        yield buffer


def read_all(config: StreamConfig, topic: str, starts: Mapping[int, int] | None = None) -> Iterator[Message]:
    """Every event that a topic holds now, transactions that were just committed included.

    Args:
        starts: offsets to begin at, by Kafka partition; None: all that there is.
    """
    admin = clients.admin(config.kafka)
    described = topics.describe(admin, topic)
    begin = topics.list_offsets(admin, described, topics.EARLIEST) if starts is None else starts
    # What a read_committed reader sees may end earlier for a moment, until the markers of a commit are written.
    ends = topics.list_offsets(admin, described, topics.LATEST, isolation=IsolationLevel.READ_UNCOMMITTED)
    consumer = make_consumer(config)
    try:
        consumer.assign([TopicPartition(topic, partition, start) for partition, start in begin.items()])
        for messages in _read_assigned(consumer, topic, {p: ends[p] for p in begin}, chunk=SCANNED_AT_ONCE):
            yield from messages
    finally:
        consumer.close()
