"""pg_dump, pg_restore and psql: where they are, and how they are run."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from churn_platform.local import postgres
from churn_platform.local.errors import StackError
from churn_platform.operations.backup.manifest import BackupError

VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)")
DETAIL_LINES: Final = 10


def find(name: str, *, server: int) -> Path:
    """Return a program that works with a server of this major version: on the PATH, or that of the embedded server.

    Raises:
        BackupError: there is none, or only older ones.
    """
    found = {path: version for path in _candidates(name) if (version := _version(path)) is not None}
    suitable = [path for path, version in found.items() if version >= server]
    if suitable:
        return suitable[0]
    older = ", ".join(f"{path} is version {version}" for path, version in found.items())
    raise BackupError(
        f"There is no {name} for PostgreSQL {server}: {older or 'none is installed or on the PATH'}.",
        remedy=f"Install PostgreSQL's client programs of version {server} or later (Debian: postgresql-client).",
    )


def _candidates(name: str) -> list[Path]:
    try:
        embedded = [postgres.binaries() / name]
    except StackError:  # an image leaves the embedded servers out
        embedded = []
    on_path = shutil.which(name)
    # Those of the embedded server know no TLS, which a server of the user may require.
    return [path for path in (*([Path(on_path)] if on_path else []), *embedded) if path.exists()]


def _version(program: Path) -> int | None:
    outcome = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = VERSION.search(outcome.stdout)
    return None if found is None else int(found[1])


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    problem: str,
    remedy: str,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
) -> None:
    """Run a program and wait for it.

    Args:
        command: the program and its arguments, none of them secret.
        environment: of the process.
        problem: what it means if the program fails.
        remedy: what to do then.
        stdin: what it reads.
        stdout: where it writes.

    Raises:
        BackupError: it failed.
    """
    outcome = subprocess.run(
        command, env=dict(environment), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False
    )
    if outcome.returncode != 0:
        lines = outcome.stderr.decode(errors="replace").strip().splitlines()
        raise BackupError(
            f"{problem} ({Path(command[0]).name}, exit code {outcome.returncode}).",
            remedy=remedy,
            details="\n".join(lines[-DETAIL_LINES:]),
        )
