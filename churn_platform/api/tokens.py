"""The file of tokens: a line for each, with name, SHA-256, time of creation and of expiry. No token is stored.

A token has 256 random bits, so nobody finds it by trying, and a fast hash is enough.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from churn_platform.api.exceptions import ApiError
from churn_platform.files.private import write_private

_log = logging.getLogger("churn.api")

NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
PREFIX: Final = "churn_"
"""Begins each token, so that tools that look for secrets in repositories can find it."""
_BYTES: Final = 32
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_NEVER: Final = "never"


@dataclass(frozen=True)
class Token:
    """Who may use the API.

    Attributes:
        name: of the program that uses it.
        hash: SHA-256 of the token, in hexadecimal digits.
        created: when it was created, UTC.
        expires: when it stops being valid, UTC; None: never.
    """

    name: str
    hash: str
    created: datetime
    expires: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Return whether it has not expired."""
        return self.expires is None or now < self.expires


def new_token(name: str, *, created: datetime, expires: datetime | None) -> tuple[str, Token]:
    """Return a new token as text, which is stored nowhere, and its entry in the file.

    Raises:
        ApiError: it cannot have this name.
    """
    if not NAME.fullmatch(name):
        raise ApiError(
            f"{name!r} cannot be the name of a token.",
            remedy="Use 1 to 64 letters, digits, dots, underscores, hyphens or @.",
        )
    text = PREFIX + secrets.token_urlsafe(_BYTES)
    return text, Token(name, _digest(text), _seconds(created), None if expires is None else _seconds(expires))


def read_tokens(file: Path) -> dict[str, Token]:
    """Return the tokens of the file by name; none if there is no file.

    Raises:
        ApiError: the file cannot be read, or a line is not a token.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ApiError(
            f"The file of tokens {file} (API_TOKENS) cannot be read: {error.strerror}.",
            remedy="Let the user of the API read it.",
        ) from error
    except UnicodeDecodeError as error:
        raise ApiError(f"The file of tokens {file} (API_TOKENS) is not UTF-8 text.", remedy=_REWRITE) from error
    tokens = [
        _token(line, place=f"Line {number} of {file}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    return {token.name: token for token in tokens}


def write_tokens(file: Path, tokens: Mapping[str, Token]) -> None:
    """Replace the file. Only its owner can read it.

    Raises:
        ApiError: it cannot be written.
    """
    try:
        write_private(file, "".join(f"{_line(token)}\n" for token in tokens.values()))
    except OSError as error:
        raise ApiError(
            f"The file of tokens {file} (API_TOKENS) cannot be written: {error.strerror}.",
            remedy="Name a file in a folder that this user may write to.",
        ) from error


class TokenFile:
    """The tokens of a file, which is read again whenever it has changed."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            ApiError: the file cannot be read, or a line is not a token.
        """
        self._file = file
        self._state = self._look()
        self._tokens = list(read_tokens(file).values())
        if not self._tokens:
            _log.warning("%s has no tokens, so every request is refused. 'churn serve add-token NAME' adds one.", file)

    def find(self, text: str, *, now: datetime) -> Token | None:
        """Return the valid token that was sent; None if there is none. A file that cannot be read has no tokens.

        Args:
            text: as it was sent.
            now: the time, UTC.
        """
        state = self._look()
        if state != self._state:
            self._state = state
            self._read_again()
        digest = _digest(text)
        # All of them are compared, each in a time that does not depend on the digits.
        found = [token for token in self._tokens if hmac.compare_digest(token.hash, digest)]
        return next((token for token in found if token.is_valid(now)), None)

    def _read_again(self) -> None:
        try:
            self._tokens = list(read_tokens(self._file).values())
        except ApiError as error:
            _log.error("Every request is refused until this is corrected: %s", error)
            self._tokens = []

    def _look(self) -> tuple[int, int, int] | None:
        """Return what changes with the file; None if there is none."""
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


_REWRITE: Final = "Correct it, or delete it and add the tokens again with 'churn serve add-token NAME'."


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _line(token: Token) -> str:
    expires = _NEVER if token.expires is None else token.expires.isoformat()
    return f"{token.name} {token.hash} {token.created.isoformat()} {expires}"


def _token(line: str, *, place: str) -> Token:
    parts = line.split()
    try:
        name, digest, created, expires = parts
        token = Token(name, digest, _time(created), None if expires == _NEVER else _time(expires))
    except ValueError as error:
        raise _not_a_token(place) from error
    if not NAME.fullmatch(name) or not _HASH.fullmatch(digest):
        raise _not_a_token(place)
    return token


def _time(text: str) -> datetime:
    """Return a time of the file.

    Raises:
        ValueError: it is none, or has no time zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone.")
    return moment


def _not_a_token(place: str) -> ApiError:
    return ApiError(
        f"{place} is not a token: expected NAME HASH CREATED EXPIRES, with times such as 2026-11-24T09:15:30+00:00, or "
        "never.",
        remedy=_REWRITE,
    )
