"""Dagster's own storage in PostgreSQL, on connections that are kept; `dagster.yaml` of a running stack names it."""

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

KEPT_CONNECTIONS: Final = 3
# Dagster's threads wait for each other's queries no more than they did when each had a connection of its own.
MORE_CONNECTIONS: Final = 30
NEVER: Final = -1  # SQLAlchemy's number for a connection that is kept for as long as it works

# Questions about Dagster's own tables that its storages put to PostgreSQL's catalogue again and again.
SCHEMA_QUESTIONS: Final = (
    "has_instigators_table",
    "_has_instigators_table",
    "has_built_index",
    "has_run_stats_index_cols",
)

_making: Final = threading.Lock()
_made: Final[set[str]] = set()
_affirmed: Final[set[tuple[str, str, str]]] = set()


class PooledPostgresStorage(DagsterPostgresStorage):
    """Dagster's storage with one pool of connections in each process, however many instances it makes.

    Dagster's own connects for every query, 20 times a second when nothing happens at all: more than half of what an
    idle stack spends. It also looks at each new instance whether its tables are there, and every tick of a sensor makes
    an instance. A connection is tried before it is used again, so a restart of PostgreSQL fails no request, neither in
    the daemon nor in the web server, which asks its storage for an engine of its own. What its tables have is asked
    until the answer is yes: they lose nothing again.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        postgres_url = pinned_url(postgres_url)
        with _making:
            super().__init__(postgres_url, should_autocreate_tables and postgres_url not in _made, inst_data)
            _made.add(postgres_url)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _engine(postgres_url)
            # Dagster's own method would replace the engine by one that does not try a connection before its use.
            storage.optimize_for_webserver = partial(  # type: ignore[method-assign]  # of this one storage
                _use_webserver_engine, storage
            )
            for question in SCHEMA_QUESTIONS:
                if hasattr(storage, question):
                    place = (postgres_url, type(storage).__name__)
                    setattr(storage, question, partial(_cache_positive, getattr(storage, question), *place))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The storage that a `dagster.yaml` describes, with the options of Dagster's own."""
        return cls(pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data)


@cache
def _engine(
    postgres_url: str,
    *,
    max_overflow: int = MORE_CONNECTIONS,
    pool_recycle: int = NEVER,
    statement_timeout: int | None = None,
) -> Engine:
    """The pool of this process.

    Args:
        postgres_url: with the session's settings in it.
        max_overflow: connections beyond those that are kept.
        pool_recycle: seconds after which a connection is replaced.
        statement_timeout: milliseconds after which PostgreSQL ends a statement; None leaves that to the server.
    """
    engine = create_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=KEPT_CONNECTIONS,
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
    """Give a storage the web server's limits, which its command line names."""
    storage._engine = _engine(
        storage.postgres_url,
        max_overflow=max_overflow,
        pool_recycle=pool_recycle,
        statement_timeout=statement_timeout,
    )


def _cache_positive(question: Callable[..., bool], postgres_url: str, storage: str, *arguments: object) -> bool:
    """The answer; a connection among the arguments makes no other question of it."""
    named = " ".join((question.__name__, *(each for each in arguments if isinstance(each, str))))
    if (postgres_url, storage, named) in _affirmed:
        return True
    answer = question(*arguments)
    if answer:
        _affirmed.add((postgres_url, storage, named))
    return answer
