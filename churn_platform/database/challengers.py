"""The tables challengers, challenger_keys and canary_errors: which model versions are tried on the stream, on whom.

What a canary scores is counted in canary_scores.py.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import psycopg
from psycopg.rows import class_row

from churn_platform.errors import PlatformError
from churn_platform.keyed_shares import KEY_BYTES

Kind = Literal["shadow", "canary"]
EndedBy = Literal["hand", "promotion", "rollback", "failure"]

# The active canary, as part of other statements; null if there is none.
CANARY: Final = "(select challenger from challengers where kind = 'canary' and ended_at is null)"

_SELECT: Final = """
    select challenger, kind, model_version, share, started_at, followed_at, events, errors, ended_at, ended_by, reason
    from challengers
"""
_ACTIVE: Final = _SELECT + " where kind = %s and ended_at is null"
_ALL_ACTIVE: Final = _SELECT + " where ended_at is null order by challenger"
_ROLLED_BACK: Final = """
    where challenger = (select max(challenger) from challengers where kind = 'canary')
      and ended_by in ('rollback', 'failure') and ended_at > now() - make_interval(secs => 3600 * %s)
"""
_SHADOWED: Final = """
    select coalesce(sum(followed_at - started_at), interval '0') as time, coalesce(sum(events), 0)::bigint as events,
        coalesce(bool_or(ended_at is null), false) as is_active
    from challengers where kind = 'shadow' and model_version = %s
"""


class ChallengerError(PlatformError):
    """A challenger cannot be started or stopped."""


@dataclass(frozen=True, kw_only=True)
class Challenger:
    """A row of challengers: one trial of a model version.

    Attributes:
        challenger: its number.
        kind: shadow or canary.
        model_version: that is tried.
        share: of the customers, 0..1.
        started_at: when it was started.
        followed_at: up to when the worker has followed the stream for it; None if it has not begun.
        events: that it scored.
        errors: events that it could not score.
        ended_at: when it ended; None while it is active.
        ended_by: what ended it.
        reason: why it ended.
    """

    challenger: int
    kind: Kind
    model_version: int
    share: float
    started_at: datetime
    followed_at: datetime | None
    events: int
    errors: int
    ended_at: datetime | None
    ended_by: EndedBy | None
    reason: str | None


@dataclass(frozen=True)
class Shadowed:
    """How much a version was tried as a shadow: for how long, and on how many events. Several trials are added up."""

    time: timedelta
    events: int
    is_active: bool


def active(connection: psycopg.Connection, kind: Kind) -> Challenger | None:
    """Return the challenger of this kind that is tried now; None if there is none."""
    with connection.cursor(row_factory=class_row(Challenger)) as cursor:
        return cursor.execute(_ACTIVE, (kind,)).fetchone()


def all_active(connection: psycopg.Connection) -> list[Challenger]:
    """Return every challenger that is tried now, at most one of each kind, the older first."""
    with connection.cursor(row_factory=class_row(Challenger)) as cursor:
        return cursor.execute(_ALL_ACTIVE).fetchall()


def lock_active(connection: psycopg.Connection, kind: Kind) -> Challenger | None:
    """Return what active() does, and keep it active until the caller's transaction ends. Commits do not wait for it."""
    with connection.cursor(row_factory=class_row(Challenger)) as cursor:
        return cursor.execute(_ACTIVE + " for no key update", (kind,)).fetchone()


def get(connection: psycopg.Connection, challenger: int) -> Challenger | None:
    """Return a challenger by its number."""
    with connection.cursor(row_factory=class_row(Challenger)) as cursor:
        return cursor.execute(_SELECT + " where challenger = %s", (challenger,)).fetchone()


def latest(connection: psycopg.Connection, *, limit: int) -> list[Challenger]:
    """Return the latest challengers, the newest first."""
    with connection.cursor(row_factory=class_row(Challenger)) as cursor:
        return cursor.execute(_SELECT + " order by challenger desc limit %s", (limit,)).fetchall()


def latest_shadow(connection: psycopg.Connection) -> int | None:
    """Return the version that is a shadow, or was the latest one; None if there was none."""
    row = connection.execute(
        "select model_version from challengers where kind = 'shadow' order by challenger desc limit 1"
    ).fetchone()
    return None if row is None else int(row[0])


def start(connection: psycopg.Connection, kind: Kind, *, model_version: int, share: float) -> Challenger:
    """Start a challenger. If the version is being tried with another share, that trial ends first.

    Args:
        connection: in a transaction, or in autocommit mode.
        kind: shadow or canary.
        model_version: of model_versions.
        share: of the customers, more than 0, at most 1.

    Raises:
        ChallengerError: another version is being tried. Nothing was changed.
    """
    with connection.transaction():
        connection.execute("lock table challengers in share row exclusive mode")
        current = active(connection, kind)
        if current is not None and current.model_version != model_version:
            raise ChallengerError(
                f"Version {current.model_version} is the {kind} since {current.started_at:%Y-%m-%d %H:%M} UTC, and "
                f"there is at most one. Version {model_version} was not started.",
                remedy=f"Run 'churn model {kind} --stop' first.",
            )
        if current is not None:
            end(connection, current, by="hand", reason=f"It was started again with the share {share:g}.")
        row = connection.execute(
            "insert into challengers (kind, model_version, share) values (%s, %s, %s) returning challenger",
            (kind, model_version, share),
        ).fetchone()
        started = None if row is None else get(connection, row[0])
    if started is None:
        raise RuntimeError("challengers has no row right after an insert; PostgreSQL always has it.")
    return started


def end(connection: psycopg.Connection, challenger: Challenger, *, by: EndedBy, reason: str) -> bool:
    """End a challenger; return whether it was active.

    Args:
        connection: to the platform's database.
        challenger: to end.
        by: what ends it.
        reason: why, in a sentence.
    """
    ended = connection.execute(
        "update challengers set ended_at = now(), ended_by = %s, reason = %s "
        "where challenger = %s and ended_at is null",
        (by, reason, challenger.challenger),
    )
    return ended.rowcount == 1


def end_promoted(connection: psycopg.Connection, model_version: int) -> None:
    """End the trials of a version that has become champion, in the caller's transaction."""
    connection.execute(
        "update challengers set ended_at = now(), ended_by = 'promotion', reason = 'It became champion.' "
        "where model_version = %s and ended_at is null",
        (model_version,),
    )


def record_followed(connection: psycopg.Connection, challenger: Challenger, *, events: int, errors: int = 0) -> None:
    """Record that the worker has followed the stream for a challenger until now, in the caller's transaction.

    Args:
        connection: in the transaction that moves the worker's positions.
        challenger: which one.
        events: that it scored since the last time.
        errors: that take_errors() returned.
    """
    connection.execute(
        "update challengers set followed_at = now(), events = events + %s, errors = errors + %s where challenger = %s",
        (events, errors, challenger.challenger),
    )


def record_errors(connection: psycopg.Connection, challenger: int, errors: int) -> None:
    """Record events of a commit that a canary could not score, more than 0. The worker adds them to `challengers`."""
    connection.execute("insert into canary_errors (challenger, errors) values (%s, %s)", (challenger, errors))


def take_errors(connection: psycopg.Connection, challenger: int) -> int:
    """Return the errors of a canary that were not taken before, in the caller's transaction."""
    row = connection.execute(
        "with taken as (delete from canary_errors where challenger = %s returning errors) "
        "select coalesce(sum(errors), 0)::bigint from taken",
        (challenger,),
    ).fetchone()
    return 0 if row is None else int(row[0])


def shadowed(connection: psycopg.Connection, model_version: int) -> Shadowed:
    """Return how much a version was tried as a shadow."""
    with connection.cursor(row_factory=class_row(Shadowed)) as cursor:
        found = cursor.execute(_SHADOWED, (model_version,)).fetchone()
    if found is None:
        raise RuntimeError("An aggregate without groups returned no row; PostgreSQL always returns one.")
    return found


def rolled_back(connection: psycopg.Connection, *, hours: float) -> Challenger | None:
    """Return the latest canary, if it was ended by a rollback or a failure in the last hours."""
    with connection.cursor(row_factory=class_row(Challenger)) as cursor:
        return cursor.execute(_SELECT + _ROLLED_BACK, (hours,)).fetchone()


def ensure_key(connection: psycopg.Connection, kind: Kind) -> bytes:
    """Return the key that decides which customers are in the share. The first call creates it."""
    connection.execute(
        "insert into challenger_keys (kind, key) values (%s, %s) on conflict do nothing",
        (kind, secrets.token_bytes(KEY_BYTES)),
    )
    row = connection.execute("select key from challenger_keys where kind = %s", (kind,)).fetchone()
    if row is None:
        raise RuntimeError(f"challenger_keys has no key of {kind} right after an insert; PostgreSQL always has it.")
    return bytes(row[0])
