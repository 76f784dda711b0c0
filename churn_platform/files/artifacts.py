"""Files of the artifacts root, on local disk or in S3. Functions here move bytes and know no format."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from churn_platform.files.exceptions import ArtifactNotFoundError

if TYPE_CHECKING:
    from churn_platform.files.s3 import ObjectStore

ASSETS: Final = "assets"
MODELS: Final = "models"
ARCHIVE: Final = "archive"
MLFLOW: Final = "mlflow"
COMPUTE_LOGS: Final = "compute_logs"
REPORTS: Final = "reports"
FOLDERS: Final = (ASSETS, MODELS, ARCHIVE, MLFLOW, COMPUTE_LOGS, REPORTS)
"""All folders that the platform writes to below the artifacts root."""

MARKER: Final = ".churn-platform"
"""File in the artifacts root that marks these folders as the platform's own."""

REPORT_INTERVAL: Final = 1_000  # files
RANGE_BYTES: Final = 1024 * 1024  # of an S3 object, at least, with one request

_MARKER_TEXT: Final = (
    f"The folders {', '.join(FOLDERS)} beside this file belong to churn_platform. 'churn clean' deletes them.\n"
)


def join(root: str, *parts: str) -> str:
    """Return the address of a file or folder below `root`, which is an absolute folder or an s3:// prefix."""
    return "/".join((root.rstrip("/"), *parts))


def in_s3(uri: str) -> bool:
    """Return whether an address is in S3."""
    return uri.startswith("s3://")


def read_bytes(uri: str) -> bytes:
    """Read a file.

    Raises:
        ArtifactNotFoundError: the file does not exist.
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    with reading(uri) as file:
        return file.read()


@contextmanager
def reading(uri: str) -> Iterator[BinaryIO]:
    """Yield a file to read from. An S3 object is in memory, a local file is not.

    Raises:
        ArtifactNotFoundError: the file does not exist.
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    if in_s3(uri):
        yield io.BytesIO(_s3().get(uri))
        return
    try:
        with Path(uri).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(
            f"There is no file {uri}.",
            remedy="Materialize the asset that writes it, or set CHURN_ARTIFACTS to the folder that has it.",
        ) from error


@contextmanager
def reading_ranges(uri: str) -> Iterator[BinaryIO]:
    """Yield a file to read parts of, in any order. Only these parts are in memory, also of an S3 object.

    Raises:
        ArtifactNotFoundError: the file does not exist.
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    if in_s3(uri):
        yield io.BufferedReader(_s3().open(uri), RANGE_BYTES)
        return
    with reading(uri) as file:
        yield file


@contextmanager
def writing_large(uri: str) -> Iterator[BinaryIO]:
    """Yield a file to write to, as `writing` does. It is never in memory: for S3 it is on disk until it is complete.

    Raises:
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    if not in_s3(uri):
        with writing(uri) as file:
            yield file
        return
    with tempfile.TemporaryDirectory(prefix="churn-") as folder:
        path = Path(folder, "file")
        with path.open("wb") as file:
            yield file
        upload(path, uri)


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file atomically. See `writing`."""
    with writing(uri) as file:
        file.write(content)


@contextmanager
def writing(uri: str) -> Iterator[BinaryIO]:
    """Yield a file to write to. When the block ends, it atomically replaces the file at `uri`. Creates its folders.

    An S3 object is kept in memory and appears only when its upload is complete. A local file is written and synced to
    disk under another name in the same folder, then renamed. After an error, nothing is replaced.

    Raises:
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    if in_s3(uri):
        content = io.BytesIO()
        yield content
        _s3().put(uri, content.getvalue())
        return
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    with ExitStack() as incomplete:  # Ctrl-C, too, leaves no partial file
        incomplete.callback(Path(partial).unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
        incomplete.pop_all()


def upload(path: Path, uri: str) -> None:
    """Copy a local file of any size to this address. A folder gets it atomically, as in `writing`.

    Raises:
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    if in_s3(uri):
        _s3().upload(path, uri)
        return
    with path.open("rb") as source, writing(uri) as target:
        shutil.copyfileobj(source, target)


def download(uri: str, path: Path) -> None:
    """Copy the file at this address, of any size, to a local file.

    Raises:
        ArtifactNotFoundError: the file does not exist.
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    if in_s3(uri):
        _s3().download(uri, path)
        return
    with reading(uri) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


def exists(uri: str) -> bool:
    """Return whether there is a file at this address. A folder is not a file."""
    return _s3().exists(uri) if in_s3(uri) else Path(uri).is_file()


def is_empty(uri: str) -> bool:
    """Return whether a folder is empty or does not exist."""
    if in_s3(uri):
        return _s3().is_empty(uri)
    folder = Path(uri)
    return not folder.is_dir() or not any(folder.iterdir())


def list_names(uri: str) -> list[str]:
    """Return the sorted names of the files and folders directly in a folder; none if it does not exist."""
    if in_s3(uri):
        return _s3().list_names(uri)
    folder = Path(uri)
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


@dataclass(frozen=True)
class FoundFile:
    """A file that was not read.

    Attributes:
        uri: its path or address.
        modified: when it was last written.
        version: a text that changes with its content: size and time, or the ETag of S3.
    """

    uri: str
    modified: datetime
    version: str


def find_files(uri: str) -> list[FoundFile]:
    """Return a file, or the files below a folder at any depth by name, without reading them; none if there are none.

    Raises:
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    if in_s3(uri):
        found = None if uri.endswith("/") else _s3().find(uri)
        objects = _s3().list_objects(uri) if found is None else [found]
        return [FoundFile(each.uri, each.modified, each.etag) for each in objects if not each.key.endswith("/")]
    path = Path(uri)
    files = (file for file in sorted(path.rglob("*")) if file.is_file()) if path.is_dir() else [path] * path.is_file()
    return [_found(file) for file in files]


def _found(path: Path) -> FoundFile:
    state = path.stat()
    return FoundFile(
        str(path), datetime.fromtimestamp(state.st_mtime, UTC), f"{state.st_size} bytes at {state.st_mtime_ns}"
    )


def count_files(uri: str, report: Callable[[str], None]) -> tuple[int, int]:
    """Return the number of files below a folder, at any depth, and their total size in bytes.

    Args:
        uri: address of the folder.
        report: called with a progress message every REPORT_INTERVAL files.
    """
    sizes = (each.size for each in _s3().list_objects(uri)) if in_s3(uri) else _sizes(Path(uri))
    files = total = 0
    for size in sizes:
        files, total = files + 1, total + size
        if files % REPORT_INTERVAL == 0:
            report(f"Counting {uri}: {files:,}")
    return files, total


def _sizes(folder: Path) -> Iterator[int]:
    return (each.lstat().st_size for each in folder.rglob("*") if not each.is_dir())


def delete_file(uri: str) -> None:
    """Delete a file. One that does not exist is not an error."""
    if in_s3(uri):
        _s3().delete(uri)
    else:
        Path(uri).unlink(missing_ok=True)


def delete_folder(uri: str) -> None:
    """Delete a folder and everything in it. A folder that does not exist is not an error."""
    if in_s3(uri):
        _s3().delete_below(uri)
    elif Path(uri).is_dir():
        shutil.rmtree(uri)


@cache
def claim(root: str) -> None:
    """Mark the artifacts root as the platform's own, unless its folders already contain files.

    'churn clean' deletes only from marked roots. Checked once per process.
    """
    if not is_claimed(root) and all(is_empty(join(root, folder)) for folder in FOLDERS):
        write_bytes(join(root, MARKER), _MARKER_TEXT.encode())


def is_claimed(root: str) -> bool:
    """Return whether the artifacts root is marked as the platform's own."""
    return exists(join(root, MARKER))


def release(root: str) -> None:
    """Remove the mark, and the local root folder if it is empty then."""
    if in_s3(root):
        _s3().delete(join(root, MARKER))
    else:
        Path(root, MARKER).unlink(missing_ok=True)
        if is_empty(root):
            Path(root).rmdir()
    claim.cache_clear()


def _s3() -> ObjectStore:
    from churn_platform.files.s3 import store  # a model that MLflow serves reads local files only, and has no boto3

    return store()
