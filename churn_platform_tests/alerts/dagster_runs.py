"""Dagster's own tables as a stack has them: an instance in the platform's database, with runs and heartbeats."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from dagster._daemon.types import DaemonHeartbeat
from psycopg.conninfo import conninfo_to_dict

from churn_platform.deployment.dagster_home import STORAGE
from churn_platform.local.postgres import in_schema


def dagster_address(database: str) -> str:
    """Return what DAGSTER_POSTGRES_URL has to be for an instance in this database."""
    parts = conninfo_to_dict(database)
    address = f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    return in_schema(address, "dagster")


@contextmanager
def dagster_instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    """Open an instance in the database that DAGSTER_POSTGRES_URL names."""
    (folder / "dagster.yaml").write_text(STORAGE)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


def job(name: str, work: Callable[[], None]) -> dg.JobDefinition:
    """Return a job of one op."""

    @dg.op(name=f"{name}_op")
    def operation() -> None:
        work()

    @dg.job(name=name, executor_def=dg.in_process_executor)
    def defined() -> None:
        operation()

    return defined


def fail() -> None:
    """Fail with a text that no message may have."""
    raise ValueError("s3cret")


def succeed() -> None:
    """Do nothing."""


def add_heartbeat(instance: dg.DagsterInstance, *, seconds_ago: float) -> None:
    """Record the latest heartbeat of the daemon."""
    instance.add_daemon_heartbeat(DaemonHeartbeat(datetime.now(UTC).timestamp() - seconds_ago, "SENSOR", "1", []))
