"""What a restore asks of the whole database: whether anybody uses it, whether it holds data, and where files are.

The rows of each table belong to the module that owns it.
"""

from typing import Final

import psycopg

from churn_platform.database import environments, migrations, model_versions, stream_batches

# The dump has the record of its migrations, so the record of the present ones is dropped, too.
PRELUDE: Final = "set search_path = public; set lock_timeout = '10s'; drop table if exists schema_migrations restrict;"

_OTHER_SESSIONS: Final = """
    select distinct coalesce(nullif(application_name, ''), 'a session without a name') || ' of ' || usename
    from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
    order by 1
"""


def other_sessions(connection: psycopg.Connection) -> list[str]:
    """Return the names and logins of the other sessions of this database."""
    return [name for (name,) in connection.execute(_OTHER_SESSIONS)]


def holds_data(connection: psycopg.Connection) -> bool:
    """Return whether the platform has written more to this database than its tables: an environment or a model."""
    if not migrations.applied(connection):
        return False
    return environments.find_id(connection) is not None or model_versions.exist(connection)


def move_files(connection: psycopg.Connection, *, old: str, new: str) -> None:
    """Replace the artifacts root in the addresses of bundles and archive files, in the caller's transaction.

    Args:
        connection: in a transaction.
        old: root that the addresses have now.
        new: root below which the files are.
    """
    if old != new:
        model_versions.move_bundles(connection, old=old, new=new)
        stream_batches.move_archives(connection, old=old, new=new)
