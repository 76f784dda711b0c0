"""The worker as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from churn_platform.settings import PROJECT_ROOT


@contextmanager
def worker_process(folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process with this process' settings, and a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-m", "churn_platform.worker"],
        env={**os.environ, "CHURN_LOCAL": str(folder), "WORKER_METRICS_PORT": "0", **variables},
        cwd=PROJECT_ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
