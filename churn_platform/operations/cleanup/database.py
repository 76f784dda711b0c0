"""The user's own PostgreSQL: the tables that the migrations created and the schemas that they marked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database import dagster_tables
from churn_platform.database.connections import connect
from churn_platform.database.migrations import MIGRATIONS
from churn_platform.operations.cleanup.plan import CleanError, Findings, Item, Kept, Report, Writer, size

SESSION: Final = "churn clean"
SCHEMA_COMMENT: Final = "Made by churn_platform"  # set by the migration that creates the schemas
# A daemon sends a heartbeat every 30 s. After 1.5 times that without a heartbeat, it counts as stopped.
HEARTBEAT_SECONDS: Final = 45
# An open transaction that has read a table blocks its drop. An error after this time is better than waiting forever.
LOCK_TIMEOUT: Final = "10s"

# In the schema of the migrations, everything that belongs to churn_owner was created by them: see the baseline.
_HAS_OWNER: Final = "select exists (select from pg_roles where rolname = 'churn_owner')"
_TABLES: Final = """
    select count(*) filter (where relkind = 'r'), count(*) filter (where relkind = 'v'),
        coalesce(sum(pg_total_relation_size(oid)) filter (where relkind = 'r'), 0)
    from pg_class
    where relnamespace = current_schema()::regnamespace and relowner = 'churn_owner'::regrole
      and relname <> 'schema_migrations'
"""
_SCHEMA_OWNERS: Final = """
    select string_agg(distinct quote_ident(pg_get_userbyid(nspowner)), ', ') from pg_namespace
    where nspname in ('dagster', 'mlflow', 'optuna')
"""
_SCHEMAS: Final = """
    select nspname, coalesce(obj_description(n.oid, 'pg_namespace') = %s, false),
        (select count(*) from pg_class c where c.relnamespace = n.oid and c.relkind = 'r'),
        (select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class c
         where c.relnamespace = n.oid and c.relkind = 'r')
    from pg_namespace n where nspname in ('dagster', 'mlflow', 'optuna') order by nspname
"""
_REMAINDERS: Final = """
    select 'extension ' || extname, 'other tables may use it' from pg_extension where extname = 'btree_gist'
    union all
    select 'roles ' || string_agg(rolname, ', ' order by rolname),
        'they are known to the whole server, and other databases may use them'
    from pg_roles where rolname in ('churn_owner', 'churn_writer', 'churn_reader', 'churn_retention')
    having count(*) > 0
"""
_SESSIONS: Final = """
    select application_name, usename from pg_stat_activity
    where datname = current_database() and starts_with(application_name, 'churn ') and application_name <> %s
    order by backend_start
"""

# Without CASCADE: if somebody else's object depends on a table, the error names it and nothing is dropped. The server
# assembles the names, because it quotes them correctly.
DROP: Final = """
do $$
declare
    home oid := current_schema()::regnamespace;
    kind record;
    names text;
    place record;
begin
    for kind in select * from (values ('v', 'view'), ('r', 'table')) as k (relkind, word) loop
        select string_agg(oid::regclass::text, ', ') into names from pg_class
        where relnamespace = home and relowner = 'churn_owner'::regrole and relkind = kind.relkind
          and relname <> 'schema_migrations';
        if names is not null then
            execute format('drop %s %s restrict', kind.word, names);
        end if;
    end loop;
    select string_agg(oid::regprocedure::text, ', ') into names from pg_proc
    where pronamespace = home and proowner = 'churn_owner'::regrole;
    if names is not null then
        execute format('drop function %s restrict', names);
    end if;
    for place in
        select oid, nspname from pg_namespace
        where nspname in ('dagster', 'mlflow', 'optuna')
          and obj_description(oid, 'pg_namespace') = 'Made by churn_platform'
    loop
        select string_agg(c.oid::regclass::text, ', ') into names from pg_class c
        where c.relnamespace = place.oid and c.relkind = 'r';
        if names is not null then
            execute format('drop table %s restrict', names);
        end if;
        select string_agg(p.oid::regprocedure::text, ', ') into names from pg_proc p
        where p.pronamespace = place.oid;  -- MLflow's, of its triggers
        if names is not null then
            execute format('drop routine %s restrict', names);
        end if;
        select string_agg(t.oid::regtype::text, ', ') into names from pg_type t
        where t.typnamespace = place.oid and t.typtype = 'e';  -- Optuna's
        if names is not null then
            execute format('drop type %s restrict', names);
        end if;
        execute format('drop schema %I restrict', place.nspname);
    end loop;
    -- Default privileges for future tables.
    execute format('alter default privileges for role churn_owner in schema %s
        revoke all on tables from churn_writer, churn_reader', home::regnamespace);
    execute format('alter default privileges for role churn_owner in schema %s
        revoke all on sequences from churn_writer', home::regnamespace);
    execute format('alter default privileges in schema %s
        revoke all on tables from churn_writer, churn_reader', home::regnamespace);
    execute format('alter default privileges in schema %s
        revoke all on sequences from churn_writer', home::regnamespace);
end
$$
"""


class Database:
    """The platform's tables in the user's own PostgreSQL."""

    def __init__(self, dsn: str, application: str) -> None:
        """Name the database.

        Args:
            dsn: connection string of the owner of the tables.
            application: connection string of the platform's own login, which owns Dagster's tables.
        """
        self._dsn = dsn
        self._application = application
        parts = conninfo_to_dict(dsn)
        self._place = f"PostgreSQL {parts.get('dbname') or ''}@{parts.get('host') or 'localhost'}"

    @property
    def word(self) -> str:
        """The name of the database, as database@host."""
        return self._place.removeprefix("PostgreSQL ")

    @contextmanager
    def _connected(self, dsn: str | None = None) -> Iterator[psycopg.Connection]:
        """Open a connection, as the owner by default.

        Raises:
            CleanError: the login lacks a right.
        """
        with connect(dsn or self._dsn, autocommit=True, connect_timeout=10, application_name=SESSION) as connection:
            try:
                yield connection
            except psycopg.errors.InsufficientPrivilege as error:
                owners = _value(connection, _SCHEMA_OWNERS)
                raise CleanError(
                    f"The login {connection.info.user!r} may not delete the platform's tables in {self._place}: "
                    f"{error.diag.message_primary}.",
                    remedy=f"Set DATABASE_OWNER_URL to a login that may: a superuser, or a member of churn_owner that "
                    f"owns the schemas dagster and mlflow (their owners are: {owners or 'nobody'}).",
                ) from error

    def collect(self, report: Report) -> Findings:
        """Return the platform's tables and schemas, and what is kept.

        Raises:
            psycopg.OperationalError: the server does not answer.
        """
        report(f"Reading the catalog of {self._place}")
        found = Findings()
        with self._connected() as connection:
            if _value(connection, _HAS_OWNER):
                tables, views, total = connection.execute(_TABLES).fetchone() or (0, 0, 0)
                if tables or views:
                    found.items.append(
                        self._item("the platform's tables", f"{tables} tables, {views} views, {size(total)}")
                    )
            if self._migrations_of_others(connection):
                found.kept.append(Kept(self._place, "table schema_migrations", "it has migrations of another program"))
            for name, marked, tables, total in connection.execute(_SCHEMAS, (SCHEMA_COMMENT,)):
                if marked:
                    found.items.append(self._item(f"schema {name}", f"{tables} tables, {size(total)}"))
                else:
                    reason = "it does not have the platform's comment: it held tables before the platform was installed"
                    found.kept.append(Kept(self._place, f"schema {name}", reason))
            found.kept += [Kept(self._place, *row) for row in connection.execute(_REMAINDERS)]
        return found

    def _item(self, name: str, detail: str) -> Item:
        return Item(self._place, name, detail)

    def writers(self) -> list[Writer]:
        """Return sessions of the platform, Dagster's live runs, and a running daemon.

        Raises:
            CleanError: no login may read Dagster's runs.
            psycopg.OperationalError: the server does not answer.
        """
        with self._connected() as connection:
            found = self._sessions(connection)
            reads = dagster_tables.are_readable(connection)
            if reads:
                return found + self._dagster(connection)
            if reads is None:
                return found
            owner = connection.info.user
        with self._connected(self._application) as connection:
            if not dagster_tables.are_readable(connection):
                logins = " and ".join(sorted({repr(owner), repr(connection.info.user)}))
                raise CleanError(
                    f"The logins of DATABASE_OWNER_URL and DATABASE_URL ({logins}) may not read dagster.runs in "
                    f"{self._place}, so it is unknown whether a run is live.",
                    remedy="Set DATABASE_URL to the platform's login, or let the login of "
                    "DATABASE_OWNER_URL read Dagster's tables (grant usage on schema dagster, and select on all tables "
                    "in it).",
                )
            return found + self._dagster(connection)

    def _sessions(self, connection: psycopg.Connection) -> list[Writer]:
        return [
            Writer(f"session '{name}' of {user} in {self._place}", "end it, or wait until it ends")
            for name, user in connection.execute(_SESSIONS, (SESSION,))
        ]

    def _dagster(self, connection: psycopg.Connection) -> list[Writer]:
        found = [
            Writer(
                f"Dagster run {run_id} of {job}, {status}",
                f"terminate it in Dagster's UI; if its process has ended, 'dagster run delete {run_id}'",
            )
            for run_id, job, status in dagster_tables.unfinished_runs(connection)
        ]
        since_heartbeat = dagster_tables.seconds_since_heartbeat(connection)
        if since_heartbeat is not None and since_heartbeat < HEARTBEAT_SECONDS:
            found.append(
                Writer(
                    f"a Dagster daemon with a heartbeat {since_heartbeat:.0f} s ago",
                    f"stop it; if it is stopped, wait {HEARTBEAT_SECONDS - since_heartbeat:.0f} s",
                )
            )
        return found

    def check_deletable(self) -> None:
        """Drop everything in a transaction, and roll it back.

        Raises:
            CleanError: something cannot be dropped.
        """
        with self._connected() as connection, connection.transaction(force_rollback=True):
            self._drop(connection)

    def delete(self, report: Report) -> None:
        """Drop everything in one transaction.

        Raises:
            CleanError: something cannot be dropped; nothing was dropped.
        """
        report(f"Dropping the tables in {self._place}")
        with self._connected() as connection, connection.transaction():
            self._drop(connection)

    def _drop(self, connection: psycopg.Connection) -> None:
        if not _value(connection, _HAS_OWNER):
            return
        connection.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
        try:
            connection.execute(DROP)
            self._forget_migrations(connection)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise CleanError(
                f"Other objects depend on the platform's tables in {self._place}: {error.diag.message_detail or error}",
                remedy="Drop those objects first.",
            ) from error
        except psycopg.errors.LockNotAvailable as error:
            raise CleanError(
                f"Other sessions use tables in {self._place}: {error.diag.message_primary} within {LOCK_TIMEOUT}.",
                remedy="End those sessions; pg_stat_activity shows them.",
            ) from error

    def _forget_migrations(self, connection: psycopg.Connection) -> None:
        """Drop dbmate's table, or delete only the platform's migrations if it also has others."""
        if not self._migrations_of_others(connection):
            connection.execute("drop table if exists schema_migrations restrict")
        else:
            connection.execute("delete from schema_migrations where version = any(%s)", (_versions(),))

    def _migrations_of_others(self, connection: psycopg.Connection) -> bool:
        if _value(connection, "select to_regclass('schema_migrations') is null"):
            return False
        others = "select count(*) from schema_migrations where not version = any(%s)"
        return connection.execute(others, (_versions(),)).fetchone() != (0,)


def _versions() -> list[str]:
    """Return the versions of the platform's migrations, as dbmate records them."""
    return [file.name.partition("_")[0] for file in MIGRATIONS.glob("*.sql")]


def _value(connection: psycopg.Connection, query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]
