"""The lock of a lane, as a lease: whoever holds it has to send heartbeats, or PostgreSQL ends the session."""

import time
from collections.abc import Callable

import psycopg

from churn_platform.database import advisory_locks, ledger
from churn_platform.database.connections import connect
from churn_platform.stream.exceptions import LockLostError
from churn_platform.stream.run_context import RunContext


class Lease:
    """The lock of the run's lane, held by the connection that commits.

    Only one thread may use the connection at a time: after the takeover that is the writer's.
    """

    def __init__(self, run: RunContext, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Connect; acquire() waits for the lock.

        Raises:
            psycopg.OperationalError: PostgreSQL does not answer.
        """
        self._topic = run.config.events_topic
        self._lane = run.lane
        self._limits = run.limits
        self._monotonic = monotonic
        self._abandoned = False
        self.connection: psycopg.Connection = connect(
            run.config.dsn,
            autocommit=True,
            application_name=advisory_locks.session_name(run.run_id),
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )

    def acquire(self) -> float:
        """Wait for the lock, then make it a lease: PostgreSQL ends a silent session. Return the seconds waited."""
        began = self._monotonic()
        advisory_locks.lock_lane(self.connection, self._topic, self._lane)
        waited = self._monotonic() - began
        advisory_locks.take_lease(
            self.connection,
            idle_seconds=self._limits.lease_seconds,
            statement_seconds=self._limits.statement_seconds,
        )
        # Each commit executes the same statement and finds its rows by key. PostgreSQL plans it once, and the plan has
        # to suit tables that grow meanwhile.
        self.connection.execute("set plan_cache_mode = force_generic_plan")
        self.connection.execute("set enable_seqscan = off")
        return waited

    def heartbeat(self) -> ledger.Heartbeat:
        """Keep the session alive while there is nothing to commit, and return what a run has to know."""
        return ledger.heartbeat(self.connection, self._topic, lanes=self._lane.of)

    def require_held(self, connection: psycopg.Connection) -> None:
        """Check over another connection that this session still holds the stream's lock.

        Raises:
            LockLostError: it does not: PostgreSQL has ended it, for example because this process was frozen.
        """
        if not advisory_locks.holds_stream(connection, self._topic, pid=self.connection.info.backend_pid):
            raise LockLostError(
                f"PostgreSQL has ended the session that held the lock of {self._topic!r}, {self._lane}. Nothing was "
                f"published since. What is not published yet is published by the run that has the lock next."
            )

    def abandon(self) -> None:
        """Leave the connection to PostgreSQL's time-outs: a thread that does not return still uses it."""
        self._abandoned = True

    def release(self) -> None:
        """Close the connection, which frees the lock."""
        if not self._abandoned:
            self.connection.close()
