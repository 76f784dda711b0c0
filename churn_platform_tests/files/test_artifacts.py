"""Local files are written atomically, whatever the folder is called."""

import resource
from pathlib import Path

import pytest

from churn_platform.files.artifacts import exists, join, read_bytes, write_bytes
from churn_platform.files.exceptions import ArtifactNotFoundError


def test_bytes_are_read_back_from_a_folder_with_any_name(tmp_path: Path) -> None:
    uri = join(str(tmp_path), "a folder", "100% #1?", "model.ubj")

    write_bytes(uri, b"\x00\xff")

    assert read_bytes(uri) == b"\x00\xff"
    assert exists(uri)


def test_writing_again_replaces_the_file(tmp_path: Path) -> None:
    uri = join(str(tmp_path), "file")

    write_bytes(uri, b"a longer first version")
    write_bytes(uri, b"second")

    assert read_bytes(uri) == b"second"


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(tmp_path: Path) -> None:
    uri = join(str(tmp_path), "file")
    write_bytes(uri, b"first")

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, before[1]))  # no file of this process may have more bytes
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bytes(uri, b"second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert read_bytes(uri) == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    uri = join(str(tmp_path), "nowhere", "file")

    assert not exists(uri)
    with pytest.raises(ArtifactNotFoundError, match=f"There is no file {uri}"):
        read_bytes(uri)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    assert not exists(str(tmp_path / "folder"))


def test_addresses_are_joined_with_one_slash() -> None:
    assert join("s3://bucket/prefix/", "models", "7") == "s3://bucket/prefix/models/7"
