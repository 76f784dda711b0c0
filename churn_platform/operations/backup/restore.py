"""`churn restore`: replace the database and the missing files with those of a backup."""

import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database import alert_outbox, environments, migrations, restoring, retention_cases, rolled_back
from churn_platform.database.alert_outbox import DoubtfulMessage
from churn_platform.database.connections import connect, program_arguments
from churn_platform.database.rolled_back import RolledBack
from churn_platform.files import artifacts
from churn_platform.files.artifacts import ARCHIVE, ASSETS, MODELS, join
from churn_platform.operations.backup import manifest, programs
from churn_platform.operations.backup.backup import DUMP, FILES
from churn_platform.operations.backup.manifest import BackupError, Manifest
from churn_platform.operations.cleanup.database import DROP
from churn_platform.operations.erasure import archived, erased_list
from churn_platform.operations.exceptions import StreamIsLiveError
from churn_platform.schema.customer_schema import CustomerSchema

SESSION: Final = "churn restore"
# Entries of a dump that exist already: the migrations create the extension, and the schema public is PostgreSQL's.
EXISTING: Final = (" EXTENSION - ", " COMMENT - EXTENSION ", " SCHEMA - public ", " COMMENT - SCHEMA public ")
ERASED_LIST: Final = f"{ASSETS}/{erased_list.NAME}"

Progress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a backup is restored.

    Attributes:
        owner_dsn: connection string of the owner of the tables.
        schema: of the customers, as it is configured now.
        artifacts_root: of the files.
    """

    owner_dsn: str
    schema: CustomerSchema
    artifacts_root: str

    @property
    def word(self) -> str:
        """The name of the database, as database@host."""
        parts = conninfo_to_dict(self.owner_dsn)
        return f"{parts.get('dbname') or ''}@{parts.get('host') or 'localhost'}"


@dataclass(frozen=True)
class Restored:
    """What was restored.

    Attributes:
        migrations: names of the migrations that the backup did not have.
        changes: how tables and views were changed to fit the customer schema.
        written: number of files that were missing, or replaced.
        kept: number of files that were there already and stay.
        doubtful: messages of the outbox that may have been sent since the backup, and are in doubt.
        erased: number of erased customers whom the list of the backup lacked.
    """

    migrations: list[str]
    changes: list[str]
    written: int
    kept: int
    doubtful: list[DoubtfulMessage]
    erased: int


def require_fitting(backup: str, found: Manifest, target: Target, progress: Progress) -> bool:
    """Make sure that the backup is complete and fits here. Nothing is changed.

    Returns:
        Whether the database holds data, which a restore would replace.

    Raises:
        BackupError: a file was changed, or something here differs from the backup; the error names it.
        StreamIsLiveError: other sessions use the database.
    """
    unknown = sorted(set(found.migrations) - set(migrations.known()))
    if unknown:
        raise BackupError(
            f"The backup has migrations that this version of the platform does not have: {', '.join(unknown)}.",
            remedy=f"Restore it with version {found.platform}, or a later one.",
        )
    if found.data_set != target.schema.name:
        raise BackupError(
            f"The backup is of the data set {found.data_set!r}, and CHURN_SCHEMA describes {target.schema.name!r}.",
            remedy="Set CHURN_SCHEMA to the schema of the backup.",
        )
    with connect(target.owner_dsn, autocommit=True, connect_timeout=10, application_name=SESSION) as connection:
        server = connection.info.server_version // 10_000
        if server < int(found.postgres):
            raise BackupError(
                f"The backup is from PostgreSQL {found.postgres}, and this server is version {server}.",
                remedy=f"Restore it into PostgreSQL {found.postgres} or later.",
            )
        sessions = restoring.other_sessions(connection)
        if sessions:
            raise StreamIsLiveError(
                f"Other sessions use the database {target.word}: {', '.join(sessions)}. Nothing was changed.",
                remedy="Stop the platform ('churn down') and other programs that use the database, then try again.",
            )
        holds_data = restoring.holds_data(connection)
        present = environments.find_id(connection)
        if None not in (present, found.environment) and present != found.environment:
            raise BackupError(
                f"The backup is of the environment {found.environment} ({found.environment_name}), and the database "
                f"{target.word} is the environment {present}.",
                remedy="Name the database of that environment, or an empty one, in DATABASE_URL.",
            )
    require_unchanged(backup, found, progress)
    return holds_data


def require_unchanged(backup: str, found: Manifest, progress: Progress) -> None:
    """Make sure that every file of the backup is the one that was written.

    Raises:
        BackupError: one was changed.
        ArtifactNotFoundError: one is missing.
    """
    for number, file in enumerate(found.files, 1):
        progress("Checking the backup", number)
        manifest.require_unchanged(backup, file)


def find_rolled_back(found: Manifest, target: Target) -> RolledBack | None:
    """Return what was done for people since the backup, and is in the database that a restore would replace.

    Returns:
        None if the tables of that database cannot be read.
    """
    with connect(target.owner_dsn, autocommit=True, connect_timeout=10, application_name=SESSION) as connection:
        try:
            return rolled_back.collect(connection, since=found.created_at)
        except psycopg.Error:
            return None


def restore(
    backup: str, found: Manifest, target: Target, progress: Progress, *, lost: RolledBack | None = None
) -> Restored:
    """Replace the database with that of the backup, in one transaction, and write the files that are missing.

    Args:
        backup: folder of the backup.
        found: its manifest.
        target: where it is restored; require_fitting() has accepted it.
        progress: called with the current step and its count.
        lost: what is rolled back. Customers who were put on the do-not-contact list since the backup stay on it.

    Raises:
        BackupError: PostgreSQL refused a part of the dump. Nothing has changed.
        ErasureError: the artifacts have the erased customers of another database. The database is restored.
        psycopg.OperationalError: the database does not answer.
        ArtifactStoreError: the S3 server rejects a request or cannot be reached.
    """
    progress("Creating roles", 0)
    migrations.upgrade(target.owner_dsn, target.schema)  # a new server lacks the roles that own the tables
    progress("Restoring the database", 0)
    _replace_database(backup, target)
    upgraded = migrations.upgrade(target.owner_dsn, target.schema)
    written, kept = write_files(backup, found, target, progress, replaces=True)
    with connect(target.owner_dsn, autocommit=True, application_name=SESSION) as connection, connection.transaction():
        restoring.move_files(connection, old=found.artifacts_root, new=target.artifacts_root)
        # Before the worker starts, which would send them.
        doubtful = alert_outbox.doubt_open(connection)
        for each in () if lost is None else lost.blocked:
            retention_cases.block_contact(connection, each.customer_id, reason=each.reason, actor=each.added_by)
    # Its own transaction: a list that does not fit must not undo the above.
    with connect(target.owner_dsn, autocommit=True, application_name=SESSION) as connection:
        erased = erased_list.restore(connection, target.artifacts_root)
    return Restored(upgraded.migrations, upgraded.changes, written, kept, doubtful, erased)


def write_files(backup: str, found: Manifest, target: Target, progress: Progress, *, replaces: bool) -> tuple[int, int]:
    """Write files of the backup to the artifacts root.

    Bundles never change, so one that differs is damaged. Archive files, and the list of erased customers, change when
    customers are erased: one that exists is newer than that of the backup, and stays. Nor is an archive file written
    that an erasure has replaced by another, unless the database is replaced, too: it then names the file again.

    Args:
        backup: folder of the backup.
        found: its manifest.
        target: names the artifacts root.
        progress: called with the current step and its count.
        replaces: whether files that go with the database, such as frames and reports, are replaced if they differ.

    Returns:
        How many were written, and how many were there already and stay.

    Raises:
        ArtifactStoreError: the S3 server rejects a request or cannot be reached.
    """
    written = kept = 0
    for file in found.files:
        if not file.path.startswith(f"{FILES}/"):
            continue
        name = file.path.removeprefix(f"{FILES}/")
        uri = join(target.artifacts_root, name)
        folder = name.partition("/")[0]
        stays = folder == ARCHIVE or name == ERASED_LIST or not (replaces or folder == MODELS)
        was_replaced = folder == ARCHIVE and not replaces and archived.has_successor(uri)
        if was_replaced or (artifacts.find_files(uri) and (stays or manifest.sha256_of(uri) == file.sha256)):
            kept += 1
        else:
            artifacts.write_bytes(uri, artifacts.read_bytes(join(backup, file.path)))
            written += 1
        progress("Writing files", written + kept)
    return written, kept


def _replace_database(backup: str, target: Target) -> None:
    """Drop the platform's tables and create those of the dump, in one transaction."""
    with connect(target.owner_dsn, autocommit=True, application_name=SESSION) as connection:
        server = connection.info.server_version // 10_000
    pg_restore, psql = programs.find("pg_restore", server=server), programs.find("psql", server=server)
    conninfo, environment = program_arguments(target.owner_dsn)
    with tempfile.TemporaryDirectory(prefix="churn-restore-") as folder:
        dump, listed, script = Path(folder, DUMP), Path(folder, "listed"), Path(folder, "script.sql")
        artifacts.download(join(backup, DUMP), dump)
        entries = subprocess.run([pg_restore, "--list", dump], capture_output=True, text=True, check=True).stdout
        listed.write_text("".join(f"{line}\n" for line in entries.splitlines() if not any(e in line for e in EXISTING)))
        with script.open("wb") as file:
            file.write(f"{restoring.PRELUDE}\n{DROP};\n".encode())
            file.flush()
            programs.run(
                [pg_restore, f"--use-list={listed}", "--file=-", dump],
                environment=environment,
                stdout=file,
                problem=f"The dump of {backup} cannot be read",
                remedy="Use another backup.",
            )
        programs.run(
            [
                psql,
                "--no-psqlrc",
                "--quiet",
                "--no-password",
                "--single-transaction",
                f"--output={os.devnull}",  # results of the script's set_config() and setval()
                "--set=ON_ERROR_STOP=1",
                f"--file={script}",
                f"--dbname={conninfo}",
            ],
            environment=environment,
            problem=f"The database {target.word} was not replaced",
            remedy="Correct the cause below. The login of DATABASE_OWNER_URL must own the platform's tables and be a "
            "member of the roles that own those of the backup.",
        )
