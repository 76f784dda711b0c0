"""The file of users: a line for each, with name, role and a scrypt hash of the password. No password is stored."""

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from churn_platform.dashboard.exceptions import DashboardError
from churn_platform.files.private import write_private

Role = Literal["viewer", "retention"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
LEAST_PASSWORD: Final = 10
MOST_PASSWORD: Final = 200
# Cost of scrypt, as OWASP recommends it ("Password Storage Cheat Sheet"): 16 MiB and about 60 ms for each attempt.
N, R, P = 2**14, 8, 5
_MEMORY: Final = 64 * 1024 * 1024
_MOST_PARALLEL: Final = 16  # more would only make a login slow
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32


@dataclass(frozen=True)
class User:
    """Somebody who uses the dashboard.

    Attributes:
        name: recorded with each change of a case.
        role: "viewer" sees everything and changes nothing; "retention" changes cases, and sees nothing of the control
            group.
        password: the hash, as the file has it; empty for somebody whom only the proxy may name.
    """

    name: str
    role: Role
    password: str = ""


def hash_password(password: str) -> str:
    """Return the hash of a password, with its salt and its cost.

    Raises:
        DashboardError: the password is too short or too long.
    """
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise DashboardError(
            f"The password has {len(password)} characters.",
            remedy=f"Choose one of {LEAST_PASSWORD} to {MOST_PASSWORD} characters.",
        )
    salt = secrets.token_bytes(_SALT_BYTES)
    return "$".join(["scrypt", str(N), str(R), str(P), _text(salt), _text(_scrypt(password, salt, N, R, P))])


def matches(password: str, stored: str) -> bool:
    """Return whether the hash is that of the password. It takes the same time for each password.

    Args:
        password: as it was typed.
        stored: a hash from `hash_password`.
    """
    _, n, r, p, salt, expected = stored.split("$")
    if len(password) > MOST_PASSWORD:
        return False
    return hmac.compare_digest(_scrypt(password, b64decode(salt), int(n), int(r), int(p)), b64decode(expected))


def read_users(file: Path) -> dict[str, User]:
    """Return the users of the file by name.

    Raises:
        DashboardError: the file is missing, or a line is not a user.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise DashboardError(
            f"The file of users {file} (DASHBOARD_USERS) cannot be read: {reason}.",
            remedy="Create it with 'churn dashboard add-user NAME'.",
        ) from error
    found: dict[str, User] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"Line {number} of {file}"
            user = _user(line.strip(), place=place)
            if user.name in found:
                raise DashboardError(
                    f"{place}: the user {user.name!r} is there already.", remedy="Delete one of the two lines."
                )
            found[user.name] = user
    return found


def write_users(file: Path, users: Mapping[str, User]) -> None:
    """Replace the file. Only its owner can read it.

    Raises:
        DashboardError: it cannot be written.
    """
    try:
        write_private(file, "".join(f"{user.name}:{user.role}:{user.password}\n" for user in users.values()))
    except OSError as error:
        raise DashboardError(
            f"The file of users {file} (DASHBOARD_USERS) cannot be written: {error.strerror}.",
            remedy="Name a file in a folder that this user may write to.",
        ) from error


def require_name(name: str) -> str:
    """Return the name.

    Raises:
        DashboardError: it cannot be the name of a user.
    """
    if not NAME.fullmatch(name):
        raise DashboardError(
            f"{name!r} cannot be the name of a user.",
            remedy="Use 1 to 64 letters, digits, dots, underscores, hyphens or @.",
        )
    return name


def require_role(role: str) -> Role:
    """Return the role.

    Raises:
        DashboardError: there is no such role.
    """
    if role not in ROLES:
        raise DashboardError(f"There is no role {role!r}.", remedy=f"Choose among {', '.join(ROLES)}.")
    return role


def _user(line: str, *, place: str) -> User:
    name, _, rest = line.partition(":")
    role, _, password = rest.partition(":")
    if not NAME.fullmatch(name) or role not in ROLES or (password and not _is_hash(password)):
        raise DashboardError(
            f"{place} is not a user: expected NAME:ROLE:HASH, with one of the roles {', '.join(ROLES)}.",
            remedy="Write it with 'churn dashboard add-user NAME'.",
        )
    return User(name, role, password)


def _is_hash(text: str) -> bool:
    parts = text.split("$")
    try:
        n, r, p = (int(part) for part in parts[1:4])
        salt, found = (b64decode(part, validate=True) for part in parts[4:])
    except ValueError:  # binascii.Error is one, too
        return False
    is_strong = n >= N and r >= R and p >= P and 128 * n * r < _MEMORY and p <= _MOST_PARALLEL
    is_possible = n & (n - 1) == 0  # scrypt needs a power of two
    return parts[0] == "scrypt" and is_strong and is_possible and len(salt) >= _SALT_BYTES and len(found) == _HASH_BYTES


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=_HASH_BYTES)


def _text(data: bytes) -> str:
    return b64encode(data).decode()
