"""A PostgreSQL that requires TLS: each library that connects verifies its certificate, and errors say what to check."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database.connections import connect, open_pool, pinned_url
from churn_platform.database.migrations import upgrade
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.orchestration.instance_storage import PooledPostgresStorage
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.database.tls_proxy import TlsProxy, tls_proxy
from churn_platform_tests.kafka.secured import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private CA."""
    return Authority(tmp_path_factory.mktemp("tls") / "authority", "Authority of the tests")


@pytest.fixture(scope="module")
def proxy(stack: Stack, authority: Authority) -> Iterator[TlsProxy]:
    """TLS in front of the embedded PostgreSQL."""
    port = int(str(conninfo_to_dict(stack.owner_dsn)["port"]))
    with tls_proxy(port, *authority.issue("database")) as proxy:
        yield proxy


def through(proxy: TlsProxy, dsn: str, authority: Authority, mode: str = "verify-full") -> str:
    """Return the URL of a database through the proxy."""
    parts = conninfo_to_dict(dsn)
    login = f"{parts['user']}:{parts['password']}"
    return f"postgresql://{login}@127.0.0.1:{proxy.port}/{parts['dbname']}?sslmode={mode}&sslrootcert={authority.file}"


@pytest.fixture
def url(proxy: TlsProxy, authority: Authority, database: str) -> str:
    """The URL of a migrated database through TLS, whose certificate is verified."""
    return through(proxy, database, authority)


def test_connections_and_pools_use_tls(url: str) -> None:
    with connect(url, application_name="test") as connection:
        assert connection.pgconn.ssl_in_use
    pool = open_pool(url, application_name="test", most=1, connect_seconds=10, statement_seconds=10)
    with pool, pool.connection() as pooled:
        assert pooled.pgconn.ssl_in_use


def test_the_libraries_of_dagster_and_mlflow_use_tls(url: str, proxy: TlsProxy) -> None:
    before = proxy.plain
    storage = PooledPostgresStorage(in_schema(url, "dagster"))
    instance = dg.DagsterInstance.ephemeral()  # a storage answers only as part of an instance
    storage.run_storage.register_instance(instance)
    assert storage.run_storage.get_runs_count() == 0
    with sa.create_engine(pinned_url(in_schema(url, "mlflow"))).connect() as connection:
        assert connection.execute(sa.text("select 1")).scalar() == 1

    assert proxy.plain == before


@pytest.mark.slow
def test_migrations_are_applied_through_tls(
    stack: Stack, proxy: TlsProxy, authority: Authority, bank_schema: CustomerSchema
) -> None:
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute("create database through_tls")
    before, owner = proxy.plain, make_conninfo(stack.owner_dsn, dbname="through_tls")

    done = upgrade(through(proxy, owner, authority), bank_schema)

    assert done.migrations
    assert proxy.plain == before


@pytest.mark.parametrize("words", [["stream", "pause"], ["db", "upgrade"]])
def test_a_certificate_of_another_authority_is_refused_with_what_to_check(
    platform: str, proxy: TlsProxy, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Authority(tmp_path / "stranger", "Stranger")
    for variable in ("DATABASE_URL", "DATABASE_OWNER_URL"):
        monkeypatch.setenv(variable, through(proxy, platform, stranger))
    monkeypatch.delenv("DATABASE_RETENTION_URL", raising=False)
    forget_settings()

    outcome = CliRunner(env={"COLUMNS": "400"}).invoke(app, words)

    assert outcome.exit_code == ExitCode.FAILED, outcome.output
    assert "\nCheck sslmode and sslrootcert in DATABASE_URL" in outcome.stderr
    assert "certificate verify failed" in outcome.stderr
    assert str(conninfo_to_dict(platform)["password"]) not in outcome.output


def test_a_server_without_tls_is_refused_if_tls_is_required(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = conninfo_to_dict(platform)
    place = f"{parts['host']}:{parts['port']}/{parts['dbname']}"
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{parts['user']}:{parts['password']}@{place}?sslmode=require")
    forget_settings()

    outcome = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["stream", "pause"])

    assert outcome.exit_code == ExitCode.FAILED
    assert "\nCheck sslmode and sslrootcert in DATABASE_URL" in outcome.stderr
    assert "does not support SSL" in outcome.stderr
