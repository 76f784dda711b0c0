"""`churn dashboard`: run the dashboard in this terminal, and say who may log in."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from churn_platform.commands.terminal import output, report_errors

app = typer.Typer()

NameArgument = Annotated[str, typer.Argument(help="Name of the user.")]


def dashboard(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen at.", show_default="DASHBOARD_HOST")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen at.", show_default="DASHBOARD_PORT", min=1, max=65535)
    ] = None,
) -> None:
    """Run the dashboard for people who do not open Dagster, until Ctrl+C. 'churn up' starts one.

    Example: churn dashboard
    """
    if context.invoked_subcommand is not None:
        return
    from churn_platform.dashboard import server
    from churn_platform.settings import load_settings
    from churn_platform.web_server import configure_log

    with report_errors():
        settings = load_settings()
        configure_log(settings.platform.log_format)
        server.run(settings, host=host, port=port)


@app.command("add-user")
def add_user(
    name: NameArgument,
    role: Annotated[
        str,
        typer.Option(
            help="'viewer' sees everything and changes nothing; 'retention' changes cases, and sees nothing of the "
            "control group."
        ),
    ] = "viewer",
    from_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin instead of asking for it twice.")
    ] = False,
) -> None:
    """Let somebody log in, or give a user another role or password. A running dashboard notices it.

    Example: churn dashboard add-user erika --role retention
    """
    from churn_platform.dashboard import users

    with report_errors():
        file = _users_file()
        known = users.read_users(file) if file.exists() else {}
        user = users.User(users.require_name(name), users.require_role(role))
        # Not an option with a value: everybody on the machine can read command lines.
        password = (
            sys.stdin.readline().rstrip("\r\n")
            if from_stdin
            else str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
        )
        user = replace(user, password=users.hash_password(password))
        users.write_users(file, {**known, user.name: user})
        output.print(f"{'Changed' if name in known else 'Added'} {name} ({user.role}) in {file}.")


@app.command("remove-user")
def remove_user(name: NameArgument) -> None:
    """Let somebody no longer log in. Open sessions end.

    Example: churn dashboard remove-user erika
    """
    from churn_platform.dashboard import users
    from churn_platform.dashboard.exceptions import DashboardError

    with report_errors():
        file = _users_file()
        known = users.read_users(file)
        if name not in known:
            raise DashboardError(
                f"There is no user {name!r} in {file}.", remedy=f"Choose among {', '.join(known) or 'nobody'}."
            )
        users.write_users(file, {each: user for each, user in known.items() if each != name})
        output.print(f"Removed {name} from {file}.")


@app.command("users")
def list_users() -> None:
    """List who may log in.

    Example: churn dashboard users
    """
    from churn_platform.dashboard import users

    with report_errors():
        for user in users.read_users(_users_file()).values():
            output.print(f"{user.name}  {user.role}")


def _users_file() -> Path:
    from churn_platform.dashboard.exceptions import DashboardError
    from churn_platform.settings import load_settings

    file = load_settings().dashboard.users
    if file is None:
        raise DashboardError(
            "DASHBOARD_USERS is not set, so nobody has to log in.",
            remedy="Set it in .env to the file that shall name the users, for example DASHBOARD_USERS=.local/users.",
        )
    return file
