"""Advisory locks and sessions: which run is live, which runs wait, and what must not run at the same time.

A session holds its locks until it ends, so a process that dies releases them. This module owns no table.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg

from churn_platform.database import erased_customers

# First key of the lock that a live stream holds; the second key is the hash of the topic's name.
STREAM_LOCK: Final = 0x63687572  # "chur"
# First key of the lock that runs share while they wait for that one, so that others see them waiting.
STANDBY_LOCK: Final = 0x63687362  # "chsb"
# Pause between two requests for the stream's lock. A takeover waits for half of it on average.
ASK_SECONDS: Final = 0.1
SESSION_PREFIX: Final = "churn stream "
# First key of the lock that a run holds while it is alive; the second key is the hash of its id.
RUN_LOCK: Final = 0x6372756E  # "crun"
RUN_SESSION_PREFIX: Final = "churn run "
# First key of the lock of the worker that runs an exclusive duty; the second key is the hash of the duty's name.
DUTY_LOCK: Final = 0x63647479  # "cdty"
# First key of the lock that a sender of alerts holds; the second key is its number, which its messages carry.
SENDER_LOCK: Final = 0x6373656E  # "csen"
# Held by the session that archives. Two at the same time would write the same file.
ARCHIVE_LOCK: Final = 0x6368757261726368  # "churarch"


def session_name(run_id: str) -> str:
    """Return the application name of a streaming run's connection in pg_stat_activity."""
    return f"{SESSION_PREFIX}{run_id}"


def run_session_name(run_id: str) -> str:
    """Return the application name of the session that a run of any job keeps from its start to its end."""
    return f"{RUN_SESSION_PREFIX}{run_id}"


def streaming_sessions(connection: psycopg.Connection) -> set[str]:
    """Return the Dagster ids of the runs that have a session in PostgreSQL. These runs are alive."""
    names = connection.execute(
        """
        select application_name from pg_stat_activity
        where starts_with(application_name, %s) or starts_with(application_name, %s)
        """,
        (RUN_SESSION_PREFIX, SESSION_PREFIX),
    )
    return {name.removeprefix(RUN_SESSION_PREFIX).removeprefix(SESSION_PREFIX) for (name,) in names}


def lock_run(connection: psycopg.Connection, run_id: str) -> None:
    """Hold the lock of a live run until the session ends. Several sessions of the run may hold it."""
    connection.execute("select pg_advisory_lock_shared(%s, hashtext(%s))", (RUN_LOCK, run_id))


@contextmanager
def run_is_dead(connection: psycopg.Connection, run_id: str) -> Iterator[bool]:
    """Yield whether no session holds the lock of this run. If so, no session can take it before the block ends."""
    row = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (RUN_LOCK, run_id)).fetchone()
    locked = row is not None and row[0]
    try:
        yield locked
    finally:
        if locked:
            connection.execute("select pg_advisory_unlock(%s, hashtext(%s))", (RUN_LOCK, run_id))


def lock_stream(connection: psycopg.Connection, topic: str) -> None:
    """Wait for the session lock of the topic's stream. The run that holds it is the live one.

    It asks for the lock again and again. A statement that waits for it would keep its snapshot for minutes, in which
    PostgreSQL may remove no old version of any row. The rows that every commit changes would have thousands of
    versions, and each commit would search all of them.
    """
    if try_lock_stream(connection, topic):
        return
    connection.execute("select pg_advisory_lock_shared(%s, hashtext(%s))", (STANDBY_LOCK, topic))
    while not try_lock_stream(connection, topic):
        time.sleep(ASK_SECONDS)
    connection.execute("select pg_advisory_unlock_shared(%s, hashtext(%s))", (STANDBY_LOCK, topic))


def try_lock_stream(connection: psycopg.Connection, topic: str) -> bool:
    """Take the lock of the topic's stream if it is free; return whether it was free."""
    row = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (STREAM_LOCK, topic)).fetchone()
    return row is not None and row[0]


def try_lock_duty(connection: psycopg.Connection, duty: str) -> bool:
    """Take the lock of a duty of the resident worker if it is free; return whether it was free."""
    row = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (DUTY_LOCK, duty)).fetchone()
    return row == (True,)


def lock_sender(connection: psycopg.Connection) -> int:
    """Return a new number of a sender of alerts, whose lock this session holds until it ends."""
    while True:
        number = secrets.randbelow(2**31)
        if connection.execute("select pg_try_advisory_lock(%s, %s)", (SENDER_LOCK, number)).fetchone() == (True,):
            return number


def lock_sessions(connection: psycopg.Connection, topic: str) -> tuple[str | None, list[str]]:
    """Return the name of the session that holds the stream's lock, or None, and the names of those that wait for it."""
    sessions = connection.execute(
        """
        select classid = %(stream)s::bigint::oid, application_name
        from pg_locks join pg_stat_activity using (pid)
        where locktype = 'advisory' and objsubid = 2 and granted
          and classid in (%(stream)s::bigint::oid, %(standby)s::bigint::oid)
          and objid = (hashtext(%(topic)s)::bigint & 4294967295)::oid
          and database = (select oid from pg_database where datname = current_database())
        order by backend_start
        """,
        {"stream": STREAM_LOCK, "standby": STANDBY_LOCK, "topic": topic},
    ).fetchall()
    holder = next((name for is_live, name in sessions if is_live), None)
    return holder, [name for is_live, name in sessions if not is_live and name != holder]


def take_lease(connection: psycopg.Connection, *, idle_seconds: int, statement_seconds: int) -> None:
    """Make PostgreSQL end this session, and so release its locks, if its process is silent for this long.

    Without these timeouts a process that is frozen or cut off from the network keeps its session and its locks.
    """
    idle, statement = f"{idle_seconds}s", f"{statement_seconds}s"
    connection.execute(
        """
        select set_config('idle_session_timeout', %s, false),
            set_config('idle_in_transaction_session_timeout', %s, false),
            set_config('statement_timeout', %s, false)
        """,
        (idle, idle, statement),
    )


@contextmanager
def replay_transaction(connection: psycopg.Connection, batch: str) -> Iterator[None]:
    """Run the block in one transaction that excludes other replays and the archiving of the batch, and erasures."""
    with connection.transaction():
        erased_customers.hold_off(connection)
        lock_batches(connection, [batch])
        yield


def lock_batches(connection: psycopg.Connection, batches: Sequence[str]) -> None:
    """Exclude replays of these batches until the caller's transaction ends."""
    connection.execute(
        "select pg_advisory_xact_lock(hashtextextended(batch, 0)) from unnest(%s::text[]) as b (batch)", (batches,)
    )


@contextmanager
def archive_lock(connection: psycopg.Connection) -> Iterator[bool]:
    """Yield whether this session may archive; False while another session archives."""
    held = connection.execute("select pg_try_advisory_lock(%s)", (ARCHIVE_LOCK,)).fetchone() == (True,)
    try:
        yield held
    finally:
        if held:
            connection.execute("select pg_advisory_unlock(%s)", (ARCHIVE_LOCK,))
