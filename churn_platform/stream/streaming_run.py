"""The streaming run: streams into one batch, in a new tenure of the stream's lock after each transient fault."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
from confluent_kafka import KafkaException

from churn_platform.database import ledger
from churn_platform.errors import PlatformError
from churn_platform.stream import faults
from churn_platform.stream.batch_loop import BatchLoop
from churn_platform.stream.entry import enter
from churn_platform.stream.explaining import ExplainerThread
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.limits import Limits
from churn_platform.stream.result import Ending, StreamResult
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.scoring import ChampionFollower
from churn_platform.stream.takeover import is_closed, take_over
from churn_platform.stream.warm_up import Connections, warm_up
from churn_platform.transience import is_transient

_python_log = logging.getLogger(__name__)


class RetryBudget:
    """Decides how long to wait after each transient fault, and when to give up. Progress resets it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failing_since: float | None = None
        self._pause = limits.first_pause_seconds
        self.attempts = 0

    def next_pause(self, now: float, *, has_progressed: bool) -> float | None:
        """Return the seconds to wait before the next attempt; None: give up.

        Args:
            now: time of the fault, on a monotonic clock.
            has_progressed: whether the failed attempt had made progress, so that this fault is a new one.
        """
        if self._failing_since is None or has_progressed:
            self._failing_since, self._pause, self.attempts = now, self._limits.first_pause_seconds, 0
        if now - self._failing_since >= self._limits.give_up_seconds:
            return None
        self.attempts += 1
        pause, self._pause = self._pause, min(2 * self._pause, self._limits.longest_pause_seconds)
        return pause


class StreamingRun:
    """Streams into one batch until it is full, old enough or idle.

    A transient fault ends the tenure of the lock, not the run: it connects again, waits for the lock, and continues
    its batch from the ledger's positions. If another run has closed the batch meanwhile, there is nothing left to do.
    """

    def __init__(
        self,
        run: RunContext,
        *,
        confirm: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Create the run.

        Args:
            run: its configuration, identity and dependencies.
            confirm: RunSession.confirm() of this run; called before each tenure.
            monotonic: the clock of the retries.
            sleep: waits before a retry.
        """
        self._run = run
        self._confirm = confirm
        self._monotonic = monotonic
        self._sleep = sleep
        self._result = StreamResult()
        self._follower: ChampionFollower | None = None
        self._unlogged: list[str] = []

    def run(self) -> StreamResult:
        """Warm up, wait for the lock and stream; try again after a transient fault.

        Raises:
            RunEndedError: the end of this run was recorded.
            NoChampionError, BundleError: there is nothing to score with.
            TopicMissingError: there is nothing to read.
            UnknownBatchError: the ledger does not know the batch.
            RangeLostError: Kafka no longer holds the next offset.
            PublishError, KafkaException, psycopg.OperationalError: a server was down for `give_up_seconds`, or refuses.
        """
        budget = RetryBudget(self._run.limits)
        while True:
            began, commits = self._monotonic(), self._result.commits
            try:
                self._confirm()
                self._hold_lock()
            except (KafkaException, psycopg.OperationalError, PlatformError) as error:
                if not is_transient(error):
                    raise
                now = self._monotonic()
                was_healthy = now - began > self._run.limits.healthy_tenure_seconds
                pause = budget.next_pause(now, has_progressed=self._result.commits > commits or was_healthy)
                if pause is None:
                    raise
                self._log_fault(f"Attempt {budget.attempts} in {pause:.1f} s, after a fault: {one_line(error)}", error)
                self._sleep(pause)
            else:
                self._log_delayed()
                return self._result

    def _hold_lock(self) -> None:
        """Warm up, wait for the lock and stream: one tenure of the lock.

        The explainer is stopped last, because a standby may already have the lock then.
        """
        with ExplainerThread(self._run) as explainer, warm_up(self._run, self._follower) as connections:
            self._follower = connections.follower
            self._result.ending = self._stream(connections, explainer)

    def _stream(self, connections: Connections, explainer: ExplainerThread) -> Ending:
        if is_closed(self._run, connections):
            return Ending.CLOSED
        self._result.waited_seconds += connections.lease.acquire()
        faults.reach(FaultPoint.AFTER_LOCK)
        if not enter(self._run, connections):
            return Ending.LANES
        takeover = take_over(self._run, connections)
        if isinstance(takeover, Ending):
            return takeover
        connections.guard.check_again()  # the wait for the lock may have been long
        with BatchLoop(self._run, connections, takeover, explainer=explainer, result=self._result) as loop:
            self._log_delayed()
            if takeover.batch.opened is None:
                self._run.log("Ready: the batch opens with the first event that arrives.")
            ending = loop.run()
            faults.reach(FaultPoint.BEFORE_CLOSING)
            ledger.close_batch(
                connections.lease.connection,
                self._run.batch,
                topic_id=takeover.topic.topic_id,
                lane=self._run.lane,
            )
            faults.reach(FaultPoint.AFTER_CLOSING)
        return ending

    def _log_fault(self, line: str, error: Exception) -> None:
        """Log to the process' log now, and to the run's as soon as PostgreSQL, where it is kept, answers again."""
        _python_log.warning("Batch %s: %s", self._run.batch, line)
        self._unlogged.append(f"{datetime.now(UTC):%H:%M:%S} UTC: {line}")
        if not isinstance(error, psycopg.OperationalError):
            self._log_delayed()

    def _log_delayed(self) -> None:
        for line in self._unlogged:
            self._run.log(line)
        self._unlogged.clear()


def one_line(error: Exception) -> str:
    """Return an error's text without its line breaks."""
    return " ".join(str(error).split())
