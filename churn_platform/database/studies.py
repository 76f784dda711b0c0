"""Hyperparameter searches: Optuna's tables, in their own schema of the platform's database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from churn_platform.database.connections import connect

if TYPE_CHECKING:
    import optuna

SCHEMA: Final = "optuna"


@contextmanager
def study_storage(dsn: str) -> Iterator[optuna.storages.RDBStorage]:
    """Yield Optuna's storage in this database, with its tables. All connections are closed at the end."""
    import optuna

    def connection() -> psycopg.Connection:
        return connect(dsn, search_path=SCHEMA, application_name="churn study")

    # The URL only names the kind of database: the function above opens the connections, with the password.
    # A search takes minutes and PostgreSQL may restart between two trials, so a connection is tested before its use.
    engine = {"creator": connection, "pool_size": 1, "pool_pre_ping": True}
    storage = optuna.storages.RDBStorage("postgresql+psycopg://", engine_kwargs=engine)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
