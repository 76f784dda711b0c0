"""Where searches for hyperparameters are kept: Optuna's tables, in a schema of their own in the platform's database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

if TYPE_CHECKING:
    import optuna

SCHEMA: Final = "optuna"


@contextmanager
def study_storage(dsn: str) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna's storage in this database; its tables are made when they are not there. No connection is left open."""
    import optuna

    def connect() -> psycopg.Connection:
        return psycopg.connect(dsn, options=f"-csearch_path={SCHEMA}", application_name="churn study")

    # The address only says which database it is: connections, and with them the password, are made above.
    storage = optuna.storages.RDBStorage("postgresql+psycopg://", engine_kwargs={"creator": connect, "pool_size": 1})
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
