"""Files of the artifacts root, on local disk or in S3, through one set of functions. Bytes only, of any format."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
"""All that the platform writes below the artifacts root."""

MARKER: Final = ".churn-platform"
"""File in the artifacts root that says that these folders are the platform's own."""

COUNTED_AT_ONCE: Final = 1_000  # files

_MARK: Final = (
    f"The folders {', '.join(FOLDERS)} beside this file were made by churn_platform; 'churn clean' deletes them.\n"
)


def join(root: str, *parts: str) -> str:
    """The address of a file or folder below `root`, itself an absolute folder or an s3:// prefix."""
    return "/".join((root.rstrip("/"), *parts))


def in_s3(uri: str) -> bool:
    """Whether an address is one of S3."""
    return uri.startswith("s3://")


def read_bytes(uri: str) -> bytes:
    """All bytes of a file.

    Raises:
        ArtifactNotFoundError: there is no such file.
        ArtifactStoreError: the S3 server refuses, or cannot be reached.
    """
    if in_s3(uri):
        return _s3().get(uri)
    try:
        return Path(uri).read_bytes()
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(
            f"There is no file {uri}.",
            remedy="Materialize the asset that writes it, or set CHURN_ARTIFACTS to the folder that has it.",
        ) from error


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file whole or not at all, replacing one that is there, and make its folders.

    An S3 object appears only when its upload is complete; a local file is written beside its place and renamed into it.

    Raises:
        ArtifactStoreError: the S3 server refuses, or cannot be reached.
    """
    if in_s3(uri):
        _s3().put(uri, content)
        return
    place = Path(uri)
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=place.parent, prefix=".partial-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(place)
    except BaseException:
        Path(partial).unlink()
        raise


def exists(uri: str) -> bool:
    """Whether there is a file at this address; a folder is none."""
    return _s3().exists(uri) if in_s3(uri) else Path(uri).is_file()


def is_empty(uri: str) -> bool:
    """Whether there is nothing in a folder, or no such folder."""
    if in_s3(uri):
        return _s3().is_empty(uri)
    folder = Path(uri)
    return not folder.is_dir() or not any(folder.iterdir())


def names(uri: str) -> list[str]:
    """Names of the files and folders right in a folder, in order; none when there is no such folder."""
    if in_s3(uri):
        return _s3().names(uri)
    folder = Path(uri)
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def summary(uri: str, report: Callable[[str], None]) -> tuple[int, int]:
    """How many files lie below a folder, at whatever depth, and how many bytes they have.

    Args:
        uri: of the folder.
        report: is told how many were counted so far.
    """
    sizes = (each.size for each in _s3().below(uri)) if in_s3(uri) else _sizes(Path(uri))
    files = total = 0
    for size in sizes:
        files, total = files + 1, total + size
        if files % COUNTED_AT_ONCE == 0:
            report(f"Counting {uri}: {files:,}")
    return files, total


def _sizes(folder: Path) -> Iterator[int]:
    return (each.lstat().st_size for each in folder.rglob("*") if not each.is_dir())


def delete_folder(uri: str) -> None:
    """Delete a folder with all that is in it; one that is not there is no error."""
    if in_s3(uri):
        _s3().delete_below(uri)
    elif Path(uri).is_dir():
        shutil.rmtree(uri)


@cache
def claim(root: str) -> None:
    """Mark the artifacts root as the platform's own, if no one has written into its folders before.

    Only what lies in a marked root is ever deleted by 'churn clean'. Looked up once in the life of a process.
    """
    if not is_claimed(root) and all(is_empty(join(root, folder)) for folder in FOLDERS):
        write_bytes(join(root, MARKER), _MARK.encode())


def is_claimed(root: str) -> bool:
    """Whether the artifacts root bears the platform's mark."""
    return exists(join(root, MARKER))


def release(root: str) -> None:
    """Take the mark away; a folder in which nothing else is goes with it."""
    if in_s3(root):
        _s3().delete(join(root, MARKER))
    else:
        Path(root, MARKER).unlink(missing_ok=True)
        if is_empty(root):
            Path(root).rmdir()
    claim.cache_clear()


def _s3() -> ObjectStore:
    from churn_platform.files.s3 import store  # boto3 is slow to import, and local files do not need it

    return store()
