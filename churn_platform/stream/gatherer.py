"""Gathering: which messages the next commit contains, and the positions after them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message

from churn_platform.database.stream_positions import LastRecord
from churn_platform.kafka.exceptions import RangeLostError, ReadingStalledError
from churn_platform.kafka.following import FollowingConsumer
from churn_platform.kafka.reading import make_consumer, sort_messages
from churn_platform.positions.truncation import check_positions, last_records, resume
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.takeover import Takeover
from churn_platform.stream.topic_identity import TopicIdentity

# A message ends the wait at once. A longer one would delay the end of a run that is to end.
POLL_SECONDS: Final = 0.25
SETTLE_SECONDS: Final = 0.001
# Part of the linger that is left while brokers collect messages. They have waited for a whole linger, so with one
# broker nothing is left to wait for. With several, which answer at different times, this limits the commits.
COLLECTED_LINGER: Final = 0.7
CONSUMED_AT_ONCE: Final = 1_000

# Errors that a consumer reports when its topic is deleted.
TOPIC_DELETED: Final = frozenset(
    {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
    }
)


@dataclass(frozen=True)
class Step:
    """How far a commit moves the positions.

    Attributes:
        ends: next offset to read after the commit, by Kafka partition.
        last_records: last record of the commit, by Kafka partition; only for partitions with events in the commit.
    """

    ends: Mapping[int, int]
    last_records: Mapping[int, LastRecord]


class Gatherer:
    """Reads the events topic from the positions of the takeover on."""

    def __init__(
        self,
        run: RunContext,
        consumer: FollowingConsumer,
        identity: TopicIdentity,
        takeover: Takeover,
        *,
        last_stable_offsets: Callable[[], Mapping[int, int]],
        writer_is_idle: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at the positions of the takeover.

        Args:
            run: the run.
            consumer: assigned to the positions of the takeover.
            identity: checks that the topic is still the same.
            takeover: where the run continues.
            last_stable_offsets: asks the brokers how far each partition can be read.
            writer_is_idle: returns whether the previous commit has been written, so that the next one need not wait.
            monotonic: the clock.
        """
        self._config = run.config
        self._linger = run.linger
        self._commit_bytes = run.limits.commit_bytes
        self._consumer = consumer
        self._identity = identity
        self._topic = takeover.own
        self._next_offsets = dict(takeover.positions)
        self._last_records = dict(takeover.last_records)
        self._resumed = takeover.resumed
        self._last_stable_offsets = last_stable_offsets
        self._stalled_seconds = run.limits.stalled_seconds
        self._behind: dict[int, tuple[int, float]] = {}
        self._writer_is_idle = writer_is_idle
        self._monotonic = monotonic
        self._partition_ends: dict[int, int] = {}
        self._gathered_at = math.inf  # when the events of the last commit were complete; there is none yet

    @property
    def undisturbed_since(self) -> float:
        """See FollowingConsumer."""
        return self._consumer.undisturbed_since

    def is_at_ends(self) -> bool:
        """Return whether every partition is read to its end, so that there is no backlog."""
        return all(self._partition_ends.get(p, -1) >= offset for p, offset in self._next_offsets.items())

    def require_reading(self) -> None:
        """Make sure that the consumer returns what the topic holds. Call it when the consumer has returned all it had.

        A consumer may never fetch again, for example after its topic was recreated while its metadata was stale.

        Raises:
            ReadingStalledError: a partition holds more, and nothing was read from it for `stalled_seconds`.
        """
        now = self._monotonic()
        reached = {p: max(offset, self._partition_ends.get(p, 0)) for p, offset in self._next_offsets.items()}
        ends = self._last_stable_offsets()
        behind = {}
        for partition, offset in reached.items():
            if ends.get(partition, 0) > offset:
                before, since = self._behind.get(partition, (offset, now))
                behind[partition] = (offset, since if before == offset else now)
        self._behind = behind
        for partition, (offset, since) in behind.items():
            if now - since >= self._stalled_seconds:
                raise ReadingStalledError(
                    f"Nothing was read from {self._topic.name}[{partition}] for {now - since:.0f} s. The position is "
                    f"{offset}, the last stable offset {ends[partition]}. A new consumer continues there."
                )

    def gather(self, most: int) -> list[Message]:
        """Return messages, gathered until the linger is over and for as long as the previous commit is being written.

        Raises:
            TopicChangedError: the topic is not the one whose reading began.
            RangeLostError: Kafka no longer holds the next offset, or its log is not the one that was read.
        """
        if messages := self._take_resumed(most):
            return messages
        try:
            return self._consume(most)
        except RangeLostError:
            # These checks name the cause more precisely than the consumer does.
            self._identity.check()
            check_positions(self._consumer.current, self._topic.name, self._next_offsets)
            self._compare_log({partition: record.offset + 1 for partition, record in self._last_records.items()})
            raise
        except KafkaException as error:
            if error.args[0].code() in TOPIC_DELETED:
                self._identity.check()
            raise

    def advance(self, messages: Sequence[Message]) -> Step:
        """Move the positions past these messages, which gather() returned.

        Raises:
            LogTruncatedError: another broker leads a partition now, and its log is not the one that was read.
        """
        records = last_records(messages, len(self._topic.partitions))
        known = self._last_records
        elected = {p for p, record in records.items() if p in known and known[p].leader_epoch != record.leader_epoch}
        if elected:
            self._compare_log({partition: self._next_offsets[partition] for partition in elected})
        self._last_records.update(records)
        self._next_offsets.update({partition: record.offset + 1 for partition, record in records.items()})
        return Step(dict(self._next_offsets), records)

    def skip_transaction_markers(self) -> Step | None:
        """Move the positions over offsets at the partitions' ends that hold no events; None where there are none.

        Otherwise they would count as lag forever.

        Raises:
            TopicChangedError: the topic is not the one whose reading began.
        """
        ahead = {p: end for p, end in self._partition_ends.items() if end > self._next_offsets[p]}
        if not ahead:
            return None
        self._identity.check()
        self._next_offsets.update(ahead)
        return Step(dict(self._next_offsets), {})

    def _take_resumed(self, most: int) -> list[Message]:
        """Return events that arrived while the log was compared with the last records."""
        resumed = self._resumed
        messages = resumed.messages[:most]
        del resumed.messages[:most]
        if not resumed.messages:
            # Not earlier: if a partition's end were known before its last events are returned, they would be skipped.
            self._partition_ends.update(resumed.ends)
            resumed.ends.clear()
        if messages:
            self._gathered_at = self._monotonic()
        return messages

    def _consume(self, most: int) -> list[Message]:
        messages: list[Message] = []
        self._consumer.adapt(self._topic.name, self._next_offsets, now=self._monotonic())
        consumer = self._consumer.current
        message = consumer.poll(POLL_SECONDS)
        if message is None:
            return messages
        sort_messages([message], messages, self._partition_ends)
        if not messages:
            return messages
        self._consumer.count_arrival()
        # The linger begins with the previous commit; for the first commit, with its first event. By its end,
        # most of the events that were sent together have arrived. Those of other partitions arrive a moment later.
        now = self._monotonic()
        linger = self._linger * (COLLECTED_LINGER if self._consumer.collects else 1)
        deadline, size, counted = max(min(self._gathered_at, now) + linger, now + SETTLE_SECONDS), 0, 0
        while len(messages) < most:
            size += sum(map(len, messages[counted:]))
            counted = len(messages)
            if size >= self._commit_bytes:
                break
            at_once = min(most - len(messages), CONSUMED_AT_ONCE)
            remaining = deadline - self._monotonic()
            if remaining <= 0 and self._writer_is_idle():
                polled = consumer.consume(at_once, 0)
                sort_messages(polled, messages, self._partition_ends)
                if len(polled) < at_once:
                    break
            else:
                wait = min(max(remaining, 0.002), 0.02)
                sort_messages(consumer.consume(at_once, wait), messages, self._partition_ends)
        self._gathered_at = self._monotonic()
        return messages

    def _compare_log(self, positions: Mapping[int, int]) -> None:
        """Compare the log with the last records, with a separate consumer, so that gathering is not disturbed.

        Raises:
            LogTruncatedError: the log is not the one that was read.
        """
        consumer = make_consumer(self._config.kafka)
        try:
            resume(consumer, self._topic.name, positions, self._last_records)
        finally:
            consumer.close()
