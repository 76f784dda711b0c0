"""`churn dashboard add-user`, `remove-user` and `users`, beside a running dashboard; and where it refuses to listen."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.dashboard.config import DashboardConfig
from churn_platform_tests.dashboard.protected import PASSWORD, Protected, protected


@dataclass(frozen=True)
class Terminal:
    """A wide terminal in which DASHBOARD_USERS names a file."""

    users_file: Path

    def churn(self, *arguments: str, typed: str = "", **environment: str) -> Result:
        """Run `churn dashboard` with arguments; `typed` is its stdin."""
        variables = {"COLUMNS": "400", "DASHBOARD_USERS": str(self.users_file), **environment}
        return CliRunner().invoke(app, ["dashboard", *arguments], input=typed, env=variables)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A terminal; there are no users yet."""
    return Terminal(tmp_path / "users")


@pytest.fixture
def dashboard(config: DashboardConfig, terminal: Terminal) -> Iterator[Protected]:
    """A dashboard with the users of the terminal."""
    with protected(replace(config, users_file=terminal.users_file)) as dashboard:
        yield dashboard


def test_users_come_and_go_while_the_dashboard_runs(terminal: Terminal, dashboard: Protected) -> None:
    added = terminal.churn("add-user", "erika", "--role", "retention", "--password-stdin", typed=f"{PASSWORD}\n")
    assert added.exit_code == 0, added.output
    assert added.stdout == f"Added erika (retention) in {terminal.users_file}.\n"
    assert stat.S_IMODE(terminal.users_file.stat().st_mode) == 0o600
    assert PASSWORD not in terminal.users_file.read_text()
    assert dashboard.log_in("erika").status_code == 303
    assert "retention erika" in dashboard.site.page("/notes").text

    listed = terminal.churn("users")
    assert listed.stdout == "erika  retention\n"

    removed = terminal.churn("remove-user", "erika")
    assert removed.stdout == f"Removed erika from {terminal.users_file}.\n"
    assert dashboard.client.get("/notes").status_code == 303
    assert dashboard.log_in("erika").status_code == 401


def test_a_user_gets_another_role(terminal: Terminal) -> None:
    terminal.churn("add-user", "erika", "--password-stdin", typed=PASSWORD)
    changed = terminal.churn("add-user", "erika", "--role", "retention", "--password-stdin", typed=PASSWORD)

    assert changed.stdout == f"Changed erika (retention) in {terminal.users_file}.\n"


@pytest.mark.parametrize(
    ("arguments", "typed", "message"),
    [
        (("add-user", "erika", "--password-stdin"), "short\n", "10 to 200 characters"),
        (("add-user", "er:ika", "--password-stdin"), PASSWORD, "cannot be the name of a user"),
        (("add-user", "erika", "--role", "admin", "--password-stdin"), PASSWORD, "There is no role 'admin'"),
        (("remove-user", "erika"), "", "cannot be read: No such file or directory"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_a_remedy(
    terminal: Terminal, arguments: tuple[str, ...], typed: str, message: str
) -> None:
    outcome = terminal.churn(*arguments, typed=typed)

    assert outcome.exit_code == ExitCode.FAILED
    assert message in " ".join(outcome.stderr.split())
    assert not terminal.users_file.exists()


def test_who_can_be_removed_is_named(terminal: Terminal) -> None:
    terminal.churn("add-user", "erika", "--password-stdin", typed=PASSWORD)
    outcome = terminal.churn("remove-user", "max")

    assert outcome.exit_code == ExitCode.FAILED
    assert "There is no user 'max'" in outcome.stderr
    assert "Choose among erika." in outcome.stderr


def test_without_the_setting_the_commands_name_it(terminal: Terminal) -> None:
    outcome = terminal.churn("users", DASHBOARD_USERS="")

    assert outcome.exit_code == ExitCode.FAILED
    assert "DASHBOARD_USERS is not set, so nobody has to log in." in outcome.stderr


def test_it_does_not_listen_for_other_machines_without_a_login(config: DashboardConfig, terminal: Terminal) -> None:
    outcome = terminal.churn("--host", "0.0.0.0", DASHBOARD_USERS="", DATABASE_URL=config.reader_dsn)  # noqa: S104

    assert outcome.exit_code == ExitCode.FAILED
    assert "nobody would have to log in" in outcome.stderr
