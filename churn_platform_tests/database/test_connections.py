"""Session settings of PostgreSQL are fixed by the platform, whatever the environment and the login configure."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.database.connections import SESSION, connect, ignore_environment
from churn_platform.database.migrations import upgrade
from churn_platform.database.studies import study_storage
from churn_platform.deployment.dagster_home import STORAGE
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.stream.streams import Stream, event, new_stream

OTHER_VALUES = {
    "client_encoding": "LATIN1",
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Tokyo",
    "extra_float_digits": "-3",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "search_path": "nowhere",
}
"""For each setting, a value that the platform must override."""

ENVIRONMENT = {
    "PGOPTIONS": "-cdatestyle=German -cdefault_transaction_read_only=on -cextra_float_digits=0 -csearch_path=nowhere",
    "PGDATESTYLE": "German",
    "PGTZ": "Asia/Tokyo",
    "PGCLIENTENCODING": "LATIN1",
    "PGSERVICE": "nowhere",
    "PGHOST": "nowhere.invalid",
    "PGHOSTADDR": "192.0.2.1",  # reserved for documentation, so nothing answers there
    "PGPORT": "1",
    "PGDATABASE": "nowhere",
    "PGUSER": "nobody",
    "PGTARGETSESSIONATTRS": "read-only",
    "PGSSLMODE": "require",
}


@pytest.fixture
def hostile_login(stack: Stack, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A login with other settings in its database, and libpq's variables with other settings; its connection string."""
    owner = make_conninfo(stack.owner_dsn, dbname=conninfo_to_dict(database)["dbname"])
    set_other_values(owner, str(conninfo_to_dict(database)["user"]))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return database


def set_other_values(owner: str, login: str) -> None:
    """Configure other settings for the login in the owner's database."""
    with psycopg.connect(owner, autocommit=True) as connection:
        for name, value in OTHER_VALUES.items():
            connection.execute(
                sql.SQL("alter role {} in database {} set {} = {}").format(
                    sql.Identifier(login),
                    sql.Identifier(connection.info.dbname),
                    sql.SQL(name),
                    sql.Literal(value),
                )
            )


def settings_of(connection: psycopg.Connection) -> dict[str, str]:
    """Return the value of each pinned setting in this session."""
    rows = connection.execute("select name, setting from pg_settings where lower(name) = any(%s)", (list(SESSION),))
    return {name.lower(): setting for name, setting in rows}


def as_url(dsn: str) -> str:
    """Return a connection string as a URL."""
    parts = conninfo_to_dict(dsn)
    return f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}?sslmode=disable"


def test_the_login_of_these_tests_has_other_settings(hostile_login: str) -> None:
    ignore_environment()
    with psycopg.connect(hostile_login) as connection:
        assert not settings_of(connection).items() & SESSION.items()


def test_a_session_is_pinned_against_the_environment_and_the_login(hostile_login: str) -> None:
    with connect(hostile_login, application_name="test") as connection:
        assert settings_of(connection) == SESSION
        assert connection.execute("select current_database(), current_schema()").fetchone() == (
            conninfo_to_dict(hostile_login)["dbname"],
            "public",
        )
        connection.execute("create temporary table scores as select 0.1::real + 0.2::real as score")


def test_options_of_the_connection_string_are_kept(database: str) -> None:
    with connect(
        make_conninfo(database, options="-cstatement_timeout=7s -csearch_path=dagster"), application_name="test"
    ) as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("7s",)
        assert connection.execute("show search_path").fetchone() == ("dagster",)
        assert settings_of(connection) == SESSION


@pytest.fixture
def instance(hostile_login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance, with the hostile login."""
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", in_schema(as_url(hostile_login), "dagster"))
    (tmp_path / "dagster.yaml").write_text(STORAGE)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def test_dagsters_sessions_are_pinned(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("pinned", ["a"])  # fails in a read-only session

    assert instance.get_dynamic_partitions("pinned") == ["a"]
    with instance.run_storage._engine.connect() as connection:  # type: ignore[attr-defined]  # of the SQL storages
        assert connection.execute(sa.text("show datestyle")).scalar() == SESSION["datestyle"]
        assert connection.execute(sa.text("show timezone")).scalar() == "UTC"
        assert connection.execute(sa.text("select current_schema()")).scalar() == "dagster"


def test_optunas_sessions_are_pinned(hostile_login: str) -> None:
    with study_storage(hostile_login) as storage, storage.engine.connect() as connection:
        assert connection.execute(sa.text("show datestyle")).scalar() == SESSION["datestyle"]
        assert connection.execute(sa.text("select current_schema()")).scalar() == "optuna"


def test_migrations_are_applied_to_the_usual_schema_of_the_database_that_is_named(
    stack: Stack, bank_schema: CustomerSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute("create database migrated_otherwise")
    owner = make_conninfo(stack.owner_dsn, dbname="migrated_otherwise")
    set_other_values(owner, str(conninfo_to_dict(owner)["user"]))

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    assert upgrade(owner, bank_schema).migrations

    with connect(owner, application_name="test") as connection:
        assert connection.execute("select to_regclass('public.churn_predictions') is not null").fetchone() == (True,)


def test_a_stream_with_a_hostile_login_has_the_same_scores_and_holds_every_invariant(
    stack: Stack, database: str, template_database: str, bundle_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [event(number) for number in range(300)]
    with new_stream(copy_database(stack, template_database), bundle_uri) as usual:
        usual.send(events)
        usual.stream()
        expected = scores(usual)

    with new_stream(database, bundle_uri) as stream:
        owner = make_conninfo(stack.owner_dsn, dbname=conninfo_to_dict(database)["dbname"])
        set_other_values(owner, str(conninfo_to_dict(database)["user"]))
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        with connect(database, application_name="test", autocommit=True) as stream.connection:
            stream.send(events)
            stream.stream()

            assert scores(stream) == expected
            assert [invariant.name for invariant in check_invariants(stream.config) if not invariant.holds] == []


def scores(stream: Stream) -> list[tuple[object, ...]]:
    """Return the predictions, with exact scores, and their hours."""
    rows = stream.connection.execute(
        """
        select customer_id, float8send(risk_score::float8), prediction, date_trunc('hour', event_timestamp)::text
        from churn_predictions order by customer_id
        """
    )
    return rows.fetchall()
