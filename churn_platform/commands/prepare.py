"""`churn prepare`: create what the platform's processes need on existing servers."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from churn_platform.commands.stack import default_stack
from churn_platform.commands.terminal import AsJson, ProgressReporter, emit, output, report_errors
from churn_platform.database.connections import connect

if TYPE_CHECKING:
    import psycopg

    from churn_platform.settings import Settings

WRITER, READER, RETENTION = "churn_writer", "churn_reader", "churn_retention"
NOTHING_MADE: Final = {
    "migrations": "up to date",
    "tables": "fit the customer schema",
    "logins": "all can log in",
    "topics": "exist already",
}


def prepare(
    logins: Annotated[
        bool,
        typer.Option(
            "--logins",
            help="Create the logins of DATABASE_URL, DATABASE_READER_URL and DATABASE_RETENTION_URL, or restore "
            "their access.",
        ),
    ] = False,
    dagster_home: Annotated[
        Path | None,
        typer.Option(help="DAGSTER_HOME of the processes: folder for dagster.yaml and workspace.yaml."),
    ] = None,
    code_server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the code server will listen; for workspace.yaml.")
    ] = "localhost:4000",
    as_json: AsJson = False,
) -> None:
    """Create what the platform needs on existing servers: tables, logins, topics and Dagster's own files.

    It can be repeated at any time. If another environment publishes to the same topic, or uses the same consumer group
    or database, the command names it and changes nothing.

    Example: churn prepare --logins --dagster-home /srv/churn/dagster --code-server code:4000
    """

    from churn_platform.database import migrations
    from churn_platform.deployment.dagster_home import write_dagster_home
    from churn_platform.environments import created_topics
    from churn_platform.environments.environment_guard import EnvironmentGuard
    from churn_platform.files.s3 import Access
    from churn_platform.kafka import clients
    from churn_platform.settings import load_settings
    from churn_platform.stream.config import StreamConfig
    from churn_platform.stream.partitions import require_partitions

    host, port = _address(code_server)
    with report_errors(), ProgressReporter("Checking for other environments") as progress:
        settings, owner_dsn = load_settings(), default_stack().owner_dsn
        config = StreamConfig.from_settings(settings)
        admin = clients.admin(config.kafka.client)
        with (
            connect(owner_dsn, autocommit=True, application_name="churn prepare") as connection,
            EnvironmentGuard(connection, admin, config) as guard,
        ):
            guard.require_exclusive_use()
            guard.check()
            progress("Applying migrations")
            upgraded = migrations.upgrade(owner_dsn, config.schema)
            made = {"migrations": upgraded.migrations, "tables": upgraded.changes}
            if logins:
                progress("Creating logins")
                made["logins"] = _ensure_logins(connection, settings)
            progress("Creating topics")
            made["topics"] = created_topics.create_missing(admin, replace(config, dsn=owner_dsn))
            guard.claim()
            require_partitions(admin, config)
        if dagster_home is not None:
            dagster_home.parent.mkdir(parents=True, exist_ok=True)
            write_dagster_home(
                dagster_home,
                code_server={"host": host, "port": port},
                artifacts_root=settings.platform.artifacts_root,
                s3_access=Access.from_settings(settings),
                lanes=config.lanes,
            )
            made["dagster"] = [str(dagster_home)]
    if as_json:
        emit(made)
        return
    for what, names in made.items():
        line = f"{what.capitalize()}: {', '.join(names) or NOTHING_MADE[what]}"
        output.print(line, highlight=False, markup=False, soft_wrap=True)


def _address(code_server: str) -> tuple[str, int]:
    host, _, port = code_server.rpartition(":")
    if not host or not port.isdigit():
        raise typer.BadParameter(
            f"{code_server!r} is not HOST:PORT; expected for example code:4000.", param_hint="'--code-server'"
        )
    return host, int(port)


def _ensure_logins(connection: "psycopg.Connection", settings: "Settings") -> list[str]:
    """Create or repair the logins of the settings that cannot log in with their role; return their names.

    Raises:
        SettingsError: a connection string lacks a user or a password.
    """
    from psycopg.conninfo import conninfo_to_dict

    from churn_platform.database import logins
    from churn_platform.settings import SettingsError, require_readable

    made = []
    for variable, url, role in (
        ("DATABASE_URL", settings.postgres.url, WRITER),
        ("DATABASE_READER_URL", settings.postgres.reader_url, READER),
        ("DATABASE_RETENTION_URL", settings.postgres.retention_url, RETENTION),
    ):
        if url is None:
            continue
        dsn = url.get_secret_value()
        require_readable(variable, dsn)
        if logins.can_log_in(dsn, role=role):
            continue
        parts = conninfo_to_dict(dsn)
        user, password = parts.get("user"), parts.get("password")
        if not user or not password:
            raise SettingsError(f"{variable} has no user or no password; --logins needs both to create the login.")
        logins.ensure_login(connection, name=str(user), password=str(password), role=role)
        made.append(str(user))
    return made
