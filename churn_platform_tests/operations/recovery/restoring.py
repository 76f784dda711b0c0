"""Restoring a database to an earlier state, while Kafka stays as it is."""

from psycopg.conninfo import conninfo_to_dict

from churn_platform.local.stack import Stack
from churn_platform.stream import run_session
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.stream.streams import Stream, with_changes


def copy_of(stack: Stack, stream: Stream) -> str:
    """Return the connection string of a copy of the stream's database as it is now: it is the same environment.

    The stream gets another connection, because the original of a copy must have none.
    """
    stream.connection.close()
    run_session.end_kept()
    copy = copy_database(stack, database_of(stream.config.dsn))
    stream.__enter__()
    return copy


def database_of(dsn: str) -> str:
    """Return the name of the database that a connection string names."""
    return str(conninfo_to_dict(dsn)["dbname"])


def restored(stream: Stream, copy: str) -> Stream:
    """Return the stream with a copy of its database, as after a restore."""
    return Stream(with_changes(stream.config, dsn=copy))
