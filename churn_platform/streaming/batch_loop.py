"""The streaming run: it owns one batch, holds the stream's lock and commits as events come."""

import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import numpy as np
import polars as pl
import psycopg
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import AdminClient

from churn_platform.modeling.bundle import ModelBundle
from churn_platform.storage import ledger, model_versions
from churn_platform.streaming import topics
from churn_platform.streaming.commit import Source, write_rows
from churn_platform.streaming.config import StreamConfig
from churn_platform.streaming.events import MICROSECONDS, DeadLetter, decode
from churn_platform.streaming.exceptions import (
    LedgerConflictError,
    NoChampionError,
    TopicMadeAnewError,
    UnknownBatchError,
)
from churn_platform.streaming.publisher import SCHEMA, Publication, Publisher, prediction_frame
from churn_platform.streaming.reader import (
    check_positions,
    make_consumer,
    offset_of,
    partition_of,
    sort_messages,
)
from churn_platform.streaming.scoring import Champion, ScoredEvents, score

POLL_SECONDS: Final = 0.1
QUEUE_SECONDS: Final = 0.5
# Without an event for this long, positions move over the transaction markers that lie behind the last one.
QUIET_SECONDS: Final = 1.0


class Ending(StrEnum):
    """Why a streaming run ended."""

    SECONDS = "batch_seconds"
    EVENTS = "batch_events"
    IDLE = "idle_seconds"
    NOTHING_TO_DO = "closed by the run that it waited for"


@dataclass
class StreamResult:
    """What a streaming run did. `latencies`: seconds from each event's time to its visible row, one array a commit."""

    ending: Ending
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
class _Work:
    """One commit on its way to PostgreSQL. `ends` are the positions after it."""

    scored: ScoredEvents | None
    dead_letters: Sequence[DeadLetter]
    messages: Sequence[Message]
    ends: Mapping[int, int]


def load_champion(connection: psycopg.Connection) -> Champion:
    """The champion's bundle.

    Raises:
        NoChampionError: no model version has been promoted.
        BundleError: a part of the bundle is missing or is not what its manifest says.
    """
    champion = model_versions.champion(connection)
    if champion is None:
        raise NoChampionError("No model has been promoted: materialize churn_model and champion_model to score events.")
    return Champion(champion.version, ModelBundle.load(champion.uri))


class StreamingRun:
    """Streams into one batch.

    Everything slow happens in the constructor, before the lock: model, connections, consumer. run() then waits for the
    lock, closes what a predecessor left open, and loops. The connection that holds the lock is the one that commits.
    """

    def __init__(self, config: StreamConfig, *, batch: str, run_id: str, log: Callable[[str], None]) -> None:
        """Warm up.

        Raises:
            NoChampionError, BundleError: there is nothing to score with.
            TopicMissingError: there is nothing to read.
        """
        self._config = config
        self._batch = batch
        self._run_id = run_id
        self._log = log
        self._connection = psycopg.connect(config.dsn, autocommit=True, application_name=ledger.session_name(run_id))
        self._champion = load_champion(self._connection)
        admin = AdminClient(config.kafka)
        topics.create_missing(admin, config)
        self._topic = topics.describe(admin, config.events_topic)
        topics.register(self._connection, admin, self._topic, config.start)
        self._consumer = make_consumer(config)
        self._publisher = Publisher(config, self._topic)
        self._source = Source(batch=batch, topic=self._topic.name, topic_id=self._topic.topic_id)
        # The loop hands work to the writer through a queue of one: while a commit is written, the next one gathers.
        self._work: queue.Queue[_Work | None] = queue.Queue(1)
        self._writer_idle = threading.Event()
        self._writer_idle.set()
        self._writer_error: BaseException | None = None
        self._positions: dict[int, int] = {}
        self._opened: datetime | None = None
        self._accepts_from = config.epoch
        self._accepts_until: datetime | None = None
        self._read_before = 0
        self._result = StreamResult(Ending.IDLE)

    def run(self, on_lock: Callable[[list[ledger.Batch]], None]) -> StreamResult:
        """Wait for the lock, then stream until the batch is full, old enough, or no event comes.

        Args:
            on_lock: called once with the batches that this run closed for a predecessor that died.

        Raises:
            UnknownBatchError: the ledger does not know the batch.
            TopicMadeAnewError: under the topic's name there is another one by now.
            RangeLostError: Kafka no longer holds what comes next.
            LedgerConflictError: another run has taken over; nothing of this commit was written.
            PublishError: Kafka did not take a transaction.
        """
        try:
            waited = time.monotonic()
            ledger.lock_stream(self._connection, self._topic.name)
            self._result.waited_seconds = time.monotonic() - waited
            if not self._take_over():
                self._result.ending = Ending.NOTHING_TO_DO
                return self._result
            self._publisher.begin(self._positions)
            on_lock(self._result.orphans)
            writer = threading.Thread(target=self._write_all, name="writer", daemon=True)
            writer.start()
            with _no_garbage_collection():
                self._loop()
            self._work.put(None)
            writer.join()
            self._check_threads()
            self._publisher.finish()
            ledger.close_batch(self._connection, self._batch)
        finally:
            self._release_threads()
            self._consumer.close()
            self._connection.close()  # lets go of the lock: a standby goes on from here
        self._result.published = self._publisher.published - self._publisher.recovered
        self._result.recovered = self._publisher.recovered
        return self._result

    def _take_over(self) -> bool:
        """Close what others left open and read where to go on. False: the batch was closed while this run waited."""
        self._check_what_may_have_changed()
        with self._connection.transaction():
            orphans = ledger.take_over(self._connection, batch=self._batch, run_id=self._run_id)
            batch = ledger.find_batch(self._connection, self._batch)
        if batch is None:
            raise UnknownBatchError(
                f"Batch {self._batch} is not in the ledger: keys are planned by the sensor. Choose one that is listed."
            )
        self._result.orphans = orphans
        for orphan in orphans:
            self._log(f"Closed batch {orphan.batch}, left open by run {orphan.run_id} with {orphan.events} events.")
        if batch.closed is not None:
            return False
        self._opened, self._accepts_until, self._read_before = batch.opened, batch.accepts_until, batch.events
        self._accepts_from = batch.accepts_from or self._config.epoch
        self._positions = ledger.positions_of(self._connection, self._topic.topic_id)
        check_positions(self._consumer, self._topic.name, self._positions)
        return True

    def _check_what_may_have_changed(self) -> None:
        """A standby may have waited for hours: for the topic of that time, with the champion of that time."""
        topic = topics.describe(AdminClient(self._config.kafka), self._topic.name)
        if topic.topic_id != self._topic.topic_id:
            raise TopicMadeAnewError(
                f"Topic {topic.name!r} was made anew while this run waited: it is {topic.topic_id} now and was "
                f"{self._topic.topic_id}. The next run reads it from its beginning."
            )
        champion = model_versions.champion(self._connection)
        self._follow_champion(None if champion is None else champion.version)

    def _loop(self) -> None:
        """Gather, decode and score commits until the batch ends."""
        config = self._config
        next_offsets = dict(self._positions)
        self._consumer.assign(
            [TopicPartition(self._topic.name, partition, offset) for partition, offset in next_offsets.items()]
        )
        partition_ends: dict[int, int] = {}
        read, first_event, last_event = self._read_before, self._opened_on_this_clock(), time.monotonic()
        while True:
            self._check_threads()
            now = time.monotonic()
            if read >= config.batch_events:
                return self._end(Ending.EVENTS, next_offsets, partition_ends)
            if first_event is not None and now - first_event >= config.batch_seconds:
                return self._end(Ending.SECONDS, next_offsets, partition_ends)
            if now - last_event >= config.idle_seconds:
                return self._end(Ending.IDLE, next_offsets, partition_ends)
            messages = self._gather(min(config.commit_events, config.batch_events - read), partition_ends)
            if not messages:
                if now - last_event >= QUIET_SECONDS:
                    self._skip_markers(next_offsets, partition_ends)
                continue
            last_event = time.monotonic()
            if first_event is None:
                first_event = last_event
                self._open()
            next_offsets.update({partition_of(message): offset_of(message) + 1 for message in messages})
            self._hand_over(self._decode_and_score(messages, next_offsets))
            read += len(messages)

    def _gather(self, most: int, partition_ends: dict[int, int]) -> list[Message]:
        """What waits: after a first event at least for the linger, and as long as the last commit is being written."""
        messages: list[Message] = []
        message = self._consumer.poll(POLL_SECONDS)
        if message is None:
            return messages
        sort_messages([message], messages, partition_ends)
        if not messages:
            return messages
        deadline = time.monotonic() + self._config.linger
        while len(messages) < most:
            remaining = deadline - time.monotonic()
            if remaining <= 0 and self._writer_idle.is_set():
                sort_messages(self._consumer.consume(most - len(messages), 0), messages, partition_ends)
                break
            sort_messages(
                self._consumer.consume(most - len(messages), min(max(remaining, 0.002), 0.02)), messages, partition_ends
            )
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

    def _decode_and_score(self, messages: Sequence[Message], ends: Mapping[int, int]) -> _Work:
        if self._accepts_until is None:
            raise RuntimeError(f"Batch {self._batch} has events but was never opened.")
        events, dead_letters = decode(
            messages,
            topic_id=self._topic.topic_id,
            accepts_from=self._accepts_from,
            accepts_until=self._accepts_until,
        )
        scored = score(events, self._champion, threads=self._config.scoring_threads)
        return _Work(scored, dead_letters, messages, dict(ends))

    def _skip_markers(self, next_offsets: dict[int, int], partition_ends: Mapping[int, int]) -> None:
        """Move positions over what holds offsets but no events, or it would look like lag for ever."""
        ahead = {p: end for p, end in partition_ends.items() if end > next_offsets[p]}
        if ahead:
            next_offsets.update(ahead)
            self._hand_over(_Work(None, (), (), dict(next_offsets)))

    def _end(self, ending: Ending, next_offsets: dict[int, int], partition_ends: Mapping[int, int]) -> None:
        self._skip_markers(next_offsets, partition_ends)
        self._result.ending = ending

    def _hand_over(self, work: _Work) -> None:
        self._writer_idle.clear()
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

    def _release_threads(self) -> None:
        """Let both threads end when the run fails; after a normal end there is nobody left to hear it."""
        with suppress(queue.Full):
            self._work.put_nowait(None)
        self._publisher.release()

    def _write_all(self) -> None:
        """The writer thread: one PostgreSQL transaction after the other, each handed on to the publisher."""
        try:
            while (work := self._work.get()) is not None:
                self._publisher.put(self._write(work))
                if self._work.empty():
                    self._writer_idle.set()
        except BaseException as error:  # handed to the main thread, which raises it
            self._writer_error = error
            self._writer_idle.set()

    def _write(self, work: _Work) -> Publication:
        ends = {partition: end for partition, end in work.ends.items() if end > self._positions[partition]}
        with self._connection.transaction():
            written = (
                write_rows(
                    self._connection,
                    self._source,
                    work.scored,
                    work.dead_letters,
                    work.messages,
                    high_risk_threshold=self._config.high_risk_threshold,
                )
                if work.scored is not None
                else None
            )
            step = ledger.Advance(
                batch=self._batch,
                topic_id=self._topic.topic_id,
                starts=self._positions,
                ends=ends,
                with_events=frozenset(partition_of(message) for message in work.messages),
                predictions=len(written.predictions) if written else 0,
                dead_letters=written.dead_letters if written else 0,
                duplicates=written.duplicates if written else 0,
                opened=self._opened,
                accepts_from=self._accepts_from if self._opened else None,
                accepts_until=self._accepts_until,
                model_version=work.scored.model_version if work.scored else None,
                hours=written.hours if written else (),
            )
            advanced = ledger.advance(self._connection, step)
            if (advanced.positions, advanced.ranges, advanced.batches) != (len(ends), advanced.ranges_wanted, 1):
                raise LedgerConflictError(
                    f"Batch {self._batch}: the ledger moved {advanced.positions} of {len(ends)} positions, "
                    f"{advanced.ranges} of {advanced.ranges_wanted} ranges and {advanced.batches} of 1 open batch. "
                    f"Another run has taken over the stream; this commit is undone and nothing is lost."
                )
        self._positions.update(ends)
        if written is None or work.scored is None:
            return Publication(pl.DataFrame(schema=SCHEMA), ends)
        self._result.commits += 1
        if len(written.predictions):
            event_times = written.predictions.events.event_timestamp
            self._result.latencies.append(time.time() - event_times / MICROSECONDS)
        self._follow_champion(advanced.champion)
        return Publication(prediction_frame(self._batch, written.predictions), ends)

    def _follow_champion(self, version: int | None) -> None:
        """Score the next commit with another champion, if one was promoted or rolled back to."""
        if version is not None and version != self._champion.version:
            self._champion = load_champion(self._connection)
            self._log(f"Champion is now version {self._champion.version}; the next commit is scored with it.")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The loop makes many objects and no cycles: the collector would only walk through them, again and again."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
