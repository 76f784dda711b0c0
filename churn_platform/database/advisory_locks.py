"""Advisory locks and sessions: which run is live, which runs wait, and what must not run at the same time.

A session holds its locks until it ends, so a process that dies releases them. This module owns no table.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg

from churn_platform.database import erased_customers
from churn_platform.lanes import Lane

# First key of the lock that a live stream holds; the second key is the hash of the topic's name.
STREAM_LOCK: Final = 0x63687572  # "chur"
# First key of the lock that the live run of a lane holds, if there are several lanes; the second key is the hash of the
# lane's key. Such runs share the stream's lock, so that whoever holds it alone excludes all of them.
LANE_LOCK: Final = 0x63686C6E  # "chln"
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


@dataclass(frozen=True)
class LaneSessions:
    """Names of the sessions of one lane: the one whose run is live, or None, and those that wait for its lock."""

    holder: str | None
    waiting: Sequence[str]


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
    _wait_for(connection, STREAM_LOCK, topic)


def lock_lane(connection: psycopg.Connection, topic: str, lane: Lane) -> None:
    """Wait for the session lock of a lane, as lock_stream() does. The only lane has the stream's lock itself.

    The run of one of several lanes has to share the stream's lock, too, before it reads: see try_share_stream().
    """
    if lane.of == 1:
        lock_stream(connection, topic)
    else:
        _wait_for(connection, LANE_LOCK, _lane_key(topic, lane.number))


def _wait_for(connection: psycopg.Connection, lock: int, key: str) -> None:
    if _try_lock(connection, lock, key):
        return
    connection.execute("select pg_advisory_lock_shared(%s, hashtext(%s))", (STANDBY_LOCK, key))
    while not _try_lock(connection, lock, key):
        time.sleep(ASK_SECONDS)
    connection.execute("select pg_advisory_unlock_shared(%s, hashtext(%s))", (STANDBY_LOCK, key))


def _lane_key(topic: str, number: int) -> str:
    """Return the second key of a lane's lock. A topic's name has no blank, so it is no other topic's key."""
    return f"{topic} lane {number}"


def _try_lock(connection: psycopg.Connection, lock: int, key: str) -> bool:
    row = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (lock, key)).fetchone()
    return row == (True,)


def try_lock_stream(connection: psycopg.Connection, topic: str) -> bool:
    """Take the lock of the topic's stream if it is free; return whether it was free."""
    return _try_lock(connection, STREAM_LOCK, topic)


def try_share_stream(connection: psycopg.Connection, topic: str) -> bool:
    """Share the lock of the topic's stream, unless a session holds it alone; return whether it is shared now."""
    row = connection.execute("select pg_try_advisory_lock_shared(%s, hashtext(%s))", (STREAM_LOCK, topic)).fetchone()
    return row == (True,)


def stop_sharing_stream(connection: psycopg.Connection, topic: str) -> None:
    """Release the shared lock of the topic's stream."""
    connection.execute("select pg_advisory_unlock_shared(%s, hashtext(%s))", (STREAM_LOCK, topic))


def share_locked_stream(connection: psycopg.Connection, topic: str) -> None:
    """Share the lock of the topic's stream that this session holds alone. No session can hold it alone in between."""
    connection.execute("select pg_advisory_lock_shared(%s, hashtext(%s))", (STREAM_LOCK, topic))
    connection.execute("select pg_advisory_unlock(%s, hashtext(%s))", (STREAM_LOCK, topic))


def holds_stream(connection: psycopg.Connection, topic: str, *, pid: int) -> bool:
    """Return whether the session with this process id holds the lock of the topic's stream, alone or shared."""
    row = connection.execute(
        """
        select exists (
            select from pg_locks
            where locktype = 'advisory' and objsubid = 2 and granted and pid = %(pid)s
              and classid = %(stream)s::bigint::oid and objid = (hashtext(%(topic)s)::bigint & 4294967295)::oid
              and database = (select oid from pg_database where datname = current_database())
        )
        """,
        {"pid": pid, "stream": STREAM_LOCK, "topic": topic},
    ).fetchone()
    return row == (True,)


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
    """Return the name of the session that holds the stream's lock, or None, and the names of those that wait for it.

    If there are several lanes, their live runs share the lock: then this is the name of one of them.
    """
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


def lane_sessions(connection: psycopg.Connection, topic: str, lanes: int) -> list[LaneSessions]:
    """Return the sessions of each lane, lane 0 first.

    Args:
        connection: to the database.
        topic: name of the events topic.
        lanes: number of lanes that is in effect.
    """
    keys = [topic] if lanes == 1 else [_lane_key(topic, number) for number in range(lanes)]
    found = connection.execute(
        """
        with locks as (
            select pid, classid, objid from pg_locks
            where locktype = 'advisory' and objsubid = 2 and granted
              and classid in (%(stream)s::bigint::oid, %(lane)s::bigint::oid, %(standby)s::bigint::oid)
              and database = (select oid from pg_database where datname = current_database())
        )
        select k.number - 1, application_name, l.classid <> %(standby)s::bigint::oid and exists (
            select from locks s
            where s.pid = l.pid and s.classid = %(stream)s::bigint::oid
              and s.objid = (hashtext(%(topic)s)::bigint & 4294967295)::oid
        )
        from unnest(%(keys)s::text[]) with ordinality as k (key, number)
        join locks l on l.objid = (hashtext(k.key)::bigint & 4294967295)::oid
        join pg_stat_activity using (pid)
        order by backend_start
        """,
        {"stream": STREAM_LOCK, "lane": LANE_LOCK, "standby": STANDBY_LOCK, "topic": topic, "keys": keys},
    ).fetchall()
    sessions = []
    for lane in range(lanes):
        own = [(name, is_live) for number, name, is_live in found if number == lane]
        holder = next((name for name, is_live in own if is_live), None)
        sessions.append(LaneSessions(holder, [name for name, is_live in own if not is_live and name != holder]))
    return sessions


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
