"""The manifest of a backup: what is in it, of which database, and where Kafka was at that moment.

It is written last, so a folder with a manifest is a complete backup.
"""

import hashlib
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from churn_platform.errors import PlatformError
from churn_platform.files.artifacts import download, exists, in_s3, join, read_bytes, reading, write_bytes

NAME: Final = "manifest.json"
FORMAT: Final = 1
HASHED_AT_ONCE: Final = 1024 * 1024


class BackupError(PlatformError):
    """The backup cannot be made, is incomplete or was changed, or does not fit here. Nothing was changed."""


class StoredFile(msgspec.Struct, frozen=True):
    """A file of the backup: its path in the backup, its size in bytes and its SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


class TopicOffsets(msgspec.Struct, frozen=True):
    """A topic at the moment of the backup.

    Attributes:
        name: of the topic.
        topic_id: Kafka's id of it.
        ends: offset after the last message that a read_committed reader saw, by Kafka partition.
        published: published offsets of the stream, by Kafka partition; only of the events topic.
    """

    name: str
    topic_id: str
    ends: dict[int, int]
    published: dict[int, int] = {}


class KafkaState(msgspec.Struct, frozen=True):
    """Kafka at the moment of the backup: the cluster's id, and the topics that existed."""

    cluster_id: str
    topics: list[TopicOffsets]


class PartitionPosition(msgspec.Struct, frozen=True):
    """How far the ledger in the backup has read a Kafka partition."""

    topic: str
    topic_id: str
    kafka_partition: int
    next_offset: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds.

    Attributes:
        format: of this file.
        created_at: when the snapshot of the database was taken, UTC.
        platform: version of the platform.
        environment: id of the environment; None if it has none yet.
        environment_name: for people.
        data_set: name of the customers' data set.
        database: name of the database.
        postgres: version of the server.
        migrations: that the database had, in order.
        artifacts_root: where the artifacts were.
        positions: of the ledger, in the snapshot.
        kafka: right after the snapshot; None if Kafka did not answer.
        settings: names and values of settings that were set, without secrets.
        files: all other files of the backup.
    """

    format: int = FORMAT
    created_at: datetime
    platform: str
    environment: str | None
    environment_name: str
    data_set: str
    database: str
    postgres: str
    migrations: list[str]
    artifacts_root: str
    positions: list[PartitionPosition]
    kafka: KafkaState | None
    settings: dict[str, str]
    files: list[StoredFile]


def write(backup: str, manifest: Manifest) -> None:
    """Write the manifest of a backup, after all its other files."""
    write_bytes(join(backup, NAME), msgspec.json.format(msgspec.json.encode(manifest), indent=2))


def read(backup: str) -> Manifest:
    """Return the manifest of a backup.

    Raises:
        BackupError: there is none, or it is not one of this version.
    """
    uri = join(backup, NAME)
    if not exists(uri):
        raise BackupError(
            f"{backup} is not a complete backup: there is no {uri}.",
            remedy="Name the folder that 'churn backup' wrote. A backup that was interrupted has no manifest.",
        )
    content = read_bytes(uri)
    try:
        found = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise BackupError(f"{uri} cannot be read: {error}.", remedy="Use another backup.") from error
    if found.format != FORMAT:
        raise BackupError(
            f"{uri} has the format {found.format}, and this version reads {FORMAT}.",
            remedy=f"Restore it with version {found.platform} of the platform.",
        )
    return found


def require_unchanged(backup: str, file: StoredFile) -> None:
    """Make sure that a file of the backup is the one that was written.

    Raises:
        BackupError: its content has changed.
        ArtifactNotFoundError: it is missing.
    """
    uri = join(backup, file.path)
    found = sha256_of(uri)
    if found != file.sha256:
        raise BackupError(
            f"{uri} was changed after the backup: its SHA-256 is {found}, the manifest has {file.sha256}.",
            remedy="Use another backup.",
        )


def sha256_of(uri: str) -> str:
    """Return the SHA-256 of a file in hexadecimal. An S3 object is not held in memory.

    Raises:
        ArtifactNotFoundError: the file does not exist.
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="churn-backup-") as folder:
        path = Path(uri)
        if in_s3(uri):
            path = Path(folder, "downloaded")
            download(uri, path)
        digest = hashlib.sha256()
        with reading(str(path)) as file:
            while chunk := file.read(HASHED_AT_ONCE):
                digest.update(chunk)
        return digest.hexdigest()


def stored(path: Path, name: str) -> StoredFile:
    """Return the entry of a local file that is in the backup under this name."""
    return StoredFile(name, path.stat().st_size, sha256_of(str(path)))


def stored_bytes(content: bytes, name: str) -> StoredFile:
    """Return the entry of a file with this content that is in the backup under this name."""
    return StoredFile(name, len(content), hashlib.sha256(content).hexdigest())
