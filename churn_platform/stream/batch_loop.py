"""The streaming loop: reads events, scores them and commits them to one batch."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from confluent_kafka import Message

from churn_platform.database import challengers, ledger
from churn_platform.decoding.events import MICROSECONDS
from churn_platform.kafka import topics
from churn_platform.stream import faults
from churn_platform.stream.batch_progress import BatchProgress
from churn_platform.stream.commit_rows import Source, Written
from churn_platform.stream.committer import Committer
from churn_platform.stream.explaining import ExplainerThread
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.gatherer import Gatherer
from churn_platform.stream.publisher import Publication
from churn_platform.stream.result import Ending, StreamResult
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.scoring import ScoredEvents
from churn_platform.stream.scoring_thread import Scorer
from churn_platform.stream.takeover import Takeover
from churn_platform.stream.topic_identity import TopicIdentity
from churn_platform.stream.warm_up import Connections
from churn_platform.stream.writer_thread import Job, WriterThread

SWITCH_SECONDS: Final = 0.0005


class BatchLoop:
    """Reads events, scores them and publishes predictions, commit by commit, until the batch ends.

    Four threads share the work. This one gathers messages; the scorer decodes and scores them; the writer commits them
    to PostgreSQL; the publisher sends the predictions to Kafka. A fifth, the explainer, works while they are idle.

    As a context manager it starts the publisher, and stops all threads but the explainer.
    """

    def __init__(
        self,
        run: RunContext,
        connections: Connections,
        takeover: Takeover,
        *,
        explainer: ExplainerThread,
        result: StreamResult,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the loop; no thread is started yet.

        Args:
            run: the run.
            connections: opened by the warm-up.
            takeover: where the run continues.
            explainer: started with the loop.
            result: updated by the loop.
            monotonic: the clock.
        """
        self._run = run
        self._takeover = takeover
        self._lease = connections.lease
        self._guard = connections.guard
        self._follower = connections.follower
        self._canary = connections.canary
        self._publisher = connections.publisher
        self._explainer = explainer
        self._result = result
        self._monotonic = monotonic
        self._source = Source(batch=run.batch, topic=takeover.topic.name, topic_id=takeover.topic.topic_id)
        self._identity = TopicIdentity(connections.admin, takeover.topic)
        self._writer = WriterThread(on_idle=self._let_explainer_work, stop_seconds=run.limits.writer_stop_seconds)
        self._gatherer = Gatherer(
            run,
            connections.consumer,
            self._identity,
            takeover,
            last_stable_offsets=lambda: topics.list_offsets(connections.admin, takeover.own, topics.LATEST),
            writer_is_idle=self._writer.is_idle,
        )
        self._scorer = Scorer(self._source, run.config.schema, takeover.row_type, threads=run.config.scoring_threads)
        self._committer = Committer(run, self._lease, self._source, takeover)
        now = self._monotonic()
        self._progress = BatchProgress(run.config, takeover.batch, now=now, wall_clock=datetime.now(UTC))
        self._last_guarded = self._last_heartbeat = now
        self._paused, self._lanes_changed = takeover.paused, False
        self._caught_up = False  # whether the consumer has returned all that it had

    def __enter__(self) -> Self:
        """Start the publisher, which first publishes what a predecessor left unpublished."""
        self._publisher.begin(self._takeover.own, self._takeover.positions, require_lock=self._lease.require_held)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop the threads and count what was published. The lease ends a connection that is still in use."""
        self._result.published += self._publisher.published - self._publisher.recovered
        self._result.recovered += self._publisher.recovered
        self._publisher.release()
        self._scorer.stop()
        if not self._writer.stop():
            self._lease.abandon()

    def run(self) -> Ending:
        """Stream until the batch is full, old enough, or no event comes; return when everything is published.

        Raises:
            TopicChangedError: the topic was recreated or has more partitions; nothing was read wrongly.
            RangeLostError: Kafka no longer holds the next offset, or its log is not the one that was read.
            LedgerConflictError: another run has taken over; nothing of this commit was written.
            ReadingStalledError: the consumer returns nothing although the topic holds more.
            EnvironmentConflictError: another environment has taken over.
            PublishError: Kafka did not accept a transaction.
        """
        self._writer.start()
        self._explainer.start()
        with _tuned_interpreter():
            ending = self._loop()
        self._explainer.set_idle(False)
        self._writer.finish(while_waiting=self._publisher.check)
        self._publisher.finish(self._heartbeat, every=self._run.limits.heartbeat_seconds)
        return ending

    def _loop(self) -> Ending:
        while True:
            self._writer.check()
            self._publisher.check()
            now = self._monotonic()
            self._check_surroundings(now)
            ending = self._progress.ending(
                now, at_ends=self._gatherer.is_at_ends(), paused=self._paused, lanes_changed=self._lanes_changed
            )
            if ending is not None:
                self._skip_transaction_markers()
                return ending
            most = min(self._run.commit_events, self._progress.free)
            messages = self._gatherer.gather(most)
            self._caught_up = len(messages) < most
            if messages:
                self._commit(messages)
            else:
                self._wait_for_events(now)

    def _commit(self, messages: list[Message]) -> None:
        """Score messages, write them and publish the predictions.

        Steps 1 to 5 run here. Steps 6 and 7 run on the writer's thread, while the messages of the next commit gather.
        An error in any step ends the tenure of the lock, and the next tenure continues from the ledger's positions.
        """
        faults.reach(FaultPoint.AFTER_READ)

        # 1. Request the topic's id from the brokers, unless it was just confirmed. They answer while the messages are
        # decoded.
        require_same_topic = self._identity.request(undisturbed_since=self._gatherer.undisturbed_since)

        # 2. Count the messages. The first ones open the batch, which settles the event times that it accepts.
        now = self._last_heartbeat = self._monotonic()
        opening = self._progress.add(len(messages), now=now, wall_clock=datetime.now(UTC))

        # 3. Move the positions past the messages, and identify the last record before each position.
        step = self._gatherer.advance(messages)

        # 4. Decode and score, on the scorer's thread.
        scored = self._scorer.submit(
            messages, opening, self._follower.current, self._canary.current, self._committer.erased
        )

        # 5. Refuse the messages if the topic was recreated while they were read.
        require_same_topic()

        def write_and_publish() -> None:
            # 6. Write predictions, dead letters and the ledger in one PostgreSQL transaction.
            written, moved = self._committer.commit(step, opening, messages, scored.result())
            self._count(written)
            self._record_canary_errors(scored.result().scored)
            self._follow(moved.state)

            # 7. Publish, on the publisher's thread: the predictions and the new positions in one Kafka transaction.
            self._publisher.publish(Publication(self._run.batch, written.predictions, moved.ends))

        self._submit(write_and_publish)

    def _count(self, written: Written) -> None:
        self._result.commits += 1
        if written.high_risk:
            self._explainer.notify()
        if len(written.predictions):
            event_times = written.predictions.events.event_timestamp
            self._result.latencies.append(time.time() - event_times / MICROSECONDS)

    def _wait_for_events(self, now: float) -> None:
        """Do what is due while no event comes."""
        limits = self._run.limits
        if self._progress.seconds_without_event(now) >= limits.quiet_seconds:
            self._skip_transaction_markers()
        if now - self._last_heartbeat >= limits.heartbeat_seconds:
            self._identity.check()
            self._submit(self._heartbeat)
            self._last_heartbeat = now

    def _skip_transaction_markers(self) -> None:
        step, opening = self._gatherer.skip_transaction_markers(), self._progress.opening
        if step is None:
            return

        def move_and_publish() -> None:
            moved = self._committer.move_positions(step, opening)
            self._note(moved.state)
            self._publisher.publish(Publication(self._run.batch, None, moved.ends))

        self._submit(move_and_publish)

    def _check_surroundings(self, now: float) -> None:
        if now - self._last_guarded >= self._run.limits.guard_seconds:
            self._guard.check_again()
            if self._caught_up:
                self._gatherer.require_reading()
            self._last_guarded = now

    def _submit(self, job: Job) -> None:
        """Give the writer its next job. It waits while another one is queued, and fails if a thread has failed."""
        self._explainer.set_idle(False)
        self._writer.submit(job, while_waiting=self._publisher.check)

    def _heartbeat(self) -> None:
        self._follow(self._lease.heartbeat())

    def _follow(self, state: ledger.Heartbeat) -> None:
        """Apply what the database records; called in the writer's thread."""
        self._note(state)
        self._follower.follow(self._lease.connection, state.champion)
        self._canary.follow(self._lease.connection, state.canary)

    def _note(self, state: ledger.Heartbeat) -> None:
        """Note whether the batch has to end; called in the writer's thread."""
        self._paused, self._lanes_changed = state.paused, state.lanes_changed

    def _record_canary_errors(self, scored: ScoredEvents) -> None:
        """Record what the canary could not score; called in the writer's thread. The worker decides what follows."""
        if scored.canary is not None:
            challengers.record_errors(self._lease.connection, scored.canary, scored.canary_errors)

    def _let_explainer_work(self) -> None:
        """Called in the writer's thread when it is idle. While there is a backlog, the interpreter is needed for it."""
        if self._caught_up:
            self._explainer.set_idle(True)


@contextmanager
def _tuned_interpreter() -> Iterator[None]:
    """Turn off the garbage collector, and let threads switch more often.

    The collector would repeatedly traverse many objects, none of which is in a cycle. A thread that returns
    from XGBoost, PostgreSQL or Kafka waits for the interpreter's lock for up to the switch interval. With Python's
    default of 5 ms, three threads that hand work to each other lose 6 % of the throughput.
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
