"""Migrations: applied in order, once, and completely or not at all."""

import uuid
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from churn_platform.database.migrations import MigrationError, apply_migrations
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema


@pytest.fixture
def empty_database(stack: Stack) -> str:
    """Connection string of a new database, for the owner. It stays, as dropping it would wait for a checkpoint."""
    name = f"migrations_{uuid.uuid4().hex}"
    server = stack.owner_dsn
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server.rpartition("/")[0] + "/" + name


def _write(folder: Path, name: str, statement: str) -> None:
    (folder / name).write_text(f"-- migrate:up\n{statement};\n\n-- migrate:down\n")


def _tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_each_file_is_applied_once_in_order(empty_database: str, bank_schema: CustomerSchema, tmp_path: Path) -> None:
    _write(tmp_path, "2_second.sql", "ALTER TABLE one ADD COLUMN second int")
    _write(tmp_path, "1_first.sql", "CREATE TABLE one (first int)")

    assert apply_migrations(empty_database, bank_schema, tmp_path) == ["1_first.sql", "2_second.sql"]
    assert apply_migrations(empty_database, bank_schema, tmp_path) == []


def test_a_migration_that_fails_leaves_nothing_and_says_why(
    empty_database: str, bank_schema: CustomerSchema, tmp_path: Path
) -> None:
    _write(tmp_path, "1_broken.sql", "CREATE TABLE one (first int); SELECT no_such_function()")

    with pytest.raises(MigrationError, match="no_such_function") as failure:
        apply_migrations(empty_database, bank_schema, tmp_path)

    assert "one" not in _tables(empty_database)
    assert str(psycopg.conninfo.conninfo_to_dict(empty_database)["password"]) not in str(failure.value)


def test_the_users_own_parameters_are_respected(
    empty_database: str, bank_schema: CustomerSchema, tmp_path: Path
) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
    _write(tmp_path, "1_first.sql", "CREATE TABLE one (first int)")

    apply_migrations(
        f"{empty_database}?sslmode=prefer&options=-csearch_path%3Delsewhere&gssencmode=disable", bank_schema, tmp_path
    )

    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regclass('elsewhere.one')").fetchone() != (None,)


def test_a_server_without_tls_is_refused_when_tls_is_asked_for(
    empty_database: str, bank_schema: CustomerSchema, tmp_path: Path
) -> None:
    _write(tmp_path, "1_first.sql", "CREATE TABLE one (first int)")

    with pytest.raises(MigrationError, match="SSL"):
        apply_migrations(f"{empty_database}?sslmode=require", bank_schema, tmp_path)
