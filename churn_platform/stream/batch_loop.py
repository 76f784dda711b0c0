"""One hold of the stream's lock: events into one batch, commit by commit."""

import gc
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message

from churn_platform.database import environments, ledger
from churn_platform.database.bulk import Rows
from churn_platform.database.connections import connect
from churn_platform.database.exceptions import LedgerConflictError
from churn_platform.decoding.events import MICROSECONDS, DeadLetter, decode
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import RangeLostError, TopicChangedError, TopicMissingError
from churn_platform.kafka.reading import make_consumer, sort_messages, watermarks
from churn_platform.kafka.topics import Topic
from churn_platform.positions import backlog
from churn_platform.positions.truncation import Resumed, check_positions, last_records, resume
from churn_platform.stream import faults
from churn_platform.stream.commit import Source, prediction_rows, write_rows
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.exceptions import UnknownBatchError
from churn_platform.stream.explaining import ExplainerThread
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.publisher import Publication, Publisher
from churn_platform.stream.scoring import Champion, ChampionFollower, ScoredEvents, load_champion, score

POLL_SECONDS: Final = 0.1
QUEUE_SECONDS: Final = 0.5
# Without an event for this long, positions move over the transaction markers that lie behind the last one.
QUIET_SECONDS: Final = 1.0
# Most bytes of events in one commit: 10,000 events of a megabyte each would be too many at once.
COMMIT_BYTES: Final = 32 * 1024 * 1024
CONSUMED_AT_ONCE: Final = 1_000
# In a quiet time the session gives a sign of life this often, ...
HEARTBEAT_SECONDS: Final = 3.0
# ... and PostgreSQL ends it, lock and all, when it hears nothing for this long: its process is frozen or cut off.
LEASE_SECONDS: Final = 15
# The same for a process that is frozen in the middle of a statement; no statement of a commit lasts as long.
STATEMENT_SECONDS: Final = 60
# How long a failed hold waits for its writer before it leaves the connection to the lease.
WRITER_SECONDS: Final = 5.0
# A live run looks this often whether another environment has taken over. It costs 6 ms; the command that takes over is
# refused within a minute of the last prediction, so a run that it has missed ends before the other one begins.
GUARD_SECONDS: Final = 5.0
SWITCH_SECONDS: Final = 0.0005

# What a consumer is told when its topic is deleted.
TOPIC_GONE: Final = frozenset(
    {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
    }
)


class Ending(StrEnum):
    """Why a streaming run ended."""

    SECONDS = "batch_seconds"
    EVENTS = "batch_events"
    IDLE = "idle_seconds"
    PAUSED = "the stream is paused"
    CLOSED = "its batch was closed by another run"
    TOPIC = "the topic was made anew; the next batch reads it"


@dataclass
class StreamResult:
    """What a streaming run did. `latencies`: seconds from each event's time to its visible row, one array a commit."""

    ending: Ending = Ending.IDLE
    orphans: list[ledger.Batch] = field(default_factory=list)
    commits: int = 0
    published: int = 0
    recovered: int = 0
    waited_seconds: float = 0.0
    latencies: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = field(default_factory=list)

    def latency(self, percent: float) -> float | None:
        """A percentile of the seconds from an event's own time to its visible row; None without a prediction."""
        return float(np.percentile(np.concatenate(self.latencies), percent)) if self.latencies else None


@dataclass(frozen=True)
class _Judged:
    """Messages after decoding and scoring: valid events with their rows, and the others."""

    scored: ScoredEvents
    rows: Rows
    dead_letters: list[DeadLetter]


@dataclass(frozen=True)
class _Work:
    """One commit on its way to PostgreSQL. Without `ends`, the positions after it, it is a sign of life.

    `last_records` are those of its events, by Kafka partition.
    """

    judged: Future[_Judged] | None
    messages: Sequence[Message]
    ends: Mapping[int, int]
    last_records: Mapping[int, ledger.LastRecord] = field(default_factory=dict)


HEARTBEAT: Final = _Work(None, (), {})


class BatchLoop:
    """Holds the stream's lock and streams into one batch.

    Everything slow happens in the constructor, before the lock: model, connections, consumer. run() then waits for the
    lock, closes what a predecessor left open, and loops. The connection that holds the lock is the one that commits.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        batch: str,
        run_id: str,
        log: Callable[[str], None],
        follower: ChampionFollower | None,
        result: StreamResult,
    ) -> None:
        """Warm up.

        Args:
            follower: the champion of an earlier hold; None: the bundle is loaded.
            result: is added to.

        Raises:
            NoChampionError, BundleError: there is nothing to score with.
            TopicMissingError: there is nothing to read.
            EnvironmentConflictError: another environment publishes there.
        """
        self._config = config
        self._batch = batch
        self._run_id = run_id
        self._log = log
        self._result = result
        with ExitStack() as opened:
            self._connection = opened.enter_context(
                connect(
                    config.dsn,
                    autocommit=True,
                    application_name=ledger.session_name(run_id),
                    keepalives_idle=10,
                    keepalives_interval=5,
                    keepalives_count=3,
                )
            )
            # Clients of Kafka connect while the model is loaded: each would wait half a second for it otherwise.
            self._admin = clients.admin(config.kafka.client)
            self._consumer = make_consumer(config.kafka)
            opened.callback(self._consumer.close)
            self._publisher = Publisher(config, environments.identify(self._connection))
            opened.callback(self._publisher.release)
            self.follower = follower or ChampionFollower(load_champion(self._connection), log)
            gc.collect()  # takes 0.15 s: not when another run has died and its events wait
            self._guard = EnvironmentGuard(self._connection, self._admin, config)
            opened.callback(self._guard.close)
            self._guard.claim(create_topics=True)
            topic = topics.describe(self._admin, config.events_topic)
            for partition in topic.partitions:
                watermarks(
                    self._consumer, topic.name, partition
                )  # it knows the brokers now, and need not look for them
            self._publisher.warm_up()
            opened.pop_all()
        # The loop hands work to the writer through a queue of one: while a commit is written, the next one gathers.
        self._work: queue.Queue[_Work | None] = queue.Queue(1)
        self._scorer = ThreadPoolExecutor(1, "scorer")
        self._caught_up = False  # whether the last commit took all that waited
        self._writer = threading.Thread(target=self._write_all, name="writer", daemon=True)
        self._writer_idle = threading.Event()
        self._writer_idle.set()
        self._writer_error: BaseException | None = None
        # The explainer's time: the writer is idle, and nothing waits that the interpreter could be used for.
        self._resting = threading.Event()
        self._explainer = ExplainerThread(config.dsn, resting=self._resting, log=log)
        self._positions: dict[int, int] = {}
        # The last record read of each partition, written or not, and what was read while it was compared with the log.
        self._last_records: dict[int, ledger.LastRecord] = {}
        self._resumed = Resumed()
        self._opened: datetime | None = None
        self._accepts_from = config.epoch
        self._accepts_until: datetime | None = None
        self._read_before = 0
        self._paused = False
        self._ended = False

    def run(self, on_lock: Callable[[list[ledger.Batch]], None]) -> None:
        """Wait for the lock, then stream until the batch is full, old enough, or no event comes.

        Args:
            on_lock: called with the batches that were closed for a predecessor that died.

        Raises:
            UnknownBatchError: the ledger does not know the batch.
            TopicChangedError: the topic was made anew or has more partitions; nothing was read wrongly.
            RangeLostError: Kafka no longer holds what comes next, or not the log that was read.
            LedgerBehindError: the database was restored to an earlier state.
            LedgerConflictError: another run has taken over; nothing of this commit was written.
            PublishError: Kafka did not take a transaction.
        """
        try:
            if self._is_closed():
                self._result.ending = Ending.CLOSED
                return
            waited = time.monotonic()
            ledger.lock_stream(self._connection, self._config.events_topic)
            self._result.waited_seconds += time.monotonic() - waited
            ledger.take_lease(self._connection, idle_seconds=LEASE_SECONDS, statement_seconds=STATEMENT_SECONDS)
            faults.reach(FaultPoint.AFTER_LOCK)
            topic = topics.describe(self._admin, self._config.events_topic)
            orphans, ending = self._take_over(topic)
            if ending is not None:
                self._result.ending = ending
                return
            self._guard.check_again()  # the wait for the lock may have been long
            self._publisher.begin(topic, self._positions)
            on_lock(orphans)
            self._writer.start()
            self._explainer.start()
            with _tuned_interpreter():
                self._loop()
            self._hand_over(None)
            self._writer.join()
            self._check_threads()
            self._publisher.finish(self._heartbeat, every=HEARTBEAT_SECONDS)
            faults.reach(FaultPoint.BEFORE_CLOSING)
            ledger.close_batch(self._connection, self._batch, topic_id=topic.topic_id)
            faults.reach(FaultPoint.AFTER_CLOSING)
        finally:
            self._result.published += self._publisher.published - self._publisher.recovered
            self._result.recovered += self._publisher.recovered
            self._release()

    def _is_closed(self) -> bool:
        """Whether another run has closed the batch; a run that was frozen, say, learns it so.

        Raises:
            UnknownBatchError: the ledger does not know the batch.
        """
        batch = ledger.find_batch(self._connection, self._batch)
        if batch is None:
            raise UnknownBatchError(
                f"Batch {self._batch} is not in the ledger: keys are planned by the sensor. Choose one that is listed."
            )
        return batch.closed is not None

    def _take_over(self, topic: Topic) -> tuple[list[ledger.Batch], Ending | None]:
        """Close what others left open and read where to go on; what was closed, and why there is nothing to do."""
        self._topic = topic
        self._source = Source(batch=self._batch, topic=topic.name, topic_id=topic.topic_id)
        with self._connection.transaction():
            orphans = ledger.take_over(self._connection, batch=self._batch, run_id=self._run_id)
            batch = ledger.find_batch(self._connection, self._batch)
        self._result.orphans += orphans
        for orphan in orphans:
            self._log(f"Closed batch {orphan.batch}, left open by run {orphan.run_id} with {orphan.events} events.")
        news = ledger.heartbeat(self._connection, topic.name)
        if batch is None or batch.closed is not None:
            return orphans, Ending.CLOSED
        if any(each.topic_id != topic.topic_id for each in ledger.ranges_of(self._connection, self._batch)):
            # A batch is read from one topic. What it has not published, the next run does.
            ledger.close_unfinished(self._connection, self._batch)
            return orphans, Ending.TOPIC
        self._paused = news.paused
        self.follower.follow(self._connection, news.champion)
        backlog.register(self._connection, self._admin, topic, self._config.start)
        self._opened, self._accepts_until, self._read_before = batch.opened, batch.accepts_until, batch.events
        self._accepts_from = batch.accepts_from or self._config.epoch
        self._positions = ledger.positions_of(self._connection, topic.topic_id)
        self._last_records = ledger.last_records_of(self._connection, topic.topic_id)
        self._resumed = resume(self._consumer, topic.name, self._positions, self._last_records)
        ledger.add_last_records(self._connection, topic_id=topic.topic_id, records=self._resumed.found)
        self._last_records |= self._resumed.found
        self._publisher.require_not_ahead(topic, self._positions)
        return orphans, None

    def _loop(self) -> None:
        """Gather, decode and score commits until the batch ends."""
        config = self._config
        next_offsets = dict(self._positions)
        partition_ends: dict[int, int] = {}
        self._gathered = math.inf  # when the last commit's events were complete; there is none yet
        read, first_event, last_event = self._read_before, self._opened_on_this_clock(), time.monotonic()
        last_sign = guarded = last_event
        while True:
            self._check_threads()
            now = time.monotonic()
            if now - guarded >= GUARD_SECONDS:
                self._guard.check_again()
                guarded = now
            # Silence alone may be a slow broker; at the ends of all partitions nothing waits.
            at_ends = all(partition_ends.get(p, -1) >= offset for p, offset in next_offsets.items())
            quiet_since = last_event if at_ends else now
            if (ending := self._ending(read, first_event, quiet_since, now)) is not None:
                self._skip_markers(next_offsets, partition_ends)
                self._result.ending = ending
                return
            most = min(config.commit_events, config.batch_events - read)
            messages = self._gather(most, partition_ends)
            self._caught_up = len(messages) < most
            if not messages:
                if now - last_event >= QUIET_SECONDS:
                    self._skip_markers(next_offsets, partition_ends)
                if now - last_sign >= HEARTBEAT_SECONDS:
                    self._check_topic(topics.ask(self._admin, self._topic.name))
                    self._hand_over(HEARTBEAT)
                    last_sign = now
                continue
            faults.reach(FaultPoint.AFTER_READ)
            # Asked after the reading, answered while the events are decoded: whose events these are.
            asked = topics.ask(self._admin, self._topic.name)
            last_event = last_sign = time.monotonic()
            if first_event is None:
                first_event = last_event
                self._open()
            records = self._last_records_of(messages, next_offsets)
            next_offsets.update({partition: record.offset + 1 for partition, record in records.items()})
            work = self._submit(messages, next_offsets, records)
            self._check_topic(asked)
            self._hand_over(work)
            read += len(messages)

    def _ending(self, read: int, first_event: float | None, quiet_since: float, now: float) -> Ending | None:
        """Why the batch ends now, if it does."""
        if self._paused:
            return Ending.PAUSED
        if read >= self._config.batch_events:
            return Ending.EVENTS
        if first_event is not None and now - first_event >= self._config.batch_seconds:
            return Ending.SECONDS
        return Ending.IDLE if now - quiet_since >= self._config.idle_seconds else None

    def _check_topic(self, asked: Callable[[], Topic]) -> None:
        """Make sure that the topic is the one whose reading began.

        A consumer does not tell: of a topic that was made anew and grew past the old offsets it delivers on, as if
        nothing had happened.

        Raises:
            TopicChangedError: it was made anew, deleted, or has other partitions.
        """
        began = self._topic
        try:
            now = asked()
        except TopicMissingError as error:
            raise TopicChangedError(
                f"Topic {began.name!r}, id {began.topic_id}, was deleted while it was read."
            ) from error
        if now.topic_id != began.topic_id:
            raise TopicChangedError(
                f"Topic {began.name!r} was made anew while it was read: it is {now.topic_id} now, was {began.topic_id}."
            )
        if now.partitions != began.partitions:
            raise TopicChangedError(
                f"Topic {began.name!r} has {len(now.partitions)} partitions now, had {len(began.partitions)}: "
                f"all of them are read from here on."
            )

    def _last_records_of(
        self, messages: Sequence[Message], next_offsets: Mapping[int, int]
    ) -> dict[int, ledger.LastRecord]:
        """The last record of each Kafka partition among messages.

        Raises:
            LogTruncatedError: another broker leads a partition now, and its log is not the one that was read.
        """
        records = last_records(messages, len(self._topic.partitions))
        known = self._last_records
        elected = {p for p, record in records.items() if p in known and known[p].leader_epoch != record.leader_epoch}
        if elected:
            self._compare_log({partition: next_offsets[partition] for partition in elected})
        self._last_records = {**known, **records}
        return records

    def _compare_log(self, positions: Mapping[int, int]) -> None:
        """Compare the log with the records that were last read, by a consumer that disturbs nobody.

        Raises:
            LogTruncatedError: it is not the one that was read.
        """
        consumer = make_consumer(self._config.kafka)
        try:
            resume(consumer, self._topic.name, positions, self._last_records)
        finally:
            consumer.close()

    def _gather(self, most: int, partition_ends: dict[int, int]) -> list[Message]:
        """What waits: until the linger since the last time is over, and as long as the last commit is being written.

        Raises:
            TopicChangedError: the consumer stumbled over a topic that is not the one it was told to read.
            RangeLostError: Kafka no longer holds what comes next, or not the log that was read.
        """
        if messages := self._take_resumed(most, partition_ends):
            return messages
        try:
            return self._gather_from_consumer(most, partition_ends)
        except RangeLostError:
            self._check_topic(topics.ask(self._admin, self._topic.name))
            check_positions(self._consumer, self._topic.name, self._positions)
            self._compare_log({p: record.offset + 1 for p, record in self._last_records.items()})
            raise
        except KafkaException as error:
            if error.args[0].code() in TOPIC_GONE:
                self._check_topic(topics.ask(self._admin, self._topic.name))
            raise

    def _take_resumed(self, most: int, partition_ends: dict[int, int]) -> list[Message]:
        """Events that came while the log was compared. Partition ends are told after them, or they would be skipped."""
        resumed = self._resumed
        messages = resumed.messages[:most]
        del resumed.messages[:most]
        if not resumed.messages:
            partition_ends.update(resumed.ends)
            resumed.ends.clear()
        if messages:
            self._gathered = time.monotonic()
        return messages

    def _gather_from_consumer(self, most: int, partition_ends: dict[int, int]) -> list[Message]:
        messages: list[Message] = []
        message = self._consumer.poll(POLL_SECONDS)
        if message is None:
            return messages
        sort_messages([message], messages, partition_ends)
        if not messages:
            return messages
        # The first commit waits for the linger after its first event: of what was sent together most has come then.
        deadline, size, counted = min(self._gathered, time.monotonic()) + self._config.linger, 0, 0
        while len(messages) < most:
            size += sum(map(len, messages[counted:]))
            counted = len(messages)
            if size >= COMMIT_BYTES:
                break
            at_once = min(most - len(messages), CONSUMED_AT_ONCE)
            remaining = deadline - time.monotonic()
            if remaining <= 0 and self._writer_idle.is_set():
                polled = self._consumer.consume(at_once, 0)
                sort_messages(polled, messages, partition_ends)
                if len(polled) < at_once:
                    break
            else:
                wait = min(max(remaining, 0.002), 0.02)
                sort_messages(self._consumer.consume(at_once, wait), messages, partition_ends)
        self._gathered = time.monotonic()
        return messages

    def _open(self) -> None:
        """The batch opens with its first event, and what it accepts is settled then: a replay judges by the same."""
        if self._opened is None:
            self._opened = datetime.now(UTC)
            self._accepts_until = self._config.accepts_until(self._opened)

    def _opened_on_this_clock(self) -> float | None:
        """When a batch that is resumed had its first event, on the clock of the loop; None for a new one."""
        if self._opened is None:
            return None
        return time.monotonic() - (datetime.now(UTC) - self._opened).total_seconds()

    def _submit(
        self, messages: Sequence[Message], ends: Mapping[int, int], records: Mapping[int, ledger.LastRecord]
    ) -> _Work:
        """Have messages decoded and scored; the next ones are read meanwhile."""
        if self._accepts_until is None:
            raise RuntimeError(f"Batch {self._batch} has events but was never opened.")
        judged = self._scorer.submit(self._judge, messages, self._accepts_until, self.follower.current)
        return _Work(judged, messages, dict(ends), records)

    def _judge(self, messages: Sequence[Message], accepts_until: datetime, champion: Champion) -> _Judged:
        """Score the events among the messages; the others are dead letters."""
        events, dead_letters = decode(
            messages, topic_id=self._topic.topic_id, accepts_from=self._accepts_from, accepts_until=accepts_until
        )
        scored = score(events, champion, threads=self._config.scoring_threads)
        return _Judged(scored, prediction_rows(self._source, scored), dead_letters)

    def _skip_markers(self, next_offsets: dict[int, int], partition_ends: Mapping[int, int]) -> None:
        """Move positions over what holds offsets but no events, or it would look like lag for ever."""
        ahead = {p: end for p, end in partition_ends.items() if end > next_offsets[p]}
        if ahead:
            self._check_topic(topics.ask(self._admin, self._topic.name))
            next_offsets.update(ahead)
            self._hand_over(_Work(None, (), dict(next_offsets)))

    def _hand_over(self, work: _Work | None) -> None:
        """Give the writer its next commit, or None where there is none. One that has failed is not waited for."""
        self._writer_idle.clear()
        self._resting.clear()
        while True:
            self._check_threads()
            try:
                return self._work.put(work, timeout=QUEUE_SECONDS)
            except queue.Full:
                continue

    def _check_threads(self) -> None:
        if self._writer_error is not None:
            raise self._writer_error
        self._publisher.check()

    def _release(self) -> None:
        """Let go of everything; of the lock too, so that a standby goes on from here."""
        self._publisher.release()
        self._guard.close()
        self._scorer.shutdown()
        self._consumer.close()
        if self._writer.is_alive():
            self._stop_writer()
        if not self._writer.is_alive():
            self._connection.close()
        self._explainer.stop()  # last: nobody waits for it with the lock

    def _stop_writer(self) -> None:
        """Let the writer's statement end. If it does not, PostgreSQL is cut off, and ends the session by its lease."""
        self._ended = True
        deadline = time.monotonic() + WRITER_SECONDS
        while self._writer.is_alive() and time.monotonic() < deadline:
            try:
                self._work.put(None, timeout=QUEUE_SECONDS)
            except queue.Full:
                continue
            self._writer.join(max(0.0, deadline - time.monotonic()))

    def _write_all(self) -> None:
        """The writer thread: one PostgreSQL transaction after the other, each handed on to the publisher."""
        try:
            while (work := self._work.get()) is not None and not self._ended:
                if work is HEARTBEAT:
                    self._heartbeat()
                else:
                    self._publisher.put(self._write(work))
                if self._work.empty():
                    self._writer_idle.set()
                    if self._caught_up:
                        self._resting.set()
        except BaseException as error:  # handed to the main thread, which raises it
            self._writer_error = error
            self._writer_idle.set()

    def _heartbeat(self) -> None:
        news = ledger.heartbeat(self._connection, self._topic.name)
        self._paused = news.paused
        self.follower.follow(self._connection, news.champion)

    def _write(self, work: _Work) -> Publication:
        ends = {partition: end for partition, end in work.ends.items() if end > self._positions[partition]}
        judged = work.judged.result() if work.judged is not None else None
        with self._connection.transaction():
            written = (
                write_rows(
                    self._connection,
                    self._source,
                    judged.scored,
                    judged.rows,
                    judged.dead_letters,
                    work.messages,
                    high_risk_threshold=self._config.high_risk_threshold,
                )
                if judged is not None
                else None
            )
            step = ledger.Advance(
                batch=self._batch,
                topic_id=self._topic.topic_id,
                starts=self._positions,
                ends=ends,
                last_records=work.last_records,
                predictions=len(written.predictions) if written else 0,
                dead_letters=written.dead_letters if written else 0,
                duplicates=written.duplicates if written else 0,
                opened=self._opened,
                accepts_from=self._accepts_from if self._opened else None,
                accepts_until=self._accepts_until,
                model_version=judged.scored.model_version if judged is not None else None,
                hours=written.hours if written else (),
            )
            advanced = ledger.advance(self._connection, step)
            if (advanced.positions, advanced.ranges, advanced.batches) != (len(ends), advanced.ranges_wanted, 1):
                raise LedgerConflictError(
                    f"Batch {self._batch}: the ledger moved {advanced.positions} of {len(ends)} positions, "
                    f"{advanced.ranges} of {advanced.ranges_wanted} ranges and {advanced.batches} of 1 open batch. "
                    f"Another run has taken over the stream; this commit is undone and nothing is lost."
                )
            faults.reach(FaultPoint.IN_TRANSACTION)
        faults.reach(FaultPoint.AFTER_DATABASE_COMMIT)
        self._positions.update(ends)
        self._paused = advanced.paused
        if written is None:
            return Publication(self._batch, None, ends)
        self._result.commits += 1
        if written.high_risk:
            self._explainer.notice()
        if len(written.predictions):
            event_times = written.predictions.events.event_timestamp
            self._result.latencies.append(time.time() - event_times / MICROSECONDS)
        self.follower.follow(self._connection, advanced.champion)
        return Publication(self._batch, written.predictions, ends)


@contextmanager
def _tuned_interpreter() -> Iterator[None]:
    """No collector, which would only walk again and again through many objects without a cycle; a quicker interpreter.

    A thread that comes back from XGBoost, PostgreSQL or Kafka waits for the interpreter's lock for up to this interval.
    With Python's own, 5 ms, three threads that hand work to each other lose 6 % of the throughput.
    """
    interval = sys.getswitchinterval()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.enable()
        gc.unfreeze()
