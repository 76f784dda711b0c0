"""Whether a topic's log is still the one that was read.

A log can lose its end through an unclean leader election, a broker restored from a backup, or a power failure before
the page cache was written. When it has grown again, the old offsets hold other records, and a consumer that continues
at its position skips them without an error. So the ledger stores the last record read beside each position, and this
module compares it with the log. Reading messages is in kafka/reading.py.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from churn_platform.database.stream_positions import LastRecord
from churn_platform.kafka.clients import translate_kafka_errors
from churn_platform.kafka.config import KafkaConfig
from churn_platform.kafka.exceptions import LogTruncatedError, RangeLostError
from churn_platform.kafka.messages import offset_of, partition_of
from churn_platform.kafka.reading import make_consumer, sort_messages, watermarks

# Brokers that hold the record deliver it within milliseconds. One that has just become leader may need seconds.
COMPARISON_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05
CONSUMED_AT_ONCE: Final = 1_000
# Where no last record is known, it is searched for among this many offsets before the position. Transaction markers and
# aborted records take up offsets, so the record may lie further back. Then there is nothing to compare with.
SEARCHED_OFFSETS: Final = 100
DIGEST_BYTES: Final = 16
# The ledger has these offsets already, so other events at the same offsets cannot be read under the same topic id.
TRUNCATED_REMEDY: Final = (
    "Restore it, or delete it and create it again ('churn stream recreate-topic', for a topic that the platform "
    "created): another topic id is read from its beginning. Events sent since it was truncated have to be sent again."
)
RESET: Final = "churn stream reset"
REMEDY: Final = (
    "Restore the log, or accept that these records are never read with '{reset} --topic {topic} --partition "
    "{partition} --to {position}'. To read them nevertheless, create the topic again and send its events: "
    "another topic id is read from its beginning, and known event ids count as duplicates."
)


@dataclass(frozen=True)
class Resumed:
    """What a consumer read while the log was compared.

    Attributes:
        messages: messages from the positions on.
        ends: partition ends that the consumer has reported, and will not report again.
        found: last records of positions that had none, by Kafka partition.
    """

    messages: list[Message] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    found: dict[int, LastRecord] = field(default_factory=dict)


def record_of(message: Message) -> LastRecord:
    """Return what identifies a record: its offset, a digest of its timestamp, key and value, and its leader epoch."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in (repr(message.timestamp()).encode(), message.key(), message.value()):
        data = part.encode() if isinstance(part, str) else part
        # The length keeps the parts apart, and distinguishes a missing value from an empty one.
        digest.update(b"-" if data is None else b"%d:" % len(data))
        digest.update(data or b"")
    return LastRecord(offset_of(message), digest.digest(), message.leader_epoch())


def last_records(messages: Sequence[Message], partitions: int) -> dict[int, LastRecord]:
    """Return the last record of each Kafka partition that has one among the messages.

    Args:
        messages: those of each partition in the order of its offsets.
        partitions: how many partitions the topic has. When all are found, the search ends.
    """
    found: dict[int, LastRecord] = {}
    for message in reversed(messages):
        partition = partition_of(message)
        if partition not in found:
            found[partition] = record_of(message)
            if len(found) == partitions:
                break
    return found


def resume(
    consumer: Consumer,
    topic: str,
    positions: Mapping[int, int],
    known: Mapping[int, LastRecord],
    *,
    reset: str = RESET,
) -> Resumed:
    """Assign positions to a consumer, and compare the log with the last record read before each of them.

    Where retention has deleted that record, only transaction markers lie between the log's beginning and the position,
    so no event can have replaced another. A record that compaction has removed cannot be compared.

    Args:
        consumer: read_committed, reports partition ends.
        topic: name of the topic.
        positions: next offset to read, by Kafka partition.
        known: last record read before the position, by Kafka partition.
        reset: command that moves positions of this topic, for the remedy.

    Raises:
        LogTruncatedError: the log has another record there, or one between it and the position.
        RangeLostError: see check_positions().
        KafkaException: the brokers do not answer.
    """
    starts = _comparison_starts(check_positions(consumer, topic, positions), positions, known)
    consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
    unproven = {partition for partition, offset in starts.items() if offset < positions[partition]}
    resumed = Resumed()
    problems: dict[int, str] = {}
    deadline = time.monotonic() + COMPARISON_SECONDS
    while unproven:
        if time.monotonic() > deadline:
            waiting = ", ".join(f"{topic}[{partition}]" for partition in sorted(unproven))
            problem = f"no record of {waiting} before its position in {COMPARISON_SECONDS:.0f} s"
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, problem))
        polled: list[Message] = []
        with translate_kafka_errors(consumer):
            sort_messages(consumer.consume(CONSUMED_AT_ONCE, POLL_SECONDS), polled, resumed.ends)
        for message in polled:
            partition, offset = partition_of(message), offset_of(message)
            position, record = positions[partition], known.get(partition)
            if offset >= position:
                resumed.messages.append(message)
                unproven.discard(partition)
            elif record is None:
                resumed.found[partition] = record_of(message)
            elif offset == record.offset and record_of(message).digest == record.digest:
                if position == offset + 1:
                    unproven.discard(partition)
            else:
                remedy = REMEDY.format(reset=reset, topic=topic, partition=partition, position=position)
                problem = f"{_problem(topic, partition, position, record, offset)} {remedy}"
                problems.setdefault(partition, problem)
                unproven.discard(partition)
        for partition, end in resumed.ends.items():
            if end < positions[partition]:
                check_positions(consumer, topic, {partition: positions[partition]})
            unproven.discard(partition)
    if problems:
        raise LogTruncatedError("\n".join(problems[partition] for partition in sorted(problems)))
    return resumed


def _comparison_starts(
    oldest: Mapping[int, int], positions: Mapping[int, int], known: Mapping[int, LastRecord]
) -> dict[int, int]:
    """Return where reading has to begin to find the record before each position, by Kafka partition."""
    starts: dict[int, int] = {}
    for partition, position in positions.items():
        record = known.get(partition)
        if record is None:
            starts[partition] = max(oldest[partition], position - SEARCHED_OFFSETS)
        else:
            starts[partition] = record.offset if record.offset >= oldest[partition] else position
    return starts


def check_positions(consumer: Consumer, topic: str, positions: Mapping[int, int]) -> dict[int, int]:
    """Make sure that Kafka still holds the next offsets, and return its oldest offset, by Kafka partition.

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


def is_truncated(
    kafka: KafkaConfig, topic: str, partition: int, position: int, known: Mapping[int, LastRecord]
) -> bool:
    """Return whether the log of a partition reaches its position but is not the one that was read.

    Args: see resume().
    """
    consumer = make_consumer(kafka)
    try:
        resume(consumer, topic, {partition: position}, known)
    except LogTruncatedError:
        return True
    except RangeLostError:
        return False  # retention has deleted the next offsets
    finally:
        consumer.close()
    return False


def _problem(topic: str, partition: int, position: int, record: LastRecord, offset: int) -> str:
    cause = (
        f"offset {offset} holds another record than the one that was read"
        if offset == record.offset
        else f"offset {offset} holds a record that was never read; the last one read was {record.offset}"
    )
    return (
        f"The log of {topic}[{partition}] was truncated below the position {position} and has grown past it: {cause}."
    )
