"""A dashboard with logins, and a page of notes that its users read and change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import psycopg
from starlette.responses import RedirectResponse, Response

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.exceptions import ForbiddenError
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.users import Role, User, hash_password, read_users, write_users
from churn_platform_tests.dashboard.site import Site, serving

PASSWORD: Final = "correct horse battery"  # noqa: S105  nobody's
_HASH: Final = hash_password(PASSWORD)


@dataclass
class Notes:
    """A page that shows who asks and what they searched for, and that the retention team adds notes to."""

    added: list[tuple[str, str]] = field(default_factory=list)

    def pages(self) -> Sequence[Page]:
        """Return the page, as the dashboard's own pages are defined."""
        return [Page("/notes", self._read, label="Notes", change=self._change), Page("/broken", self._fail)]

    @staticmethod
    def _read(visit: Visit, connection: psycopg.Connection) -> View:
        connection.execute("select 1")
        text = f"{visit.user.role} {visit.user.name} searches for {visit.text('q')}"
        return View("problem.html.j2", "Notes", {"text": text, "back": ""})

    def _change(self, visit: Visit) -> Response:
        if not visit.may_change_cases:
            raise ForbiddenError("Only the retention team adds notes.")
        self.added.append((visit.user.name, visit.form["text"]))
        return RedirectResponse("/notes", status_code=303)

    @staticmethod
    def _fail(_: Visit, __: psycopg.Connection) -> View:
        raise RuntimeError("a defect, with secret details")


@dataclass(frozen=True)
class Protected:
    """The dashboard, and a browser's view of it."""

    site: Site
    notes: Notes
    users_file: Path

    @property
    def client(self) -> httpx.Client:
        """Has the cookies of whoever logged in."""
        return self.site.client

    def set_users(self, **roles: Role) -> None:
        """Let these users log in with PASSWORD, and nobody else."""
        write_users(self.users_file, {name: User(name, role, _HASH) for name, role in roles.items()})

    def change_user(self, name: str, **changes: str) -> None:
        """Change a user's password or role in the file."""
        known = read_users(self.users_file)
        old = {"role": known[name].role, "password": known[name].password, **changes}
        role: Role = "retention" if old["role"] == "retention" else "viewer"
        write_users(self.users_file, {**known, name: User(name, role, old["password"])})

    def log_in(self, name: str, password: str = PASSWORD, *, leads_to: str = "/notes") -> httpx.Response:
        """Send the login form as its page does."""
        form = {"name": name, "password": password, "next": leads_to}
        return self.client.post("/login", data=form, headers={"origin": self.site.url})

    def token(self) -> str:
        """Return the token of the forms of whoever is logged in."""
        return self.site.page("/notes").value("token")

    def add_note(self, text: str, **headers: str) -> httpx.Response:
        """Send the form of the page of notes, as its page does unless the headers say otherwise."""
        form = {"token": self.token(), "text": text}
        return self.client.post("/notes", data=form, headers={"origin": self.site.url, **headers})


@contextmanager
def protected(config: DashboardConfig) -> Iterator[Protected]:
    """Serve the page of notes with a configuration that names a file of users."""
    assert config.users_file is not None
    notes = Notes()
    with serving(config, pages=notes.pages()) as site:
        yield Protected(site, notes, config.users_file)
