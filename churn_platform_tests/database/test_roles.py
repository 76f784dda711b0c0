"""Roles: the platform writes rows, a reader reads, neither can do more, and migrations need few rights."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.database import advisory_locks, stream_batches
from churn_platform.database.migrations import MIGRATIONS, MigrationError, Upgraded, apply_migrations, upgrade
from churn_platform.local.environment import READER_VARIABLE
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema

pytestmark = pytest.mark.timeout(120)

ROLES = {"churn_owner", "churn_writer", "churn_reader", "churn_retention"}
BASELINE = MIGRATIONS / "20261128000000_baseline.sql"


@dataclass(frozen=True)
class Logins:
    """Connection strings of the three logins to one migrated database."""

    owner: str
    writer: str
    reader: str


@pytest.fixture
def logins(stack: Stack, database: str) -> Logins:
    """Logins to a migrated database for one test."""
    name = str(conninfo_to_dict(database)["dbname"])
    return Logins(
        make_conninfo(stack.owner_dsn, dbname=name),
        database,
        make_conninfo(stack.environment[READER_VARIABLE], dbname=name),
    )


def _allowed(dsn: str, statement: LiteralString) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


def _refused(dsn: str, statement: LiteralString) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "create table public.mine (a integer)",
        "create schema mine",
        "create extension pg_trgm",
        "drop table churn_predictions",
        "drop view v_churn_trends",
        "truncate churn_predictions",
        "alter table stream_batches drop constraint conservation",
        "alter table stream_ranges disable trigger all",
        "insert into schema_migrations (version) values ('1')",
        "delete from schema_migrations",
        "truncate schema_migrations",
        "create role mine",
        "alter role churn password null",
        "grant churn_owner to churn_platform",
        "set role churn_owner",
        "select rolpassword from pg_authid",
        "select pg_read_file('postgresql.conf')",
        "copy churn_predictions to program 'cat'",
        "alter system set track_commit_timestamp = off",
        "delete from erased_customers",
        "update erased_customers set hash = hash",
        "delete from erasures",
        "update erasures set erased_by = 'somebody else'",
    ],
)
def test_the_writer_may_not(logins: Logins, statement: LiteralString) -> None:
    _refused(logins.writer, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "insert into high_risk_customers select * from high_risk_customers",
        "update stream_batches set reported = true",
        "delete from high_risk_customers",
        "create table public.mine (a integer)",
        "create table dagster.mine (a integer)",
        "set role churn_writer",
        "select rolpassword from pg_authid",
    ],
)
def test_the_reader_may_not(logins: Logins, statement: LiteralString) -> None:
    _refused(logins.reader, statement)


def test_the_reader_reads_all_tables_of_the_platform_and_none_of_dagster_or_mlflow(logins: Logins) -> None:
    _allowed(logins.writer, "create table dagster.runs (secret text)")
    _allowed(logins.writer, "create table mlflow.experiments (secret text)")

    with psycopg.connect(logins.reader, autocommit=True) as connection:
        names = connection.execute(
            "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v')"
        ).fetchall()
        for (name,) in names:
            if name not in ("retention_keys", "erasure_state", "challenger_keys"):
                connection.execute(sql.SQL("select * from {}").format(sql.Identifier(name)))

    _refused(logins.reader, "select key from retention_keys")
    _refused(logins.reader, "select key from erasure_state")
    _refused(logins.reader, "select key from challenger_keys")
    assert {("churn_predictions",), ("v_churn_trends",)} <= set(names)
    _refused(logins.reader, "select * from dagster.runs")
    _refused(logins.reader, "select * from mlflow.experiments")


def test_the_writer_may_do_everything_else_that_a_stream_does(logins: Logins) -> None:
    run = "run-1"
    with (
        psycopg.connect(logins.writer, application_name=advisory_locks.session_name(run)),
        psycopg.connect(logins.writer, autocommit=True) as connection,
    ):
        for name in ("idle_session_timeout", "idle_in_transaction_session_timeout", "statement_timeout"):
            connection.execute(sql.SQL("set {} = '60s'").format(sql.Identifier(name)))
        connection.execute("create temporary table staged (a integer)")
        stream_batches.plan_batch(connection, "batch")
        advisory_locks.lock_stream(connection, "events")

        assert advisory_locks.streaming_sessions(connection) == {run}
        assert connection.execute(
            "select pg_xact_commit_timestamp(xmin) is not null from stream_batches where batch = 'batch'"
        ).fetchone() == (True,)


def test_the_writer_can_change_its_own_tables_for_dagster_and_mlflow(logins: Logins) -> None:
    for statement in (
        "create table dagster.mine (a serial primary key)",
        "alter table dagster.mine add column b text",
        "create index on dagster.mine (b)",
        "drop table dagster.mine",
        "create table mlflow.mine (a integer)",
        "alter table mlflow.mine alter column a type bigint",
    ):
        _allowed(logins.writer, statement)


def test_every_table_and_view_belongs_to_the_owner(logins: Logins) -> None:
    with psycopg.connect(logins.owner) as connection:
        strays = connection.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace "
            "and relkind in ('r', 'p', 'v', 'm', 'S') and relowner <> 'churn_owner'::regrole"
        ).fetchall()

    assert strays == [], (
        f"The migration that creates them has to begin with 'set local role churn_owner': see {BASELINE.name}"
    )


def test_tables_of_later_migrations_have_the_same_grants(
    logins: Logins, bank_schema: CustomerSchema, tmp_path: Path
) -> None:
    (tmp_path / "29990101000000_later.sql").write_text(
        "-- migrate:up\nset local role churn_owner;\n"
        "create table later (number bigint generated always as identity, name text);\n"
        "create sequence later_numbers;\n"
        "reset role;\n\n-- migrate:down\n"
    )

    assert apply_migrations(logins.owner, bank_schema, tmp_path) == ["29990101000000_later.sql"]

    _allowed(logins.writer, "insert into later (name) select nextval('later_numbers')::text")
    _refused(logins.writer, "alter table later add column more text")
    _allowed(logins.reader, "select * from later")
    _refused(logins.reader, "delete from later")


def test_a_writer_is_told_that_a_migration_needs_the_owner(
    logins: Logins, bank_schema: CustomerSchema, tmp_path: Path
) -> None:
    (tmp_path / "29990101000000_later.sql").write_text("-- migrate:up\ncreate table later (a int);\n-- migrate:down\n")

    assert upgrade(logins.writer, bank_schema) == Upgraded([], [])
    with pytest.raises(MigrationError, match=r"29990101000000_later\.sql.* DATABASE_OWNER_URL"):
        apply_migrations(logins.writer, bank_schema, tmp_path)


# On a server without the roles.


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server for one test, and its superuser."""

    superuser: str

    def database(self, attributes: LiteralString) -> str:
        """Create a login with these attributes and its database; return the login's connection string."""
        name = f"roles_{uuid.uuid4().hex}"
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            connection.execute(sql.SQL("create role {} login " + attributes).format(sql.Identifier(name)))
            connection.execute(
                sql.SQL("alter role {} password {}").format(sql.Identifier(name), sql.Literal(f"{name}'s"))
            )
            connection.execute(sql.SQL("create database {0} owner {0}").format(sql.Identifier(name)))
        return make_conninfo(self.superuser, dbname=name, user=name, password=f"{name}'s")

    def roles(self) -> set[str]:
        """Return the platform's roles that exist."""
        with psycopg.connect(self.superuser) as connection:
            found = connection.execute("select rolname from pg_roles where rolname = any(%s)", (list(ROLES),))
            return {name for (name,) in found}


def _migrate_down(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for migration in sorted(MIGRATIONS.glob("*.sql"), reverse=True):
            connection.execute(migration.read_bytes().partition(b"-- migrate:down")[2])
            connection.execute("delete from schema_migrations where version = %s", (migration.name.partition("_")[0],))


@pytest.fixture
def server(embedded_only: dict[str, str], stack: Stack, platform: str) -> Iterator[Server]:
    """A server whose platform roles were dropped by migrating down."""
    assert platform  # topics and a group that nobody else uses
    given = {
        **embedded_only,
        "KAFKA_BOOTSTRAP_SERVERS": stack.addresses["kafka"],
        "MLFLOW_TRACKING_URI": stack.addresses["mlflow"],
    }
    with (
        tempfile.TemporaryDirectory(prefix="churn-tests-") as folder,
        Stack(
            Path(folder) / "local",
            services_only=True,
            usual_ports=ANY_FREE_PORTS,
            given=given,
            env_file=Path(os.devnull),
        ) as own,
    ):
        _migrate_down(own.owner_dsn)
        yield Server(own.owner_dsn)


def test_the_roles_come_and_go_with_their_migration(server: Server, bank_schema: CustomerSchema) -> None:
    assert server.roles() == set()

    plain = server.database("nocreaterole")
    with pytest.raises(MigrationError, match=r"may not create it\. Run as a superuser: create role churn_owner"):
        upgrade(plain, bank_schema)
    assert server.roles() == set()

    # An owner who is not a superuser but may create roles, twice.
    managed = server.database("createrole")
    assert BASELINE.name in upgrade(managed, bank_schema).migrations
    assert upgrade(managed, bank_schema) == Upgraded([], [])
    assert server.roles() == ROLES
    _allowed(managed, "insert into stream_batches (batch) values ('one login does everything')")
    _allowed(managed, "create table dagster.mine (a integer)")

    # Another owner, in a second database, who is not a member of the roles.
    with pytest.raises(
        MigrationError, match=r"grant churn_owner, churn_writer, churn_reader, churn_retention to roles_"
    ):
        upgrade(plain, bank_schema)
    with psycopg.connect(server.superuser, autocommit=True) as connection:
        connection.execute(
            sql.SQL("grant churn_owner, churn_writer, churn_reader, churn_retention to {}").format(
                sql.Identifier(str(conninfo_to_dict(plain)["user"]))
            )
        )
    assert BASELINE.name in upgrade(plain, bank_schema).migrations

    _migrate_down(plain)
    assert server.roles() == ROLES  # the other database uses them
    _allowed(managed, "select * from v_churn_trends")
    _migrate_down(managed)
    assert server.roles() == set()


@pytest.mark.slow
def test_two_databases_can_be_migrated_at_the_same_time(server: Server, bank_schema: CustomerSchema) -> None:
    databases = [server.database("superuser") for _ in range(4)]

    with ThreadPoolExecutor(len(databases)) as pool:
        applied = list(pool.map(lambda dsn: upgrade(dsn, bank_schema), databases))

    assert all(BASELINE.name in each.migrations for each in applied)
