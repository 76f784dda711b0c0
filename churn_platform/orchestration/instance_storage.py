"""Dagster's own storage in PostgreSQL with pooled connections; `dagster.yaml` of a running stack names it."""

import threading
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Final, Self

from dagster._serdes import ConfigurableClassData
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)
from dagster_postgres.utils import pg_url_from_config, set_pg_statement_timeout
from sqlalchemy import Engine, create_engine
from sqlalchemy.event import listen

from churn_platform.database.connections import pinned_url
from churn_platform.deployment.variables import DAGSTER_DATABASE_VARIABLE
from churn_platform.settings import load_secret

POOL_SIZE: Final = 3
# Enough for every thread to have a connection, as it has with Dagster's own storage.
MAX_OVERFLOW: Final = 30
NEVER: Final = -1  # SQLAlchemy's value for connections that are never recycled

# Methods of Dagster's storages that query PostgreSQL's catalogue again and again.
SCHEMA_QUERIES: Final = (
    "has_instigators_table",
    "_has_instigators_table",
    "has_built_index",
    "has_run_stats_index_cols",
)

_lock: Final = threading.Lock()
_created: Final[set[str]] = set()
_positive: Final[set[tuple[str, str, str]]] = set()


class PooledPostgresStorage(DagsterPostgresStorage):
    """Dagster's storage with one pool of connections per process, however many instances the process creates.

    Dagster's own storage opens a connection for every query, 20 per second on an idle stack: more than half of the CPU
    time that an idle stack uses. It also checks its tables for each new instance, and every sensor tick creates one.
    Connections are tested before they are reused, so a restart of PostgreSQL fails no request, neither in the daemon
    nor in the web server, which configures its own engine. Queries about the tables' schema are cached once the
    answer is yes, because tables and indexes are never removed.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        postgres_url = pinned_url(postgres_url)
        with _lock:
            super().__init__(postgres_url, should_autocreate_tables and postgres_url not in _created, inst_data)
            _created.add(postgres_url)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _engine(postgres_url)
            # Dagster's own method would replace the engine by one that does not test connections before use.
            storage.optimize_for_webserver = partial(  # type: ignore[method-assign]  # replaced for this object only
                _use_webserver_engine, storage
            )
            for query in SCHEMA_QUERIES:
                if hasattr(storage, query):
                    key = (postgres_url, type(storage).__name__)
                    setattr(storage, query, partial(_cache_positive, getattr(storage, query), *key))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Return the storage that a `dagster.yaml` describes. It has the options of Dagster's own storage.

        Without an address there, it is that of DAGSTER_POSTGRES_URL, which is read as secret settings are.

        Raises:
            SettingsError: neither names an address, or it cannot be read.
        """
        is_described = bool({"postgres_url", "postgres_db"} & set(config_value))
        url = pg_url_from_config(config_value) if is_described else load_secret(DAGSTER_DATABASE_VARIABLE)
        return cls(url, config_value.get("should_autocreate_tables", True), inst_data)


@cache
def _engine(
    postgres_url: str,
    *,
    max_overflow: int = MAX_OVERFLOW,
    pool_recycle: int = NEVER,
    statement_timeout: int | None = None,
) -> Engine:
    """Return the pool of this process.

    Args:
        postgres_url: address, with the settings of the session.
        max_overflow: connections beyond POOL_SIZE.
        pool_recycle: seconds after which a connection is replaced.
        statement_timeout: milliseconds after which PostgreSQL cancels a statement; None means the server's default.
    """
    engine = create_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=POOL_SIZE,
        max_overflow=max_overflow,
        pool_recycle=pool_recycle,
        pool_pre_ping=True,
    )
    if statement_timeout is not None:
        listen(engine, "connect", lambda connection, _: set_pg_statement_timeout(connection, statement_timeout))
    return engine


def _use_webserver_engine(
    storage: PostgresRunStorage | PostgresEventLogStorage | PostgresScheduleStorage,
    statement_timeout: int,
    pool_recycle: int,
    max_overflow: int,
) -> None:
    """Give a storage an engine with the limits from the web server's command line."""
    storage._engine = _engine(
        storage.postgres_url,
        max_overflow=max_overflow,
        pool_recycle=pool_recycle,
        statement_timeout=statement_timeout,
    )


def _cache_positive(query: Callable[..., bool], postgres_url: str, storage: str, *arguments: object) -> bool:
    """Return the answer of a query, cached if positive. Only strings among the arguments distinguish queries."""
    named = " ".join((query.__name__, *(each for each in arguments if isinstance(each, str))))
    if (postgres_url, storage, named) in _positive:
        return True
    answer = query(*arguments)
    if answer:
        _positive.add((postgres_url, storage, named))
    return answer
