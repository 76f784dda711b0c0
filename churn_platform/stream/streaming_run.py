"""The streaming run: one batch, through as many holds of the stream's lock as faults make of it."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import psycopg
from confluent_kafka import KafkaException

from churn_platform.errors import PlatformError
from churn_platform.stream.batch_loop import BatchLoop, StreamResult
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.scoring import ChampionFollower
from churn_platform.transience import is_transient

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 3.0
# So long without a commit, a run that only fails is better given up: Dagster shows it red, and the sensor tries anew.
GIVE_UP_SECONDS: Final = 600.0
# A hold of the lock that lasted so long was well: the next fault is a new one.
LONG_HOLD_SECONDS: Final = 60.0

_python_log = logging.getLogger(__name__)


class StreamingRun:
    """Streams into one batch until it is full, old enough or idle.

    A transient fault ends the hold of the lock, not the run: it connects anew, waits for the lock and goes on with its
    batch where the ledger says. When another run has closed the batch meanwhile, there is nothing left to do.
    """

    def __init__(
        self, config: StreamConfig, *, batch: str, run_id: str, log: Callable[[str], None], confirm: Callable[[], None]
    ) -> None:
        """Describe the run.

        Args:
            confirm: RunSession.confirm() of this run: asked before each hold.
        """
        self._config = config
        self._batch = batch
        self._run_id = run_id
        self._log = log
        self._confirm = confirm
        self._result = StreamResult()
        self._follower: ChampionFollower | None = None
        self._noted: list[str] = []

    def run(self) -> StreamResult:
        """Warm up, wait for the lock, stream; after a transient fault again.

        Raises:
            RunEndedError: somebody has ended this run's record.
            NoChampionError, BundleError: there is nothing to score with.
            TopicMissingError: there is nothing to read.
            UnknownBatchError: the ledger does not know the batch.
            RangeLostError: Kafka no longer holds what comes next.
            PublishError, KafkaException, psycopg.OperationalError: a server was away for GIVE_UP_SECONDS, or refuses.
        """
        failing_since: float | None = None
        pause, attempts = FIRST_PAUSE_SECONDS, 0
        while True:
            began, commits = time.monotonic(), self._result.commits
            try:
                self._confirm()
                self._hold()
            except (KafkaException, psycopg.OperationalError, PlatformError) as error:
                if not is_transient(error):
                    raise
                now = time.monotonic()
                if failing_since is None or self._result.commits > commits or now - began > LONG_HOLD_SECONDS:
                    failing_since, pause, attempts = now, FIRST_PAUSE_SECONDS, 0
                if now - failing_since >= GIVE_UP_SECONDS:
                    raise
                attempts += 1
                self._note(f"Attempt {attempts} in {pause:.1f} s, after a fault: {one_line(error)}", error)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._say_what_was_noted()
                return self._result

    def _hold(self) -> None:
        """Once through: warm up, wait for the lock, stream."""
        loop = BatchLoop(
            self._config,
            batch=self._batch,
            run_id=self._run_id,
            log=self._log,
            follower=self._follower,
            result=self._result,
        )
        self._follower = loop.follower

        loop.run(lambda _: self._say_what_was_noted())

    def _note(self, line: str, error: Exception) -> None:
        """Say it in the process' log now, and in the run's as soon as that can be written: it is kept in PostgreSQL."""
        _python_log.warning("Batch %s: %s", self._batch, line)
        self._noted.append(f"{datetime.now(UTC):%H:%M:%S} UTC: {line}")
        if not isinstance(error, psycopg.OperationalError):
            self._say_what_was_noted()

    def _say_what_was_noted(self) -> None:
        for line in self._noted:
            self._log(line)
        self._noted.clear()


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())
