"""The heartbeat of the worker: a file that it touches while all duties work. A health check reads its age."""

import time
from pathlib import Path
from typing import Final

HEARTBEAT: Final = "worker.heartbeat"
# A worker whose heartbeat is older than this is not healthy, in seconds: six of its intervals.
OLDEST_SECONDS: Final = 30.0


def heartbeat_file(local: Path) -> Path:
    """Return the file of the worker whose CHURN_LOCAL is this folder."""
    return local / HEARTBEAT


def is_alive(local: Path, *, since: float = 0.0) -> bool:
    """Return whether the worker of this folder has reported recently that all its duties work.

    Args:
        local: CHURN_LOCAL of the worker.
        since: only a heartbeat from then on counts, in seconds since the epoch.
    """
    try:
        touched = heartbeat_file(local).stat().st_mtime
    except FileNotFoundError:
        return False
    return touched >= max(since, time.time() - OLDEST_SECONDS)
