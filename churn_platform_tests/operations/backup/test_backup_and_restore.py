"""A backup of real servers is restored into an empty database, and what does not fit is refused by name."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.database import environments, spark_staging
from churn_platform.database.migrations import upgrade
from churn_platform.local.stack import Stack
from churn_platform.operations.backup import manifest
from churn_platform.operations.backup.backup import Source, back_up
from churn_platform.operations.backup.manifest import BackupError, Manifest
from churn_platform.operations.backup.restore import Restored, Target, require_fitting, restore
from churn_platform.operations.exceptions import StreamIsLiveError
from churn_platform.operations.recovery.recover import recover
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream import run_session
from churn_platform_tests.stream.streams import Stream, event, with_changes


def silent(_step: str, _count: int) -> None:
    """Report nothing."""


@pytest.fixture
def artifacts_root(tmp_path: Path, bundle_uri: str) -> str:
    """A folder with a bundle and an archive file."""
    root = tmp_path / "artifacts"
    shutil.copytree(bundle_uri, root / "models" / "1")
    (root / "archive").mkdir()
    (root / "archive" / "old.parquet").write_bytes(b"old predictions")
    (root / "compute_logs").mkdir()
    (root / "compute_logs" / "run.out").write_text("a log")
    return str(root)


@pytest.fixture
def empty_database(stack: Stack) -> Iterator[str]:
    """Connection string of the owner of a database without tables."""
    name = "restored_here"
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    yield make_conninfo(stack.owner_dsn, dbname=name)
    run_session.end_kept()
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def source_of(stack: Stack, stream: Stream, artifacts_root: str) -> Source:
    """Return what is backed up."""
    return Source(
        config=stream.config,
        owner_dsn=owner_of(stack, stream.config.dsn),
        outcomes_topic="outcomes",
        artifacts_root=artifacts_root,
        settings={"STREAM_PROFILE": "balanced"},
    )


def owner_of(stack: Stack, dsn: str) -> str:
    """Return the connection string of the owner for the same database."""
    return make_conninfo(stack.owner_dsn, dbname=str(conninfo_to_dict(dsn)["dbname"]))


def restore_into(target: Target, backup: str) -> Restored:
    """Restore the backup."""
    found = manifest.read(backup)
    require_fitting(backup, found, target, silent)
    return restore(backup, found, target, silent)


def rewrite(backup: Path, **changes: object) -> Manifest:
    """Change fields of a manifest."""
    file = backup / manifest.NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return manifest.read(str(backup))


@pytest.mark.slow
def test_a_backup_of_a_live_database_is_restored_and_recovered(
    stack: Stack,
    stream: Stream,
    artifacts_root: str,
    empty_database: str,
    tmp_path: Path,
    bank_schema: CustomerSchema,
) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    backup = tmp_path / "backup"
    written = back_up(source_of(stack, stream, artifacts_root), str(backup), silent)
    stream.send([event(number) for number in range(9, 21)])
    stream.stream()

    assert {position.next_offset for position in written.positions} == {3}
    assert written.kafka is not None
    assert sorted(written.kafka.topics[0].published.values()) == [3, 3, 3]
    assert not list(backup.rglob("run.out"))
    password = str(conninfo_to_dict(stack.owner_dsn)["password"])
    assert not any(password.encode() in file.read_bytes() for file in backup.rglob("*") if file.is_file())
    moved = tmp_path / "moved"
    target = Target(owner_dsn=empty_database, schema=bank_schema, artifacts_root=str(moved))
    restored = restore_into(target, str(backup))

    assert restored.written == len(written.files) - 2
    assert (moved / "archive" / "old.parquet").read_bytes() == b"old predictions"
    here = make_conninfo(stream.config.dsn, dbname=str(conninfo_to_dict(empty_database)["dbname"]))
    with Stream(with_changes(stream.config, dsn=here)) as again:
        assert again.value("select count(*) from churn_predictions") == 9
        found = recover(again.config, silent)
        assert found.reconciled.lost == 12
        assert again.stream().events == 12
        assert again.table_ids() == stream.published_ids() == again.published_ids()
        assert [invariant.violations for invariant in check_invariants(again.config) if not invariant.holds] == []


@pytest.mark.slow
def test_a_backup_from_before_a_change_of_the_lanes_is_restored_and_continued_by_the_new_lanes(
    stack: Stack,
    stream: Stream,
    artifacts_root: str,
    empty_database: str,
    tmp_path: Path,
    bank_schema: CustomerSchema,
) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    staged = uuid4()
    spark_staging.begin(stream.connection, staged, batch="batch", model_version=1)
    spark_staging.begin_task(stream.connection, staged, kafka_partition=0, first_offset=0)
    backup = tmp_path / "backup"
    back_up(source_of(stack, stream, artifacts_root), str(backup), silent)
    stream.send([event(number) for number in range(9, 21)])
    for lane in stream.want_lanes(2):
        stream.materialize(stream.plan(lane))
    restore_into(
        Target(owner_dsn=empty_database, schema=bank_schema, artifacts_root=str(tmp_path / "moved")), str(backup)
    )

    here = make_conninfo(stream.config.dsn, dbname=str(conninfo_to_dict(empty_database)["dbname"]))
    with Stream(with_changes(stream.config, dsn=here, lanes=2)) as again:
        assert again.value("select count(*) from spark_tasks") == 0
        assert recover(again.config, silent).reconciled.lost == 12
        for lane in again.want_lanes(2):
            again.materialize(again.plan(lane))
        assert len(again.table_ids()) == 21
        assert again.table_ids() == again.published_ids()
        assert [invariant.violations for invariant in check_invariants(again.config) if not invariant.holds] == []


@pytest.mark.slow
def test_what_does_not_fit_is_refused_by_name(
    stack: Stack,
    stream: Stream,
    artifacts_root: str,
    empty_database: str,
    tmp_path: Path,
    bank_schema: CustomerSchema,
) -> None:
    backup = tmp_path / "backup"
    back_up(source_of(stack, stream, artifacts_root), str(backup), silent)
    target = Target(owner_dsn=empty_database, schema=bank_schema, artifacts_root=artifacts_root)
    original = json.loads((backup / manifest.NAME).read_text())

    def refused(error: type[Exception], match: str, **changes: object) -> None:
        found = rewrite(backup, **{**original, **changes})
        with pytest.raises(error, match=match):
            require_fitting(str(backup), found, target, silent)

    with pytest.raises(BackupError, match="is not empty"):
        back_up(source_of(stack, stream, artifacts_root), str(backup), silent)
    refused(BackupError, "99990101000000", migrations=["99990101000000"])
    refused(BackupError, "data set 'shoes'", data_set="shoes")
    refused(BackupError, "PostgreSQL 99", postgres="99")
    with psycopg.connect(empty_database) as connection:
        upgrade(empty_database, bank_schema)
        own = environments.identify(connection)
    refused(BackupError, f"environment another .*environment {own}", environment="another")
    with psycopg.connect(empty_database, application_name="somebody's notebook"):
        refused(StreamIsLiveError, "somebody's notebook")
    (backup / "settings.env").write_text("STREAM_PROFILE=economy\n")
    refused(BackupError, "settings.env was changed")
    (backup / manifest.NAME).unlink()
    with pytest.raises(BackupError, match="not a complete backup"):
        manifest.read(str(backup))


@pytest.mark.slow
def test_a_backup_in_s3_is_restored(
    stack: Stack,
    stream: Stream,
    artifacts_root: str,
    empty_database: str,
    tmp_path: Path,
    bank_schema: CustomerSchema,
    s3_root: str,
) -> None:
    stream.send([event(number) for number in range(3)])
    stream.stream()
    back_up(source_of(stack, stream, artifacts_root), f"{s3_root}/backup", silent)
    moved = tmp_path / "moved"
    (moved / "archive").mkdir(parents=True)
    (moved / "archive" / "old.parquet").write_bytes(b"without an erased customer")
    target = Target(owner_dsn=empty_database, schema=bank_schema, artifacts_root=str(moved))

    restored = restore_into(target, f"{s3_root}/backup")

    assert restored.kept == 1
    assert (moved / "archive" / "old.parquet").read_bytes() == b"without an erased customer"
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select count(*) from churn_predictions").fetchone() == (3,)
