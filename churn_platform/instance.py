"""Dagster's own storage in PostgreSQL, on connections that are kept; `dagster.yaml` of a running stack names it."""

import threading
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Final, Self

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import Engine, create_engine

KEPT_CONNECTIONS: Final = 3
# Dagster's threads wait for each other's queries no more than they did when each had a connection of its own.
MORE_CONNECTIONS: Final = 30

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


class KeptPostgresStorage(DagsterPostgresStorage):
    """Dagster's storage with one pool of connections in each process, however many instances it makes.

    Dagster's own connects for every query, 20 times a second when nothing happens at all: more than half of what an
    idle stack spends. It also looks at each new instance whether its tables are there, and every tick of a sensor makes
    an instance. A connection is tried before it is used again, so that a restart of PostgreSQL is noticed by nobody.
    What its tables have is asked until the answer is yes: they lose nothing again.
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
            for question in SCHEMA_QUESTIONS:
                if hasattr(storage, question):
                    place = (postgres_url, type(storage).__name__)
                    setattr(storage, question, partial(_ask_until_yes, getattr(storage, question), *place))

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


def _ask_until_yes(question: Callable[..., bool], postgres_url: str, storage: str, *arguments: object) -> bool:
    """The answer; a connection among the arguments makes no other question of it."""
    named = " ".join((question.__name__, *(each for each in arguments if isinstance(each, str))))
    if (postgres_url, storage, named) in _affirmed:
        return True
    answer = question(*arguments)
    if answer:
        _affirmed.add((postgres_url, storage, named))
    return answer
