"""The resident worker as a part of the stack."""

import sys
from pathlib import Path

from churn_platform.local.part import Part
from churn_platform.local.ports import HOST
from churn_platform.settings import PROJECT_ROOT
from churn_platform.worker.heartbeat import is_alive

NAME = "worker"


def part(*, folder: Path, metrics_port: int | None) -> Part:
    """Return the worker. Its heartbeat is a file.

    Args:
        folder: the stack's folder.
        metrics_port: where it serves its metrics; None if it serves none.
    """
    place = () if metrics_port is None else (HOST, str(metrics_port))
    return Part(
        name=NAME,
        title="Worker",
        command=(sys.executable, "-m", "churn_platform.worker", *place),
        address="" if metrics_port is None else f"http://{HOST}:{metrics_port}/metrics",
        folder=PROJECT_ROOT,
        ready=lambda since: is_alive(folder, since=since),
        listens_at=() if metrics_port is None else (metrics_port,),
        needs=("postgres",),
        stop_seconds=15,
        stop_stage=2,  # after the code server, so that it sees the last commits
    )
