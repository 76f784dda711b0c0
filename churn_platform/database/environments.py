"""The tables environment_identity, environments and created_topics.

They record which environment this database is, the Kafka that it belongs to, the environments that use it, and the
topics that the platform created.
"""

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import class_row

# A sensor reports about every five seconds, so an environment that was silent for a minute is not running.
SILENT_SECONDS: Final = 60


@dataclass(frozen=True)
class Binding:
    """Where in Kafka the predictions of a database are published.

    `claims_topic_id` identifies the Kafka cluster. A cluster id does not: all containers of Kafka's own image have the
    same one.
    """

    claims_topic_id: str
    predictions_topic: str
    stream_group: str


def exists(connection: psycopg.Connection) -> bool:
    """Return whether the database has the tables of this module."""
    return connection.execute("select to_regclass('environment_identity') is not null").fetchone() == (True,)


def find_id(connection: psycopg.Connection) -> str | None:
    """Return the id of this database's environment; None if there is none yet, or no tables yet."""
    if not exists(connection):
        return None
    row = connection.execute("select id::text from environment_identity").fetchone()
    return None if row is None else str(row[0])


def identify(connection: psycopg.Connection) -> str:
    """Return the id of this database's environment. The first call creates it.

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
    """Return where this database's predictions are published; None if that is not recorded yet."""
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
        replace: whether to replace what was recorded before. Otherwise the first record stays.
    """
    connection.execute(
        """
        update environment_identity set claims_topic_id = %s, predictions_topic = %s, stream_group = %s
        where %s or claims_topic_id is null
        """,
        (binding.claims_topic_id, binding.predictions_topic, binding.stream_group, replace),
    )


def record_running(connection: psycopg.Connection, environment: str) -> None:
    """Record that this environment is running."""
    connection.execute(
        """
        insert into environments (environment) values (%s) on conflict (environment) do update set seen = now()
        """,
        (environment,),
    )


def running(connection: psycopg.Connection) -> dict[str, float]:
    """Return the environments that are running, the latest first, and the seconds since each last reported.

    Empty for a database without the table, which was not migrated yet.
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


def record_created_topic(connection: psycopg.Connection, *, topic_id: str, topic: str) -> None:
    """Record that the platform created this topic."""
    connection.execute("insert into created_topics (topic_id, topic) values (%s, %s)", (topic_id, topic))


def created_topics(connection: psycopg.Connection) -> dict[str, str]:
    """Return the topics that the platform created: Kafka's id -> name. They may have been deleted since."""
    rows = connection.execute("select topic_id, topic from created_topics order by created_at, topic")
    return dict(rows.fetchall())
