"""What the tests share: one set of real servers for the session, and a helper that waits."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_platform.local.environment import SERVERS
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform_tests.waiting import wait_until

__all__ = ["wait_until"]


@pytest.fixture(scope="session")
def embedded_only() -> dict[str, str]:
    """This environment without servers of the developer's: tests never touch those."""
    return {name: value for name, value in os.environ.items() if name not in SERVERS.values()}


@pytest.fixture(scope="session")
def local_folder() -> Iterator[Path]:
    """A short path that another user may pass through (root's Postgres runs as one), unlike pytest's own folders."""
    folder = Path(tempfile.mkdtemp(prefix="churn-tests-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stack(embedded_only: dict[str, str], local_folder: Path) -> Iterator[Stack]:
    """Kafka, Postgres (migrated) and MLflow, up for the whole session; `settings()` and new processes find them."""
    stack = Stack(
        local_folder, services_only=True, usual_ports=ANY_FREE_PORTS, given=embedded_only, env_file=Path(os.devnull)
    )
    with stack, pytest.MonkeyPatch.context() as environment:
        for name, value in stack.environment.items():
            environment.setenv(name, value)
        settings.cache_clear()
        yield stack
    settings.cache_clear()
