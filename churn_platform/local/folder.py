"""The stack's folder (CHURN_LOCAL): who created it, and the lock for changes in it."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from churn_platform.files.artifacts import MARKER
from churn_platform.local.errors import StackError

PORTS_FILE = "ports.json"
ENV_FILE = "env"
LOCK_FILE = "lock"


class StackFolder:
    """The folder in which a stack stores everything."""

    def __init__(self, path: Path, *, lock_seconds: float = 180) -> None:
        """Set the path; nothing is created.

        Args:
            path: path of the folder.
            lock_seconds: how long to wait without a message for another command to finish.
        """
        self.path = path.resolve()
        self._lock_seconds = lock_seconds

    @property
    def exists(self) -> bool:
        """Whether the folder exists."""
        return self.path.exists()

    @property
    def is_ours(self) -> bool:
        """Whether `churn up` created the folder, or found it empty."""
        return (self.path / MARKER).exists()

    @property
    def env_file(self) -> Path:
        """The addresses of the servers while they are up."""
        return self.path / ENV_FILE

    def create(self) -> None:
        """Create the folder and mark it as the stack's, if it is empty."""
        # As root, PostgreSQL runs as another user, who must traverse the folder.
        self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        if not any(self.path.iterdir()):
            (self.path / MARKER).write_text(
                "Created by 'churn up'. 'churn clean' deletes what the stack stores here.\n"
            )

    def lock(self) -> AbstractContextManager[object]:
        """Return the lock for starting, stopping or deleting the stack: one process at a time.

        Raises:
            StackError: another process has held it for too long.
        """
        try:
            return FileLock(self.path / LOCK_FILE).acquire(timeout=self._lock_seconds)
        except Timeout as error:
            raise StackError(
                f"Another 'churn up', 'down' or 'clean' has been using {self.path} for {self._lock_seconds:.0f} s.",
                remedy="Wait for it, or end it, and run the command again.",
            ) from error
