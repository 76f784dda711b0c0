"""Dagster's storage: the number of its connections, and restarts of PostgreSQL."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import httpx
import psycopg
import pytest
import sqlalchemy as sa

from churn_platform.database.connections import pinned_url
from churn_platform.deployment.dagster_home import STORAGE
from churn_platform.deployment.health import http_server_answers
from churn_platform.local.ports import HOST
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.orchestration.instance_storage import _engine
from churn_platform.settings import SettingsError
from churn_platform_tests.waiting import wait_until

QUERIES = 20


@pytest.fixture
def url(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of Dagster's storage, in the form that a stack uses."""
    parts = psycopg.conninfo.conninfo_to_dict(database)
    address = f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    url = in_schema(address, "dagster")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    return url


@pytest.fixture
def home(url: str, tmp_path: Path) -> Path:
    """A DAGSTER_HOME with the storage of a running stack."""
    assert url
    (tmp_path / "dagster.yaml").write_text(STORAGE)
    return tmp_path


@pytest.fixture
def observer(stack: Stack, url: str) -> Iterator[psycopg.Connection]:
    """A connection of the superuser to the same database."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(stack.owner_dsn, dbname=name, autocommit=True) as connection:
        yield connection


def run_queries(home: Path) -> None:
    """Do what a sensor tick does: create an instance and run a few queries."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for _ in range(QUERIES):
            instance.get_runs_count()
        instance.all_instigator_state()
        instance.fetch_run_status_changes(dg.DagsterEventType.RUN_START, limit=1)


def sessions(observer: psycopg.Connection) -> set[int]:
    """Return the process ids of all other sessions of the database."""
    return {
        pid
        for (pid,) in observer.execute(
            "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
    }


def test_instances_of_a_process_share_pooled_connections(home: Path, observer: psycopg.Connection) -> None:
    run_queries(home)
    pooled = sessions(observer)
    run_queries(home)
    run_queries(home)
    later = sessions(observer)
    assert later
    assert later <= pooled  # the one that created the tables may still have been ending at first


def test_the_address_may_be_in_a_file(home: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "address").write_text(f"{url}\n")
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL_FILE", str(home / "address"))

    run_queries(home)


def test_a_missing_address_is_reported_with_its_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    monkeypatch.setenv("CHURN_LOCAL", str(tmp_path / "no-stack"))  # whose file would have the address

    with pytest.raises(SettingsError, match="DAGSTER_POSTGRES_URL is not set"):
        run_queries(home)


def test_a_connection_that_postgres_closed_is_replaced(home: Path, observer: psycopg.Connection) -> None:
    run_queries(home)
    before = sessions(observer)
    observer.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", (list(before),))
    wait_until(lambda: not sessions(observer) & before, what="the sessions to end")
    run_queries(home)
    assert sessions(observer)
    assert not sessions(observer) & before


def test_the_schema_is_queried_once_by_all_instances(home: Path, url: str) -> None:
    run_queries(home)
    statements: list[str] = []

    @sa.event.listens_for(_engine(pinned_url(url)), "before_cursor_execute")
    def record(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    run_queries(home)

    assert [statement for statement in statements if "instigators" in statement]
    assert not [statement for statement in statements if "pg_catalog" in statement]


@pytest.fixture
def webserver(home: Path) -> Iterator[str]:
    """The address of Dagster's web server on that storage."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "--empty-workspace", "--host", HOST, "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, "DAGSTER_HOME": str(home)}, cwd=home) as process:
        try:
            wait_until(
                lambda: http_server_answers(f"http://{HOST}:{port}/server_info"),
                timeout=90,
                what="the web server to answer",
            )
            yield f"http://{HOST}:{port}"
        finally:
            process.terminate()


def set_limit(webserver: str, limit: int) -> httpx.Response:
    """Write to the storage through the web server."""
    mutation = 'mutation($limit: Int!) { setConcurrencyLimit(concurrencyKey: "restarted", limit: $limit) }'
    return httpx.post(
        f"{webserver}/graphql", json={"query": mutation, "variables": {"limit": limit}}, timeout=60, trust_env=False
    )


@pytest.mark.slow
def test_the_web_servers_first_mutation_after_a_restart_of_postgres_succeeds(
    webserver: str, home: Path, stack: Stack
) -> None:
    assert set_limit(webserver, 3).json() == {"data": {"setConcurrencyLimit": True}}

    stack.stop_part("postgres")
    stack.start_part("postgres")
    answer = set_limit(webserver, 4)

    assert (answer.status_code, answer.json()) == (200, {"data": {"setConcurrencyLimit": True}})
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.event_log_storage.get_concurrency_info("restarted").slot_count == 4


@pytest.mark.slow
def test_a_storage_with_the_web_servers_limits_survives_a_restart_of_postgres(home: Path, stack: Stack) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
        before = (instance.get_runs_count(), instance.all_instigator_state())

        stack.stop_part("postgres")
        stack.start_part("postgres")

        assert (instance.get_runs_count(), instance.all_instigator_state()) == before
