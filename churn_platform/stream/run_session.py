"""The session in PostgreSQL that shows that a run is alive, from its start to its end.

A run connects, waits, streams, explains and replays. In all these phases, this one session shows that its process is
alive. The session holds a lock of the run. Whoever declares the run dead has to acquire that lock first, so that a run
is never both alive and declared dead.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

import psycopg

from churn_platform.database import advisory_locks
from churn_platform.database.connections import connect
from churn_platform.stream.exceptions import RunEndedError
from churn_platform.stream.limits import DEFAULT_LIMITS, Limits

_python_log = logging.getLogger(__name__)

# Pause before another attempt to reconnect.
RETRY_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 10
STOP_SECONDS: Final = 2.0


class RunSession:
    """Keeps a session for a run, and connects again when it is lost."""

    def __init__(
        self, dsn: str, run_id: str, *, has_ended: Callable[[], bool], limits: Limits = DEFAULT_LIMITS
    ) -> None:
        """Create the session; open() connects.

        Args:
            dsn: connection string of the database.
            run_id: Dagster's id of the run.
            has_ended: whether the end of this run was recorded. It is called after each connect, when nobody else can
                record the end any more.
            limits: how often the session sends a heartbeat, and when PostgreSQL ends it.
        """
        self._limits = limits
        self._dsn = dsn
        self._run_id = run_id
        self._has_ended = has_ended
        self._connection: psycopg.Connection | None = None
        self._ended = False
        self._using = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="run session", daemon=True)

    def open(self) -> None:
        """Connect, and stay connected.

        Raises:
            RunEndedError: see confirm().
            psycopg.OperationalError: PostgreSQL does not answer.
        """
        self.confirm()
        self._thread.start()

    def confirm(self) -> None:
        """Make sure that the session is connected: as long as it lasts, nobody declares this run dead.

        Raises:
            RunEndedError: the run was declared dead, or cancelled, while it had no session.
            psycopg.OperationalError: PostgreSQL does not answer.
        """
        with self._using:
            if not self._ended and not self._is_connected():
                self._connect()
        if self._ended:
            raise RunEndedError(
                f"Run {self._run_id} was recorded as ended while it was still working: it had lost its session in "
                f"PostgreSQL and was declared dead, or it was cancelled. It stops here and reports nothing. Its "
                f"commits are kept, and another run continues.",
                remedy="The run's events show who ended it. Was its machine frozen, or disconnected from PostgreSQL?",
            )

    def close(self) -> None:
        """End the session. May be called before open()."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        with self._using:
            self._disconnect()

    def _is_connected(self) -> bool:
        if self._connection is None or self._connection.closed:
            return False
        try:
            self._connection.execute("select 1")
        except psycopg.Error:
            return False
        return True

    def _connect(self) -> None:
        self._disconnect()
        self._connection = connect(
            self._dsn,
            autocommit=True,
            application_name=advisory_locks.run_session_name(self._run_id),
            connect_timeout=CONNECT_SECONDS,
        )
        advisory_locks.take_lease(
            self._connection,
            idle_seconds=self._limits.lease_seconds,
            statement_seconds=self._limits.statement_seconds,
        )
        advisory_locks.lock_run(self._connection, self._run_id)
        if self._has_ended():
            self._ended = True
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _keep(self) -> None:
        pause = self._limits.heartbeat_seconds
        while not self._closed.wait(pause):
            try:
                self.confirm()
                pause = self._limits.heartbeat_seconds
            except RunEndedError:
                return  # confirm() also raises it in the run
            except Exception as error:  # PostgreSQL or Dagster's storage is down; the run itself handles that
                _python_log.warning("The session of run %s was lost and is being reconnected: %s", self._run_id, error)
                pause = RETRY_SECONDS


_kept: RunSession | None = None


def keep_to_the_end(session: RunSession) -> None:
    """Leave a session open until this process ends, or keeps the session of another run.

    A run whose asset has returned is not over until Dagster has recorded its success.
    """
    global _kept
    end_kept()
    _kept = session


def end_kept() -> None:
    """End the session that was left open, if there is one."""
    global _kept
    if _kept is not None:
        _kept.close()
    _kept = None
