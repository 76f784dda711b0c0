"""Which environments work on this database: each one's sensor says so at every tick."""

from typing import Final

import psycopg

# A sensor that works says so every five seconds or so; one that has been silent for a minute is not at work.
SILENT_SECONDS: Final = 60


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
