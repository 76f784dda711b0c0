"""The dashboard's connections to PostgreSQL: one login that reads, and one that changes cases."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Final

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.exceptions import BusyError
from churn_platform.database.connections import open_pool

NAME: Final = "churn dashboard"
QUERY_SECONDS: Final = 5
"""A query that takes longer is canceled, and the page says so."""
EXPORT_SECONDS: Final = 120
"""The same for a file, which may have a million rows."""
CONNECT_SECONDS: Final = 3
# Every request needs one for a few milliseconds. More would only make the two cores of a small machine wait.
MOST_CONNECTIONS: Final = 6
# Classes of SQLSTATE: connection exception, insufficient resources, operator intervention, system error.
_UNAVAILABLE: Final = ("08", "53", "57", "58")
# A file keeps its connection until it is downloaded. The other connections are for pages.
MOST_EXPORTS: Final = 2


class UnavailableError(Exception):
    """PostgreSQL does not answer."""


class Databases:
    """Pools of connections, which are opened when they are first needed and again after PostgreSQL was away."""

    def __init__(self, config: DashboardConfig) -> None:
        """Create the pools; nothing is opened."""
        self._reader = self._pool(config.reader_dsn)
        self._retention = self._pool(config.retention_dsn)
        self._exports = BoundedSemaphore(MOST_EXPORTS)

    def close(self) -> None:
        """Close all connections."""
        self._reader.close()
        self._retention.close()

    @contextmanager
    def reading(self, *, seconds: int = QUERY_SECONDS) -> Iterator[psycopg.Connection]:
        """Open a transaction that sees one state of the database and changes nothing.

        Args:
            seconds: how long a statement may take.

        Raises:
            UnavailableError: PostgreSQL does not answer.
            psycopg.errors.QueryCanceled: a statement took longer.
        """
        with self._connection(self._reader) as connection, connection.transaction():
            connection.execute("set transaction isolation level repeatable read read only")
            connection.execute("select set_config('statement_timeout', %s, true)", (f"{seconds}s",))
            yield connection

    @contextmanager
    def exporting(self) -> Iterator[psycopg.Connection]:
        """Open a transaction as `reading` does, for a file, which is read as fast as somebody downloads it.

        Raises:
            BusyError: others download files already.
            UnavailableError: PostgreSQL does not answer.
            psycopg.errors.QueryCanceled: a statement took longer than EXPORT_SECONDS.
        """
        if not self._exports.acquire(blocking=False):
            raise BusyError(f"{MOST_EXPORTS} files are being downloaded. Try again when one of them is complete.")
        try:
            with self.reading(seconds=EXPORT_SECONDS) as connection:
                yield connection
        finally:
            self._exports.release()

    @contextmanager
    def changing(self) -> Iterator[psycopg.Connection]:
        """Borrow a connection, in autocommit mode, of the login that changes cases.

        Raises:
            UnavailableError: PostgreSQL does not answer.
        """
        with self._connection(self._retention) as connection:
            yield connection

    @staticmethod
    def _pool(dsn: str) -> ConnectionPool[psycopg.Connection]:
        return open_pool(
            dsn,
            application_name=NAME,
            most=MOST_CONNECTIONS,
            connect_seconds=CONNECT_SECONDS,
            statement_seconds=QUERY_SECONDS,
        )

    @staticmethod
    @contextmanager
    def _connection(pool: ConnectionPool[psycopg.Connection]) -> Iterator[psycopg.Connection]:
        try:
            with pool.connection() as connection:
                yield connection
        except PoolTimeout as error:
            raise UnavailableError(f"no connection within {CONNECT_SECONDS} s") from error
        except psycopg.OperationalError as error:
            # Others, such as a canceled query or a deadlock, come from a server that answers.
            if error.sqlstate is not None and error.sqlstate[:2] not in _UNAVAILABLE:
                raise
            if isinstance(error, psycopg.errors.QueryCanceled):
                raise
            raise UnavailableError(type(error).__name__) from error
