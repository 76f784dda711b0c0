"""Separate servers for a benchmark: the embedded stack in a temporary folder, on free ports."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg import sql

from churn_platform.database.migrations import upgrade
from churn_platform.local.environment import OWNER_VARIABLE, SERVERS
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform.local.supervision import left_over
from churn_platform.schema.current import schema_of
from churn_platform.settings import settings

NO_ENV_FILE: Final = Path(os.devnull)


@contextmanager
def own_stack(given: Mapping[str, str] | None = None, *, services_only: bool = True) -> Iterator[Stack]:
    """Run a stack while the context lasts. The settings of this process name its servers.

    Args:
        given: settings for the stack's processes and this one, in addition to those of the environment.
        services_only: whether to leave out Dagster.
    """
    folder = Path(tempfile.mkdtemp(prefix="churn-bench-"))
    folder.chmod(0o711)  # under root, PostgreSQL runs as another user, who must traverse it
    yours = {*SERVERS.values(), OWNER_VARIABLE}
    environment = {name: value for name, value in os.environ.items() if name not in yours} | dict(given or {})
    stack = Stack(
        folder, services_only=services_only, usual_ports=ANY_FREE_PORTS, given=environment, env_file=NO_ENV_FILE
    )
    before = dict(os.environ)
    try:
        with stack:
            os.environ.update({**environment, **stack.environment})
            settings.cache_clear()
            yield stack
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()
        shutil.rmtree(folder)


def processes(stack: Stack) -> list[psutil.Process]:
    """Return the processes of the stack, including PostgreSQL's, which lack the variable that identifies the others."""
    found = {process.pid: process for process in left_over(stack.local)}
    for process in list(found.values()):
        with suppress(psutil.NoSuchProcess):  # a run may end at any moment
            found.update({child.pid: child for child in process.children(recursive=True)})
    return list(found.values())


def cpu_seconds(stack: Stack) -> float:
    """Return the CPU time of all processes of the stack, including their ended children."""
    spent = 0.0
    for process in processes(stack):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def new_database(stack: Stack, name: str) -> str:
    """Create a migrated database, and return the connection string for the platform's login."""
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    upgrade(owner_of(stack, name), schema_of(settings()))
    return _named(stack.addresses["postgres"], name)


def owner_of(stack: Stack, name: str) -> str:
    """Return the connection string of the owner of a database's tables."""
    return _named(stack.owner_dsn, name)


def vacuum(owner: str) -> None:
    """Do what autovacuum would have done, statistics included.

    Args:
        owner: connection string of the owner of the tables. With another login, PostgreSQL would skip them and warn.
    """
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("vacuum analyze")


def _named(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()
