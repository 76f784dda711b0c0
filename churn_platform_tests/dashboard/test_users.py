"""The file of users."""

import stat
from base64 import b64encode
from pathlib import Path

import pytest

from churn_platform.dashboard.exceptions import DashboardError
from churn_platform.dashboard.users import (
    User,
    hash_password,
    matches,
    read_users,
    require_name,
    require_role,
    write_users,
)

PASSWORD = "correct horse battery"  # noqa: S105  nobody's

HASHED = f"{b64encode(bytes(16)).decode()}${b64encode(bytes(32)).decode()}"
"""A salt and a hash of the right sizes."""


def test_a_password_matches_its_hash_alone() -> None:
    stored = hash_password(PASSWORD)

    assert matches(PASSWORD, stored)
    assert not matches(PASSWORD + "!", stored)
    assert not matches("", stored)
    assert not matches(PASSWORD * 100, stored)
    assert PASSWORD not in stored


def test_the_same_password_has_another_hash_each_time() -> None:
    assert hash_password(PASSWORD) != hash_password(PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "x" * 201])
def test_a_password_of_another_length_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(DashboardError, match=f"has {len(password)} characters") as caught:
        hash_password(password)

    assert "10 to 200" in caught.value.remedy
    assert not password or password not in caught.value.problem


def test_users_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "users"
    users = {
        "erika": User("erika", "retention", hash_password(PASSWORD)),
        "max@example.com": User("max@example.com", "viewer"),
    }

    write_users(file, users)

    assert read_users(file) == users
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["users"]


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.touch(mode=0o644)

    write_users(file, {})

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [
        "erika",
        "erika:admin:",
        "erika:viewer:plain",
        "erika:viewer:md5$1$2$3$YQ==$YQ==",
        "er ika:viewer:",
        ":viewer:",
        "erika:viewer:scrypt$x$8$5$YQ==$YQ==",
        "erika:viewer:scrypt$16384$8$5$not base64$YQ==",
        f"erika:viewer:scrypt$20000$8$5${HASHED}",  # not a power of two
        f"erika:viewer:scrypt$16384$8$1000${HASHED}",  # a login would take a minute
    ],
)
def test_a_line_that_is_no_user_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "users"
    file.write_text(f"\nmax:viewer:\n{line}\n")

    with pytest.raises(DashboardError, match=f"Line 3 of {file} is not a user: expected NAME:ROLE:HASH"):
        read_users(file)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("erika:viewer:\nerika:retention:\n")

    with pytest.raises(DashboardError, match=f"Line 2 of {file}: the user 'erika' is there already"):
        read_users(file)


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DashboardError, match="No such file") as caught:
        read_users(tmp_path / "users")

    assert "churn dashboard add-user" in caught.value.remedy


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_bytes(b"\xff\xfe")

    with pytest.raises(DashboardError, match="not text in UTF-8"):
        read_users(file)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DashboardError, match="cannot be written: "):
        write_users(tmp_path / "file" / "users", {})


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a b", "x" * 65, "ä", "../x"])
def test_a_name_that_would_break_the_file_is_refused(name: str) -> None:
    with pytest.raises(DashboardError, match="cannot be the name of a user"):
        require_name(name)


def test_a_role_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(DashboardError, match="no role 'admin'") as caught:
        require_role("admin")

    assert "viewer, retention" in caught.value.remedy
