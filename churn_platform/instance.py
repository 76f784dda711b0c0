"""Dagster's own storage in PostgreSQL, on connections that are kept; `dagster.yaml` of a running stack names it."""

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Self

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import Engine, create_engine

KEPT_CONNECTIONS: Final = 3
# Dagster's threads wait for each other's queries no more than they did when each had a connection of its own.
MORE_CONNECTIONS: Final = 30

_making: Final = threading.Lock()
_made: Final[set[str]] = set()


class KeptPostgresStorage(DagsterPostgresStorage):
    """Dagster's storage with one pool of connections in each process, however many instances it makes.

    Dagster's own connects for every query, 20 times a second when nothing happens at all: more than half of what an
    idle stack spends. It also looks at each new instance whether its tables are there, and every tick of a sensor makes
    an instance. A connection is tried before it is used again, so that a restart of PostgreSQL is noticed by nobody.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        with _making:
            super().__init__(postgres_url, should_autocreate_tables and postgres_url not in _made, inst_data)
            _made.add(postgres_url)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _engine(postgres_url)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The storage that a `dagster.yaml` describes, with the options of Dagster's own."""
        return cls(pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data)


@cache
def _engine(postgres_url: str) -> Engine:
    return create_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=KEPT_CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
        pool_pre_ping=True,
    )
