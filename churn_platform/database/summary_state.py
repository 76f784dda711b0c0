"""The table summary_state: what the summary tables were computed with, and how current they are."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg.rows import class_row

from churn_platform.database import replaced_predictions, worker_positions

FOLLOWER: Final = "summaries"
"""Name of the duty that keeps the summary tables, in worker_positions."""

_GET: Final = "select definition, control_share, began, built, followed_at from summary_state"
_BEGIN: Final = """
    insert into summary_state (definition, control_share) values (%s, %s)
    on conflict (only_row) do update set
        definition = excluded.definition, control_share = excluded.control_share, began = now(), built = null,
        followed_at = now()
"""


@dataclass(frozen=True)
class SummaryState:
    """The row of the table.

    Attributes:
        definition: expressions that the summaries were computed with.
        control_share: share of the control arm that the arms follow from, 0..1.
        began: when the worker began to compute the summaries from the first event on.
        built: when they first had all predictions; None until then.
        followed_at: when they were last changed.
    """

    definition: str
    control_share: float
    began: datetime
    built: datetime | None
    followed_at: datetime


def get(connection: psycopg.Connection) -> SummaryState | None:
    """Return the state; None before the worker has begun to compute the summaries."""
    with connection.cursor(row_factory=class_row(SummaryState)) as cursor:
        return cursor.execute(_GET).fetchone()


def begin(connection: psycopg.Connection, *, definition: str, control_share: float) -> None:
    """Record that the summaries are computed from the first event on."""
    connection.execute(_BEGIN, (definition, control_share))


def set_control_share(connection: psycopg.Connection, control_share: float) -> None:
    """Record which share the arms follow from."""
    connection.execute("update summary_state set control_share = %s", (control_share,))


def record_followed(connection: psycopg.Connection, *, is_built: bool) -> None:
    """Record that the summaries were changed now, and whether they have all predictions."""
    connection.execute(
        "update summary_state set followed_at = now(), built = case when %s then coalesce(built, now()) else built end",
        (is_built,),
    )


def uncounted_replays(connection: psycopg.Connection) -> list[str]:
    """Return the replayed batches that the worker has to count again; none before it has begun the summaries."""
    return [] if get(connection) is None else replaced_predictions.batches(connection)


def is_current(connection: psycopg.Connection) -> bool:
    """Return whether the summaries have all commits and replays."""
    state = get(connection)
    return (
        state is not None
        and state.built is not None
        and not worker_positions.behind(connection, FOLLOWER)
        and not replaced_predictions.batches(connection)
    )


def as_of(connection: psycopg.Connection) -> datetime | None:
    """Return the time that the summaries show: now if they have all commits, else that of the latest change.

    None while they are computed for the first time, or again because the segments changed.
    """
    state = get(connection)
    if state is None or state.built is None:
        return None
    row = connection.execute("select now()").fetchone()
    return row[0] if row is not None and is_current(connection) else state.followed_at
