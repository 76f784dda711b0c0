"""The loop of the resident worker: runs each duty again and again, in a thread and a session of its own.

It knows no duty; process.py assembles them.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import psycopg

from churn_platform.database import advisory_locks
from churn_platform.observability.endpoint import DutyState
from churn_platform.worker.duty import Duty

_log = logging.getLogger("churn.worker")

# Pauses after an error, in seconds: doubled each time up to the largest. PostgreSQL restarts in a few seconds.
FIRST_PAUSE: Final = 1.0
LARGEST_PAUSE: Final = 30.0
# A session that holds the lock of an exclusive duty ends when it is silent for this long, in seconds. A frozen worker
# would keep the lock otherwise.
SILENCE_SECONDS: Final = 60
SESSION_PREFIX: Final = "churn worker "
STOP_SECONDS: Final = 10.0
"""How long a stopping worker waits for its duties."""


class Worker:
    """Runs duties until it is stopped."""

    def __init__(
        self,
        duties: Sequence[Duty],
        connect: Callable[[str], psycopg.Connection],
        *,
        first_pause: float = FIRST_PAUSE,
        largest_pause: float = LARGEST_PAUSE,
    ) -> None:
        """Create the threads; nothing runs yet.

        Args:
            duties: with different names.
            connect: opens a connection in autocommit mode; the argument is the name of the session.
            first_pause: seconds after a first error.
            largest_pause: most seconds after several errors in a row.
        """
        self._stopped = threading.Event()
        self._threads = [
            _DutyThread(duty, connect, self._stopped, first_pause=first_pause, largest_pause=largest_pause)
            for duty in duties
        ]

    def start(self) -> None:
        """Start all duties."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = STOP_SECONDS) -> list[str]:
        """Stop all duties, each after its current run.

        Args:
            seconds: how long to wait for them.

        Returns:
            The names of duties that are still running. Their threads do not keep the process alive.
        """
        self._stopped.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def works(self) -> bool:
        """Return whether every duty has run, and its latest run did not fail. A reserve that waits for a lock works."""
        return all(thread.works for thread in self._threads)

    def states(self) -> dict[str, DutyState]:
        """Return the state of each duty, by its name."""
        return {thread.name: DutyState(thread.works, thread.is_mine) for thread in self._threads}

    def problems(self) -> dict[str, str]:
        """Return the latest error of each duty that has failed since its last success, by the duty's name."""
        return {thread.name: thread.problem for thread in self._threads if thread.problem is not None}


class _DutyThread(threading.Thread):
    """Runs one duty."""

    def __init__(
        self,
        duty: Duty,
        connect: Callable[[str], psycopg.Connection],
        stopped: threading.Event,
        *,
        first_pause: float,
        largest_pause: float,
    ) -> None:
        super().__init__(name=duty.name, daemon=True)
        self.problem: str | None = None
        self.works = False
        self.is_mine = False
        self._duty = duty
        self._connect = connect
        self._stopped = stopped
        self._first_pause, self._largest_pause = first_pause, largest_pause
        self._pause = first_pause

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._connect(f"{SESSION_PREFIX}{self.name}") as connection:
                    self._run_with(connection)
            except Exception as error:  # whatever it is, the other duties go on, and this one is tried again
                self._fail(error)
                self._stopped.wait(self._pause)
                self._pause = min(2 * self._pause, self._largest_pause)

    def _run_with(self, connection: psycopg.Connection) -> None:
        """Run the duty until the worker stops or the duty fails."""
        self.is_mine = not self._duty.exclusive
        if not self.is_mine:
            idle_seconds = SILENCE_SECONDS + math.ceil(self._duty.interval)
            advisory_locks.take_lease(connection, idle_seconds=idle_seconds, statement_seconds=SILENCE_SECONDS)
        while not self._stopped.is_set():
            self.is_mine = self.is_mine or advisory_locks.try_lock_duty(connection, self.name)
            more = self.is_mine and self._duty.run(connection)
            self._succeed()
            if not more:
                self._stopped.wait(self._duty.interval)

    def _succeed(self) -> None:
        if self.problem is not None:
            _log.info("%s works again.", self.name)
        self.problem, self.works, self._pause = None, True, self._first_pause

    def _fail(self, error: Exception) -> None:
        """Log an error when it begins and when it changes, so that an outage of an hour is one line."""
        text = f"{type(error).__name__}: {error}".strip()
        if text != self.problem:
            expected = isinstance(error, psycopg.OperationalError)
            _log.error("%s failed and is tried again: %s", self.name, text, exc_info=None if expected else error)
        self.problem, self.works, self.is_mine = text, False, False
