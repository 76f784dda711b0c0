"""Who the user of a request is: by a session, by a proxy that names the user, or the owner of this machine."""

import ipaddress
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from starlette.requests import Request

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.sessions import FailedLogins, Session, Sessions
from churn_platform.dashboard.users import NAME, User, hash_password, matches, read_users

_log = logging.getLogger("churn.dashboard")

# Failed logins in five minutes. Few for a name from one address; more for a name, so that a stranger cannot lock it by
# five attempts; most for an address, because everybody behind one proxy has the same.
MOST_OF_BOTH: Final = 5
MOST_OF_NAME: Final = 20
MOST_OF_ADDRESS: Final = 100
# Each comparison takes 16 MiB and 60 ms of a core. More at a time would slow the pages down, not the attacker.
_COMPARING: Final = threading.Semaphore(2)
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
            DashboardError: the file of users is there and cannot be read.
        """
        self._config = config
        self._sessions = Sessions(config.session.total_seconds(), monotonic=monotonic)
        self._failed = FailedLogins(monotonic=monotonic)
        # Whoever needs no password has no session either: one session for each name, which gives forms their token.
        self._named: dict[str, Session] = {}
        if config.users_file is not None and config.users_file.exists():
            read_users(config.users_file)
        elif config.users_file is not None:
            _log.warning(
                "Nobody can log in yet: there is no file %s. 'churn dashboard add-user NAME' creates it.",
                config.users_file,
            )

    @property
    def has_login(self) -> bool:
        """Whether there is a page to log in."""
        return self._config.users_file is not None

    @property
    def cookie(self) -> str:
        """Name of the session's cookie. With the prefix, browsers accept it from this host alone, and only by HTTPS."""
        return "__Host-churn_session" if self._config.is_encrypted else "churn_session"

    def session_of(self, request: Request) -> Session | None:
        """Return the session of a request; None if the user has to log in.

        A user who was removed from the file, or whose role or password has changed, has to log in again.

        Raises:
            DashboardError: the file of users cannot be read.
        """
        if self._config.is_open:
            return self._session_without_password(User(self._config.local_user, "retention"))
        name = self._name_from_proxy(request)
        if name is not None:
            return self._session_without_password(self._users().get(name, User(name, "viewer")))
        session = self._sessions.find(request.cookies.get(self.cookie, ""))
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
        user = self._users().get(name)
        # People also type their password as the name, so only a name that exists is logged.
        shown = name if user is not None else "somebody who is not a user"
        of_name, of_address = f"name {name[:64]}", f"address {address}"
        of_both = f"{of_name} {of_address}"
        wait = self._failed.begin({of_both: MOST_OF_BOTH, of_name: MOST_OF_NAME, of_address: MOST_OF_ADDRESS})
        if wait > 0:
            _log.warning("Too many failed logins of %s from %s.", shown, address)
            return wait
        stored = user.password if user is not None and user.password else _NOBODY
        with _COMPARING:
            is_right = matches(password, stored)
        if not is_right or user is None or stored is _NOBODY:
            _log.warning("A failed login of %s from %s.", shown, address)
            return 0.0
        self._failed.forget(of_both, of_name)
        # Earlier ones of the address stay: otherwise a user could try passwords of others by logging in between.
        self._failed.take_back(of_address)
        _log.info("%s logged in from %s.", user.name, address)
        cookie, _ = self._sessions.begin(user)
        return cookie

    def log_out(self, request: Request) -> None:
        """End the session of a request."""
        self._sessions.end(request.cookies.get(self.cookie, ""))

    def _name_from_proxy(self, request: Request) -> str | None:
        """Return the user whom the proxy names; None if the request does not come from it, or it names nobody."""
        if self._config.proxy is None or request.client is None or not _is(request.client.host, self._config.proxy):
            return None
        # Two headers: the proxy has added one to that of the browser, which could name anybody.
        names = request.headers.getlist(self._config.proxy_header)
        return names[0] if len(names) == 1 and NAME.fullmatch(names[0]) else None

    def _users(self) -> dict[str, User]:
        return {} if self._config.users_file is None else read_users(self._config.users_file)

    def _session_without_password(self, user: User) -> Session:
        known = self._named.get(user.name)
        if known is None or known.user != user:
            known = Sessions(math.inf).begin(user)[1]
            self._named[user.name] = known
        return known


def _is(address: str, expected: str) -> bool:
    """Return whether two texts are the same IP address; what is no address, such as a socket, is none."""
    try:
        return _plain(address) == _plain(expected)
    except ValueError:
        return False


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address. A socket of IPv6 writes 10.0.0.5 as ::ffff:10.0.0.5."""
    found = ipaddress.ip_address(address)
    return (isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped) or found
