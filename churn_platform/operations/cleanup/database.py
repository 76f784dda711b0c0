"""A PostgreSQL of the user's own: the tables that our migrations made, and the schemas that they have marked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database.connections import connect
from churn_platform.database.migrations import MIGRATIONS
from churn_platform.operations.cleanup.plan import CleanError, Findings, Item, Kept, Report, Writer, size

SESSION: Final = "churn clean"
SCHEMA_MARK: Final = "Made by churn_platform"
# A daemon reports every 30 s; after one and a half times that it is gone.
SILENT_SECONDS: Final = 45
# A session that has read from a table and goes on with its transaction holds up a drop: better said than waited for.
LOCK_TIMEOUT: Final = "10s"

# What belongs to churn_owner in the schema of the migrations was made by them: see the migration "roles".
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
    from pg_roles where rolname in ('churn_owner', 'churn_writer', 'churn_reader') having count(*) > 0
"""
_SESSIONS: Final = """
    select application_name, usename from pg_stat_activity
    where datname = current_database() and starts_with(application_name, 'churn ') and application_name <> %s
    order by backend_start
"""
# By the catalog: to_regclass() is refused to a login that may not use the schema. None: there are no such tables.
_READS_DAGSTER: Final = """
    select bool_and(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'dagster' and c.relname in ('runs', 'daemon_heartbeats') and c.relkind = 'r'
"""
_RUNS: Final = """
    select run_id, pipeline_name, status from dagster.runs where status in ('STARTING', 'STARTED', 'CANCELING')
    order by id
"""
_DAEMON: Final = """
    select extract(epoch from now()) - max((body::json ->> 'timestamp')::double precision)
    from dagster.daemon_heartbeats
"""

# Without CASCADE: what somebody else has built on our tables is named by the error, and nothing is dropped. Names are
# put together by the server, which quotes them.
_DROP: Final = """
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
    -- What tables to come would have been granted.
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
    """The tables in a PostgreSQL that is not ours."""

    def __init__(self, dsn: str, application: str) -> None:
        """Name it.

        Args:
            dsn: connection string of the owner of the tables.
            application: of the login that the platform works with, which may be another: Dagster's tables are its own.
        """
        self._dsn = dsn
        self._application = application
        parts = conninfo_to_dict(dsn)
        self._place = f"PostgreSQL {parts.get('dbname') or ''}@{parts.get('host') or 'localhost'}"

    @property
    def word(self) -> str:
        """database@host."""
        return self._place.removeprefix("PostgreSQL ")

    @contextmanager
    def _connected(self, dsn: str | None = None) -> Iterator[psycopg.Connection]:
        """A connection of the owner, if no other is named.

        Raises:
            CleanError: the login lacks a right.
        """
        with connect(dsn or self._dsn, autocommit=True, connect_timeout=10, application_name=SESSION) as connection:
            try:
                yield connection
            except psycopg.errors.InsufficientPrivilege as error:
                owners = _value(connection, _SCHEMA_OWNERS)
                raise CleanError(
                    f"Set DATABASE_OWNER_URL to a login that may: a superuser, or a member of churn_owner that owns "
                    f"the schemas dagster and mlflow (whose owners are: {owners or 'nobody'}). The login "
                    f"{connection.info.user!r} may not delete the platform's tables in {self._place}: "
                    f"{error.diag.message_primary}."
                ) from error

    def look(self, report: Report) -> Findings:
        """The platform's tables, and what of the platform's will stay.

        Raises:
            psycopg.OperationalError: the server does not answer.
        """
        report(f"Looking at {self._place}")
        found = Findings()
        with self._connected() as connection:
            if _value(connection, _HAS_OWNER):
                tables, views, total = connection.execute(_TABLES).fetchone() or (0, 0, 0)
                if tables or views:
                    found.items.append(
                        self._item("the platform's tables", f"{tables} tables, {views} views, {size(total)}")
                    )
            if self._migrations_of_others(connection):
                found.kept.append(Kept(self._place, "table schema_migrations", "it holds migrations of others"))
            for name, marked, tables, total in connection.execute(_SCHEMAS, (SCHEMA_MARK,)):
                if marked:
                    found.items.append(self._item(f"schema {name}", f"{tables} tables, {size(total)}"))
                else:
                    reason = "it does not bear the platform's mark: it held tables when the migration looked"
                    found.kept.append(Kept(self._place, f"schema {name}", reason))
            found.kept += [Kept(self._place, *row) for row in connection.execute(_REMAINDERS)]
        return found

    def _item(self, name: str, detail: str) -> Item:
        return Item(self._place, name, detail)

    def writers(self) -> list[Writer]:
        """Sessions of the platform, Dagster's runs, and a daemon that lives.

        Raises:
            CleanError: no login may read Dagster's runs.
            psycopg.OperationalError: the server does not answer.
        """
        with self._connected() as connection:
            found = self._sessions(connection)
            reads = _value(connection, _READS_DAGSTER)
            if reads:
                return found + self._dagster(connection)
            if reads is None:
                return found
            owner = connection.info.user
        with self._connected(self._application) as connection:
            if not _value(connection, _READS_DAGSTER):
                logins = " and ".join(sorted({repr(owner), repr(connection.info.user)}))
                raise CleanError(
                    f"Set DATABASE_URL to the login that the platform works with, or let the one of DATABASE_OWNER_URL "
                    f"read Dagster's tables (grant usage on schema dagster, and select on all tables in it). What "
                    f"DATABASE_OWNER_URL and DATABASE_URL name now, {logins}, may not read dagster.runs in "
                    f"{self._place}, which says whether a run is under way."
                )
            return found + self._dagster(connection)

    def _sessions(self, connection: psycopg.Connection) -> list[Writer]:
        return [
            Writer(f"session '{name}' of {user} in {self._place}", "end it, or wait until it has ended")
            for name, user in connection.execute(_SESSIONS, (SESSION,))
        ]

    def _dagster(self, connection: psycopg.Connection) -> list[Writer]:
        found = [
            Writer(
                f"Dagster run {run_id} of {job}, {status}",
                f"terminate it in Dagster's UI; if its process is gone, 'dagster run delete {run_id}'",
            )
            for run_id, job, status in connection.execute(_RUNS)
        ]
        silent = _value(connection, _DAEMON)
        if silent is not None and silent < SILENT_SECONDS:
            found.append(
                Writer(
                    f"a Dagster daemon that reported {silent:.0f} s ago",
                    f"stop it; where that is done, wait {SILENT_SECONDS - silent:.0f} s until it counts as gone",
                )
            )
        return found

    def rehearse(self) -> None:
        """Drop everything in a transaction, and undo it.

        Raises:
            CleanError: something cannot be dropped.
        """
        with self._connected() as connection, connection.transaction(force_rollback=True):
            self._drop(connection)

    def remove(self, report: Report) -> None:
        """Drop everything in one transaction.

        Raises:
            CleanError: something cannot be dropped; nothing is.
        """
        report(f"Dropping the tables in {self._place}")
        with self._connected() as connection, connection.transaction():
            self._drop(connection)

    def _drop(self, connection: psycopg.Connection) -> None:
        if not _value(connection, _HAS_OWNER):
            return
        connection.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
        try:
            connection.execute(_DROP)
            self._forget_migrations(connection)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise CleanError(
                f"Drop first what others have built on the platform's tables in {self._place}: "
                f"{error.diag.message_detail or error}"
            ) from error
        except psycopg.errors.LockNotAvailable as error:
            raise CleanError(
                f"End the sessions that read or write tables in {self._place} (pg_stat_activity shows them): "
                f"{error.diag.message_primary} within {LOCK_TIMEOUT}."
            ) from error

    def _forget_migrations(self, connection: psycopg.Connection) -> None:
        """Drop dbmate's table, or take our migrations out of it where it has others, too."""
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
    """Versions of our migrations, as dbmate records them."""
    return [file.name.partition("_")[0] for file in MIGRATIONS.glob("*.sql")]


def _value(connection: psycopg.Connection, query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]
