"""`churn backup`: one snapshot of the database, the files that it names, and where Kafka was at that moment."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import psycopg
from confluent_kafka import KafkaException

from churn_platform.database import environments, migrations, stream_positions
from churn_platform.database.connections import connect, program_arguments
from churn_platform.environments.config import EnvironmentConfig
from churn_platform.environments.published_offsets import make_offsets_consumer, published_offsets
from churn_platform.errors import PlatformError
from churn_platform.files import artifacts
from churn_platform.files.artifacts import join
from churn_platform.files.exceptions import ArtifactNotFoundError
from churn_platform.kafka import clients, topics
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.kafka.topics import LATEST
from churn_platform.operations.backup import manifest, programs
from churn_platform.operations.backup.manifest import (
    BackupError,
    KafkaState,
    Manifest,
    PartitionPosition,
    StoredFile,
    TopicOffsets,
)

DUMP: Final = "database.dump"
SETTINGS: Final = "settings.env"
FILES: Final = "artifacts"
FOLDERS: Final = tuple(folder for folder in artifacts.FOLDERS if folder != artifacts.COMPUTE_LOGS)
"""Folders of the artifacts root that a backup has. Logs of processes are left out."""
ANSWER_SECONDS: Final = 10

Progress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is backed up.

    Attributes:
        config: names Kafka and the topics.
        owner_dsn: connection string of a login that may read every table.
        outcomes_topic: name of the topic of outcomes.
        artifacts_root: of the files.
        settings: names and values of settings that were set, without secrets.
    """

    config: EnvironmentConfig
    owner_dsn: str
    outcomes_topic: str
    artifacts_root: str
    settings: Mapping[str, str]


def back_up(source: Source, target: str, progress: Progress) -> Manifest:
    """Write a backup; the stream may run meanwhile.

    The database is dumped in one snapshot. The files are copied after the snapshot was taken: what it names was written
    before. Kafka's offsets are read after the snapshot too, so they are not behind it.

    Args:
        source: what is backed up.
        target: an empty folder, or one that does not exist: an absolute path or an s3:// prefix.
        progress: called with the current step and its count.

    Raises:
        BackupError: the folder is not empty, or pg_dump is missing or failed.
        psycopg.OperationalError: the database does not answer.
        ArtifactStoreError: the S3 server rejects a request or cannot be reached.
    """
    if not artifacts.is_empty(target):
        raise BackupError(f"{target} is not empty.", remedy="Name a folder that is empty or does not exist.")
    with connect(source.owner_dsn, application_name="churn backup") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        snapshot, created_at = _snapshot(connection)
        described = _describe(connection, source, created_at)
        progress("Dumping the database", 0)
        dump = _dump(connection, source.owner_dsn, snapshot, target)
    files = [dump, _write_settings(source.settings, target), *_copy_files(source.artifacts_root, target, progress)]
    complete = msgspec.structs.replace(described, files=files)
    manifest.write(target, complete)
    return complete


def has_mlflow_files(found: Manifest) -> bool:
    """Return whether a backup has MLflow's files. It has those of a server that keeps them in the artifacts root."""
    return any(file.path.startswith(f"{FILES}/{artifacts.MLFLOW}/") for file in found.files)


def _snapshot(connection: psycopg.Connection) -> tuple[str, datetime]:
    """Return the id of the transaction's snapshot, which other sessions may use, and its time."""
    row = connection.execute("select pg_export_snapshot(), now()").fetchone()
    if row is None:
        raise RuntimeError("A select without a table returned no row; PostgreSQL always returns one.")
    return row[0], row[1]


def _describe(connection: psycopg.Connection, source: Source, created_at: datetime) -> Manifest:
    """Return the manifest without the files."""
    config = source.config
    return Manifest(
        created_at=created_at,
        platform=version("churn-platform"),
        environment=environments.find_id(connection),
        environment_name=config.environment,
        data_set=config.schema.name,
        database=connection.info.dbname,
        postgres=str(connection.info.server_version // 10_000),
        migrations=migrations.applied(connection),
        artifacts_root=source.artifacts_root,
        positions=[
            PartitionPosition(each.topic, each.topic_id, each.kafka_partition, each.next_offset)
            for each in stream_positions.positions(connection)
        ],
        kafka=_kafka_state(source),
        settings=dict(source.settings),
        files=[],
    )


def _kafka_state(source: Source) -> KafkaState | None:
    """Return the topics and their offsets now; None if Kafka does not answer."""
    config = source.config
    try:
        admin = clients.admin({**config.kafka.client, "log_level": 0})
        cluster = admin.describe_cluster(request_timeout=ANSWER_SECONDS).result()
        found = []
        for name in (config.events_topic, config.predictions_topic, source.outcomes_topic):
            try:
                topic = topics.describe(admin, name)
            except TopicMissingError:
                continue
            published = {}
            if name == config.events_topic:
                consumer = make_offsets_consumer(config.kafka)
                try:
                    published = published_offsets(consumer, topic, seconds=ANSWER_SECONDS)
                finally:
                    consumer.close()
            found.append(TopicOffsets(name, topic.topic_id, topics.list_offsets(admin, topic, LATEST), published))
    except (KafkaException, PlatformError):
        return None
    return KafkaState(str(cluster.cluster_id), found)


def _dump(connection: psycopg.Connection, dsn: str, snapshot: str, target: str) -> StoredFile:
    program = programs.find("pg_dump", server=connection.info.server_version // 10_000)
    conninfo, environment = program_arguments(dsn)
    with tempfile.TemporaryDirectory(prefix="churn-backup-") as folder:
        file = Path(folder) / DUMP
        programs.run(
            [
                program,
                "--format=custom",
                "--no-password",
                "--no-unlogged-table-data",  # what Spark has staged is scored again
                f"--snapshot={snapshot}",
                f"--file={file}",
                f"--dbname={conninfo}",
            ],
            environment=environment,
            problem=f"The database {connection.info.dbname!r} could not be dumped",
            remedy="Correct the cause below. pg_dump needs a login that may read every table: DATABASE_OWNER_URL.",
        )
        artifacts.upload(file, join(target, DUMP))
        return manifest.stored(file, DUMP)


def _write_settings(settings: Mapping[str, str], target: str) -> StoredFile:
    content = "".join(f"{name}={value}\n" for name, value in sorted(settings.items())).encode()
    return _write(target, SETTINGS, content)


def _copy_files(root: str, target: str, progress: Progress) -> list[StoredFile]:
    """Copy the files of the artifacts root; one that was deleted since it was listed is left out."""
    stored: list[StoredFile] = []
    for folder in FOLDERS:
        for file in artifacts.find_files(join(root, folder)):
            name = file.uri.removeprefix(root.rstrip("/") + "/")
            try:
                content = artifacts.read_bytes(file.uri)
            except ArtifactNotFoundError:
                continue
            stored.append(_write(target, f"{FILES}/{name}", content))
            progress("Copying files", len(stored))
    return stored


def _write(target: str, name: str, content: bytes) -> StoredFile:
    artifacts.write_bytes(join(target, name), content)
    return manifest.stored_bytes(content, name)
