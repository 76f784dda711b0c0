"""Who the user of a request is: by a session, by a proxy that names the user, or the owner of this machine."""

import time
from collections.abc import Callable
from typing import Final

from starlette.requests import Request

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.sessions import COOKIE, FailedLogins, Session, Sessions
from churn_platform.dashboard.users import NAME, User, hash_password, matches, read_users

# Compared with the password of a name that does not exist, so that the answer takes as long as for one that does.
_NOBODY: Final = hash_password("nobody has this password")


class Access:
    """Logs users in and recognizes them."""

    def __init__(self, config: DashboardConfig, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Create it without any session.

        Args:
            config: says who may use the dashboard.
            monotonic: the clock, in seconds.

        Raises:
            DashboardError: the file of users cannot be read.
        """
        self._config = config
        self._sessions = Sessions(config.session.total_seconds(), monotonic=monotonic)
        self._failed = FailedLogins(monotonic=monotonic)
        # Whoever needs no password has no session either: one session for each name, which gives forms their token.
        self._named: dict[str, Session] = {}
        if config.users_file is not None:
            read_users(config.users_file)

    @property
    def has_login(self) -> bool:
        """Whether there is a page to log in."""
        return self._config.users_file is not None

    def session_of(self, request: Request) -> Session | None:
        """Return the session of a request; None if the user has to log in.

        A user who was removed from the file, or whose role or password has changed, has to log in again.

        Raises:
            DashboardError: the file of users cannot be read.
        """
        if self._config.is_open:
            return self._session_without_password(User(self._config.local_user, "retention"))
        if self._config.proxy is not None and request.client is not None and request.client.host == self._config.proxy:
            name = request.headers.get(self._config.proxy_header, "")
            if NAME.fullmatch(name):
                return self._session_without_password(self._users().get(name, User(name, "viewer")))
        session = self._sessions.find(request.cookies.get(COOKIE, ""))
        return session if session is not None and self._users().get(session.user.name) == session.user else None

    def log_in(self, name: str, password: str, *, address: str) -> str | float:
        """Log somebody in.

        Args:
            name: as it was typed.
            password: as it was typed.
            address: where the attempt comes from.

        Returns:
            The value of the session's cookie; or the seconds to wait after too many attempts, and 0 if name or
            password are wrong.

        Raises:
            DashboardError: the file of users cannot be read.
        """
        keys = (f"name {name[:64]}", f"address {address}")
        wait = self._failed.begin(*keys)
        if wait > 0:
            return wait
        user = self._users().get(name)
        stored = user.password if user is not None and user.password else _NOBODY
        if not matches(password, stored) or user is None or stored is _NOBODY:
            return 0.0
        self._failed.forget(*keys)
        cookie, _ = self._sessions.begin(user)
        return cookie

    def log_out(self, request: Request) -> None:
        """End the session of a request."""
        self._sessions.end(request.cookies.get(COOKIE, ""))

    def _users(self) -> dict[str, User]:
        return {} if self._config.users_file is None else read_users(self._config.users_file)

    def _session_without_password(self, user: User) -> Session:
        known = self._named.get(user.name)
        if known is None or known.user != user:
            known = Sessions(float("inf")).begin(user)[1]
            self._named[user.name] = known
        return known
