"""Where searches for hyperparameters are kept: Optuna's tables, in a schema of their own in the platform's database."""

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
    """Optuna's storage in this database; its tables are made when they are not there. No connection is left open."""
    import optuna

    def connection() -> psycopg.Connection:
        return connect(dsn, search_path=SCHEMA, application_name="churn study")

    # The address only says which database it is: connections, and with them the password, are made above.
    # A search lasts minutes: PostgreSQL may be restarted between two trials, so a connection is tried before its use.
    engine = {"creator": connection, "pool_size": 1, "pool_pre_ping": True}
    storage = optuna.storages.RDBStorage("postgresql+psycopg://", engine_kwargs=engine)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
