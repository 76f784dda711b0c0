"""Files of the artifacts root, on local disk or in S3, through one set of functions. Bytes only, of any format."""

import os
import tempfile
from pathlib import PurePosixPath
from typing import cast

from pyarrow import fs  # type: ignore[import-untyped]


class ArtifactNotFoundError(FileNotFoundError):
    """A file that should be under the artifacts root is not there."""


def join(root: str, *parts: str) -> str:
    """The address of a file or folder below `root`, itself an absolute folder or an s3:// prefix."""
    return "/".join((root.rstrip("/"), *parts))


def read_bytes(uri: str) -> bytes:
    """All bytes of a file.

    Raises:
        ArtifactNotFoundError: there is no such file.
    """
    filesystem, path = _locate(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            return cast("bytes", stream.read())
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(
            f"There is no file {uri}. Materialize the asset that writes it, or set CHURN_ARTIFACTS to where it is."
        ) from error


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file whole or not at all, replacing one that is there, and make its folders.

    An S3 object appears only when its upload is complete; a local file is written beside its place and renamed into it.
    """
    filesystem, path = _locate(uri)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        return
    folder = str(PurePosixPath(path).parent)
    filesystem.create_dir(folder, recursive=True)
    descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".partial-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        filesystem.move(partial, path)
    except BaseException:
        filesystem.delete_file(partial)
        raise


def exists(uri: str) -> bool:
    """Whether there is a file at this address; a folder is none."""
    filesystem, path = _locate(uri)
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def _locate(uri: str) -> tuple[fs.FileSystem, str]:
    if "://" in uri:
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    return fs.LocalFileSystem(), uri.replace(os.sep, "/")
