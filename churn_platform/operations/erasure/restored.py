"""Customers whom a restored backup has brought back: they are erased again."""

from churn_platform.database.connections import connect
from churn_platform.operations.erasure import erased_list
from churn_platform.operations.erasure.config import ErasureConfig
from churn_platform.operations.erasure.erase import SESSION, Progress, erase
from churn_platform.operations.erasure.report import Report


def erase_restored(
    config: ErasureConfig, *, erased_by: str, progress: Progress = lambda _: None
) -> tuple[int, list[Report]]:
    """Restore the list of erased customers from its copy, and erase those of whom something is stored.

    Returns:
        How many customers the database's list lacked, and the report of each who was erased.

    Raises:
        ErasureError: the copy belongs to another database, or something holds off erasures.
    """
    with connect(config.environment.dsn, autocommit=True, application_name=SESSION) as connection:
        added = erased_list.restore(connection, config.artifacts_root)
        progress("Looking for erased customers")
        again = erased_list.stored_again(connection, config.artifacts_root, config.environment.schema)
    return added, [erase(config, each, erased_by=erased_by, progress=progress) for each in again]
