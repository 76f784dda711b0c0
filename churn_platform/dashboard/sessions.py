"""Who is logged in, and how often somebody has tried. Kept in memory: after a restart, people log in again."""

import hashlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from churn_platform.dashboard.users import User

MOST_SESSIONS: Final = 10_000
FAILURE_SECONDS: Final = 300.0
MOST_WATCHED: Final = 10_000


@dataclass(frozen=True)
class Session:
    """A login.

    Attributes:
        user: who logged in.
        token: what each form sends along, so that no other site can send it (CSRF).
        ends: when it ends, in seconds of the monotonic clock.
    """

    user: User
    token: str = field(repr=False)
    ends: float

    @property
    def can_be_ended(self) -> bool:
        """Whether it began with a password, so that its user can log out."""
        return self.ends != math.inf


class Sessions:
    """Sessions by the value of their cookie, of which only a hash is kept."""

    def __init__(self, seconds: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Create it without any session.

        Args:
            seconds: how long a session lasts.
            monotonic: the clock, in seconds.
        """
        self._seconds = seconds
        self._monotonic = monotonic
        self._found: dict[bytes, Session] = {}
        self._lock = threading.Lock()

    def begin(self, user: User) -> tuple[str, Session]:
        """Begin a session and return the value of its cookie. Of too many sessions the oldest ends."""
        cookie = secrets.token_urlsafe(32)
        session = Session(user, secrets.token_urlsafe(32), self._monotonic() + self._seconds)
        with self._lock:
            # All last equally long, so the first to end are the first in the dictionary.
            while self._found and (self._has_ended(first := next(iter(self._found))) or self._is_full()):
                del self._found[first]
            self._found[_key(cookie)] = session
        return cookie, session

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if there is none or it has ended."""
        session = self._found.get(_key(cookie))
        return session if session is not None and session.ends > self._monotonic() else None

    def _has_ended(self, key: bytes) -> bool:
        return self._found[key].ends <= self._monotonic()

    def _is_full(self) -> bool:
        return len(self._found) >= MOST_SESSIONS

    def end(self, cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._found.pop(_key(cookie), None)


class FailedLogins:
    """Counts failed logins, such as those of one name, so that nobody can try many passwords."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Create it without any failure.

        Args:
            monotonic: the clock, in seconds.
        """
        self._monotonic = monotonic
        self._failures: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def begin(self, limits: Mapping[str, int]) -> float:
        """Count an attempt in advance, so that attempts at the same time are limited as well.

        Args:
            limits: how many failures there may be in FAILURE_SECONDS, by what they are counted for.

        Returns:
            Seconds to wait before the next attempt; 0 if this one may be made. Only then it is counted.
        """
        now = self._monotonic()
        with self._lock:
            recent = {
                key: [each for each in self._failures.get(key, []) if each > now - FAILURE_SECONDS] for key in limits
            }
            wait = max(
                (
                    found[-limits[key]] + FAILURE_SECONDS - now
                    for key, found in recent.items()
                    if len(found) >= limits[key]
                ),
                default=0.0,
            )
            if wait <= 0:
                for key, found in recent.items():
                    self._failures.pop(key, None)
                    self._failures[key] = [*found, now]
                while len(self._failures) > MOST_WATCHED:
                    del self._failures[next(iter(self._failures))]
            return max(0.0, wait)

    def take_back(self, key: str) -> None:
        """Do not count the latest attempt: it was successful."""
        with self._lock:
            if self._failures.get(key):
                self._failures[key].pop()

    def forget(self, *keys: str) -> None:
        """Forget the attempts after a successful one."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
