"""`churn backup` and `churn restore`: the database, the files that it names, and where Kafka was."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr
from rich.text import Text

from churn_platform.commands.stack import default_stack, servers_up
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    confirm_by_word,
    emit,
    end,
    error_console,
    output,
    report_errors,
)

if TYPE_CHECKING:  # takes a moment to import
    from churn_platform.database.rolled_back import RolledBack
    from churn_platform.operations.backup.manifest import Manifest
    from churn_platform.operations.backup.restore import Target

Place = Annotated[str, typer.Argument(metavar="DIR|s3://…", help="Folder of the backup.", show_default=False)]


def backup(target: Place, as_json: AsJson = False) -> None:
    """Write a backup of the database, the model bundles, the archive and other files. The stream may run meanwhile.

    The database is dumped in one snapshot. The manifest has hashes, versions, and Kafka's topics and offsets. Passwords
    and other secrets are not part of a backup.

    Example: churn backup backups/2026-11-28
    """
    from churn_platform.environments.config import EnvironmentConfig
    from churn_platform.operations.backup import backup as writing
    from churn_platform.settings import descriptions, load_settings

    with report_errors(), servers_up("kafka", "postgres"):
        settings, stack = load_settings(), default_stack()
        values = {each.variable: settings.value_of(each) for each in descriptions()}
        source = writing.Source(
            config=EnvironmentConfig.from_settings(settings),
            owner_dsn=stack.owner_dsn,
            outcomes_topic=settings.topics.outcomes,
            artifacts_root=settings.platform.artifacts_root,
            settings={
                name: str(value)
                for name, value in values.items()
                if name in settings.variables_set and not isinstance(value, SecretStr) and "@" not in str(value)
            },
        )
        with ProgressReporter("Reading Kafka and PostgreSQL") as progress:
            try:
                written = writing.back_up(source, _address(target), progress)
            except OSError as error:  # a full disk, a folder without write permission
                end(
                    ExitCode.FAILED,
                    f"The backup is not complete: {error.filename or _address(target)}: {error.strerror or error}.",
                    remedy="Name another folder, or make this one writable and empty it.",
                )
    size = sum(file.size for file in written.files)
    if as_json:
        emit(
            {
                "backup": _address(target),
                "created_at": written.created_at.isoformat(),
                "environment": written.environment,
                "files": len(written.files),
                "bytes": size,
                "kafka": written.kafka is not None,
                "mlflow": writing.has_mlflow_files(written),
            }
        )
        return
    _print(f"{_address(target)}: {len(written.files):,} files, {size / 1e6:,.1f} MB. Restore it with 'churn restore'.")
    if not writing.has_mlflow_files(written):
        where = (
            f"where {stack.yours['mlflow']} keeps them" if "mlflow" in stack.yours else f"in {stack.local / 'mlflow'}"
        )
        _print(
            f"MLflow's files are not in it: they are {where}. The stream does not need them, because it scores with "
            "the bundles. Copy them, too, if you want to keep MLflow's plots and models."
        )
    if written.kafka is None:
        _print("Kafka did not answer, so the manifest does not have its offsets. 'churn recover' does not need them.")


def restore(
    source: Place,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a database that holds data. It asks for the database's name.")
    ] = False,
    yes_replace: Annotated[
        str | None,
        typer.Option("--yes-replace", metavar="WORD", help="For scripts: database@host, as the prompt asks for it."),
    ] = None,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Only write the files that are missing; the platform may run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Replace the database with that of a backup, and write the files that are missing.

    The platform must be down ('churn down'). A backup that was changed, or does not fit, is refused. The database is
    replaced in one transaction. Messages, cases and calls since the backup that the replaced database still has are
    written to a file in CHURN_LOCAL. Then run 'churn recover': Kafka is usually ahead of a restored database.

    Example: churn restore backups/2026-11-28 --replace
    """
    from churn_platform.operations.backup import manifest
    from churn_platform.operations.backup import restore as reading
    from churn_platform.schema.current import schema_of
    from churn_platform.settings import load_settings

    if as_json and replace and yes_replace is None:
        end(ExitCode.USAGE, "--json requires --yes-replace WORD, because the command cannot ask.")
    address = _address(source)
    with report_errors(), servers_up("postgres"):
        settings = load_settings()
        target = reading.Target(
            owner_dsn=default_stack().owner_dsn,
            schema=schema_of(settings),
            artifacts_root=settings.platform.artifacts_root,
        )
        found = manifest.read(address)
        if files_only:
            _restore_files(address, found, target, as_json=as_json)
            return
        with ProgressReporter("Reading the backup") as progress:
            holds_data = reading.require_fitting(address, found, target, progress)
        if holds_data and not replace:
            end(
                ExitCode.FAILED,
                f"The database {target.word} holds data. Nothing was changed.",
                remedy="Replace it with --replace, or name an empty database in DATABASE_URL.",
            )
        lost = reading.find_rolled_back(found, target) if holds_data else None
        if holds_data:
            _show_lost(lost)
            moment = f"{found.created_at:%Y-%m-%d %H:%M:%S} UTC"
            confirm_by_word(
                f"Type {target.word} to replace it with the backup of {moment}", target.word, given=yes_replace
            )
        report = None if lost is None else _write_report(lost, settings.platform.local)
        with ProgressReporter("Restoring") as progress:
            restored = reading.restore(address, found, target, progress, lost=lost)
    if as_json:
        emit(
            {
                "created_at": found.created_at.isoformat(),
                "environment": found.environment,
                "migrations": restored.migrations,
                "changes": restored.changes,
                "files_written": restored.written,
                "files_kept": restored.kept,
                "in_doubt": [message.id for message in restored.doubtful],
                "erased_customers": restored.erased,
                "rolled_back": None if report is None else str(report),
            }
        )
        return
    _print(
        f"Restored the state of {found.created_at:%Y-%m-%d %H:%M:%S} UTC into {target.word}. Files: "
        f"{restored.written:,} written, {restored.kept:,} were there already."
    )
    for line in (*(f"Applied {name}" for name in restored.migrations), *restored.changes):
        _print(line)
    if restored.doubtful:
        _print(
            f"{len(restored.doubtful):,} messages may have been sent since the backup, and are in doubt: "
            f"'churn alerts list' shows them."
        )
    if restored.erased:
        _print(f"{restored.erased:,} customers were erased since the backup: 'churn recover' erases them again.")
    if report is not None:
        _print(f"What was rolled back: {report}")
    _print("Next: churn recover")


def _restore_files(backup: str, found: "Manifest", target: "Target", *, as_json: bool) -> None:
    from churn_platform.operations.backup import restore as reading

    with ProgressReporter("Writing files") as progress:
        reading.require_unchanged(backup, found, progress)
        written, kept = reading.write_files(backup, found, target, progress, replaces=False)
    if as_json:
        emit({"files_written": written, "files_kept": kept})
    else:
        _print(f"Files: {written:,} written, {kept:,} were there already. The database was not changed.")


def _show_lost(lost: "RolledBack | None") -> None:
    if lost is None:
        text = "The tables of the present database cannot be read, so it is not known what was done since the backup."
    else:
        text = (
            f"Since the backup: {len(lost.sent):,} messages were sent or may have been, {len(lost.cases):,} cases were "
            f"opened, and {lost.calls:,} calls were recorded. The restored database will not have them. "
            f"{len(lost.blocked):,} customers who were put on the do-not-contact list stay on it."
        )
    error_console.print(Text(text), soft_wrap=True)


def _write_report(lost: "RolledBack", folder: Path) -> Path:
    """Write what is rolled back to a file that only its owner can read; return its path."""
    from churn_platform.files.private import write_private

    file = folder / f"rolled-back-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    write_private(file, json.dumps(asdict(lost), default=str, indent=2) + "\n")
    return file


def _address(place: str) -> str:
    """Return the address of a backup: an s3:// prefix, or an absolute folder."""
    return place.rstrip("/") if place.startswith("s3://") else str(Path(place).resolve())


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
