"""The resident worker as a part of the stack."""

import sys
from pathlib import Path

from churn_platform.local.part import Part
from churn_platform.settings import PROJECT_ROOT
from churn_platform.worker.heartbeat import is_alive

NAME = "worker"


def part(*, folder: Path) -> Part:
    """Return the worker. It listens nowhere; its heartbeat is a file.

    Args:
        folder: the stack's folder.
    """
    return Part(
        name=NAME,
        title="Worker",
        command=(sys.executable, "-m", "churn_platform.worker"),
        address="",
        folder=PROJECT_ROOT,
        ready=lambda since: is_alive(folder, since=since),
        needs=("postgres",),
        stop_seconds=15,
        stop_stage=2,  # after the code server, so that it sees the last commits
    )
