"""Where searches for hyperparameters are kept: Optuna's tables, in a schema of their own in the platform's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg

if TYPE_CHECKING:
    import optuna

SCHEMA: Final = "optuna"


def study_storage(dsn: str) -> optuna.storages.RDBStorage:
    """Optuna's storage in this database; its tables are made when they are not there."""
    import optuna

    def connect() -> psycopg.Connection:
        return psycopg.connect(dsn, options=f"-csearch_path={SCHEMA}", application_name="churn study")

    # The address only says which database it is: connections, and with them the password, are made above.
    return optuna.storages.RDBStorage("postgresql+psycopg://", engine_kwargs={"creator": connect, "pool_size": 1})
