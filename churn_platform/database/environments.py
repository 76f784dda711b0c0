"""Which environment a database is, the Kafka that it belongs to, and which processes work on it."""

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import class_row

# A sensor that works reports every five seconds or so; one that has been silent for a minute is not at work.
SILENT_SECONDS: Final = 60


@dataclass(frozen=True)
class Binding:
    """The one place in Kafka that a database's predictions are published to.

    `claims_topic_id` tells one Kafka from another. A cluster id does not: containers of Kafka's own image share one.
    """

    claims_topic_id: str
    predictions_topic: str
    stream_group: str


def exists(connection: psycopg.Connection) -> bool:
    """Whether the database has the tables of this module."""
    return connection.execute("select to_regclass('environment_identity') is not null").fetchone() == (True,)


def find_id(connection: psycopg.Connection) -> str | None:
    """Id of the environment that this database is; None where it was never needed yet, or has no tables yet."""
    if not exists(connection):
        return None
    row = connection.execute("select id::text from environment_identity").fetchone()
    return None if row is None else str(row[0])


def identify(connection: psycopg.Connection) -> str:
    """Id of the environment that this database is, made the first time.

    Raises:
        psycopg.errors.UndefinedTable: the database has no tables yet.
    """
    row = connection.execute("select id::text from environment_identity").fetchone()
    if row is None:
        connection.execute("insert into environment_identity default values on conflict do nothing")
        row = connection.execute("select id::text from environment_identity").fetchone()
    if row is None:
        raise RuntimeError("environment_identity has no row after one was inserted: something deletes it.")
    return str(row[0])


def find_binding(connection: psycopg.Connection) -> Binding | None:
    """Where this database's predictions are published; None where it is not settled yet."""
    if not exists(connection):
        return None
    with connection.cursor(row_factory=class_row(Binding)) as cursor:
        return cursor.execute(
            """
            select claims_topic_id, predictions_topic, stream_group from environment_identity
            where claims_topic_id is not null
            """
        ).fetchone()


def bind(connection: psycopg.Connection, binding: Binding, *, replace: bool = False) -> None:
    """Record where this database's predictions are published.

    Args:
        replace: what was recorded before; without it the first one stays.
    """
    connection.execute(
        """
        update environment_identity set claims_topic_id = %s, predictions_topic = %s, stream_group = %s
        where %s or claims_topic_id is null
        """,
        (binding.claims_topic_id, binding.predictions_topic, binding.stream_group, replace),
    )


def note(connection: psycopg.Connection, environment: str) -> None:
    """This environment is at work."""
    connection.execute(
        """
        insert into environments (environment) values (%s) on conflict (environment) do update set seen = now()
        """,
        (environment,),
    )


def at_work(connection: psycopg.Connection) -> dict[str, float]:
    """Environments that are at work, the latest first, and for how many seconds each has been silent.

    A database without the table, of an earlier version or not migrated yet, knows of none.
    """
    if connection.execute("select to_regclass('environments')").fetchone() == (None,):
        return {}
    rows = connection.execute(
        """
        select environment, extract(epoch from now() - seen)::double precision from environments
        where seen > now() - make_interval(secs => %s) order by seen desc
        """,
        (SILENT_SECONDS,),
    )
    return dict(rows.fetchall())
