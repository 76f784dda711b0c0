"""The stack's folder: what the platform's commands created there. Other files in it are kept."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from churn_platform.files.artifacts import MARKER
from churn_platform.local.folder import PORTS_FILE
from churn_platform.local.postgres import LOGINS
from churn_platform.local.stack import Stack
from churn_platform.local.supervision import runtime_folder
from churn_platform.operations.cleanup.plan import Findings, Item, Kept, Report, Writer, size
from churn_platform.worker.heartbeat import HEARTBEAT

# What restores report: see commands/backup.py.
REPORTS: Final = "rolled-back-*.json"

# Everything that a stack creates in its folder. The marker file is last, so that an interrupted cleanup can be
# repeated.
ENTRIES: Final = {
    "kafka": "topics of the embedded Kafka",
    "postgres": "tables of the embedded PostgreSQL",
    "mlflow": "files of the embedded MLflow",
    "artifacts": "Parquet files, model bundles, the archive",
    "dagster": "Dagster's own files",
    "logs": "logs",
    "run": "sockets",
    "env": "addresses",
    **{login.password_file: "a password of the embedded PostgreSQL" for login in LOGINS},
    PORTS_FILE: "ports",
    HEARTBEAT: "the worker's heartbeat",
    "lock": "lock",
    MARKER: "marker file",
}


class LocalState:
    """The folder CHURN_LOCAL."""

    def __init__(self, stack: Stack, *, accounts: Mapping[Path, str]) -> None:
        """Determine the folder.

        Args:
            stack: whose folder it is.
            accounts: files of tokens and users that the settings name, and what is in them. They are deleted if they
                are directly in the folder, because the platform that they are for is deleted as well.
        """
        self._stack = stack
        self._folder = stack.local
        self._accounts = {path.name: title for path, title in accounts.items() if path.parent == self._folder}

    @property
    def word(self) -> str:
        """The folder's name."""
        return self._folder.name

    @property
    def _titles(self) -> Mapping[str, str]:
        """What each entry is, by its name. The marker file is last."""
        return self._accounts | ENTRIES

    def collect(self, report: Report) -> Findings:
        """Return what the stack keeps in its folder."""
        report(f"Listing {self._folder}")
        if not self._folder.is_dir():
            return Findings()
        if not self._stack.is_ours:
            reason = f"it has no file {MARKER}: 'churn up' did not create it"
            return Findings(kept=[Kept(str(self._folder), "everything", reason)])
        found = Findings()
        for path in sorted(self._folder.iterdir()):
            title = "report of a restore" if path.match(REPORTS) else self._titles.get(path.name)
            if title is not None:
                found.items.append(Item(str(self._folder), path.name, f"{title}, {size(_bytes(path))}"))
            else:
                found.kept.append(Kept(str(self._folder), path.name, "not one of the stack's own files"))
        return found

    def writers(self) -> list[Writer]:
        """Return the stack if it is up, or the processes that an earlier one left running."""
        if self._stack.is_up:
            running = [f"{part.title} (process {part.pid})" for part in self._stack.status() if part.pid is not None]
            return [Writer(f"the stack in {self._folder}: {', '.join(running) or 'supervisord'}", "churn down")]
        left_over = self._stack.count_left_over()
        return (
            [Writer(f"{left_over} processes of an earlier stack in {self._folder}", "churn down")] if left_over else []
        )

    def check_deletable(self) -> None:
        """Do nothing, because the files belong to this user."""

    def delete(self, report: Report) -> None:
        """Delete the entries, and the folder if nothing else is in it."""
        if not self._stack.is_ours:
            return
        report(f"Deleting {self._folder}")
        runtime = runtime_folder(self._folder)
        for path in self._folder.glob(REPORTS):
            _delete(path)
        for name in self._titles:
            _delete(self._folder / name)
        _delete(runtime)  # outside the folder if its path is too long for a socket
        if not any(self._folder.iterdir()):
            self._folder.rmdir()


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
