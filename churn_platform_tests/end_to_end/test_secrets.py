"""The running platform connects as the writer, and its secrets appear only where they are meant to be stored."""

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest
from psycopg import sql

from churn_platform.database import advisory_locks
from churn_platform.local import postgres
from churn_platform.local.environment import ARTIFACTS_VARIABLE
from churn_platform_tests.end_to_end.conftest import ROOT, SETTINGS, WEBHOOK_TOKEN
from churn_platform_tests.end_to_end.running import Running
from churn_platform_tests.files.s3_server import Server
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

STORED_IN = {"env", *(login.password_file for login in postgres.LOGINS)}
CHURN = Path(sys.executable).with_name("churn")


@pytest.fixture(scope="module")
def used(running: Running) -> Running:
    """The running platform after it has trained a model and streamed events."""
    if not running.value("select exists (select from model_versions where promoted_at is not null)"):
        for job in ("data_preparation_job", "training_job"):
            running.launch(job)
    before = running.events_read()
    running.send([event(1), b"bad"])
    wait_until(lambda: running.events_read() >= before + 2, 240, "the events to be read")
    wait_until(running.is_idle, 240, "all metrics to be up to date")
    return running


@pytest.fixture(scope="module")
def needles(used: Running, s3: Server) -> set[bytes]:
    """All secrets of the platform, raw and percent-encoded."""
    secrets = {(used.stack.local / login.password_file).read_text() for login in postgres.LOGINS}
    secrets |= {SETTINGS["KAFKA_SASL_PASSWORD"], s3.secret, WEBHOOK_TOKEN}
    wait_until(  # the worker has logged and stored what it knows about the webhook
        lambda: used.value("select count(*) from alert_outbox where last_error is not null"), 120, "a failed attempt"
    )
    return {form.encode() for secret in secrets for form in (secret, quote(secret, safe=""))}


def _contains(content: bytes, needles: set[bytes]) -> bool:
    return any(needle in content for needle in needles)


@pytest.mark.slow
def test_the_platform_connects_as_the_writer_and_never_as_the_owner(used: Running) -> None:
    def sessions() -> set[tuple[str, str]]:
        with psycopg.connect(used.stack.owner_dsn) as connection:
            found = connection.execute(
                "select usename, application_name from pg_stat_activity "
                "where backend_type = 'client backend' and pid <> pg_backend_pid() and usename is not null"
            )
            return set(found)

    used.send([event(number) for number in range(10)])
    wait_until(
        lambda: any(name.startswith(advisory_locks.SESSION_PREFIX) for _, name in sessions()),
        240,
        "a streaming run to connect",
    )

    assert {user for user, _ in sessions()} == {"churn_platform"}
    with psycopg.connect(used.stack.owner_dsn) as connection:
        owners = connection.execute(
            "select distinct tableowner from pg_tables where schemaname in ('dagster', 'mlflow')"
        ).fetchall()
    assert owners == [("churn_platform",)]  # so that it can alter them when Dagster or MLflow is upgraded


@pytest.mark.slow
def test_only_the_intended_files_of_the_stack_contain_secrets(used: Running, needles: set[bytes]) -> None:
    read, found = 0, []
    for file in used.stack.local.rglob("*"):
        try:
            if not file.is_file() or file.name in STORED_IN:
                continue
            read += 1
            if _contains(file.read_bytes(), needles):
                found.append(file)
        except FileNotFoundError:
            continue  # a running server has deleted it

    assert found == []
    assert read > 100
    assert _contains((used.stack.local / "env").read_bytes(), needles)  # the search finds a secret where there is one


def _rows(connection: psycopg.Connection) -> Iterator[tuple[str, bytes]]:
    """Yield every row of Dagster, MLflow and the platform as text. Compressed values of Dagster are decompressed."""
    tables = connection.execute(
        "select schemaname, tablename from pg_tables where schemaname in ('dagster', 'mlflow', 'public')"
    ).fetchall()
    for schema, table in tables:
        query = sql.SQL("select t::text from {} as t").format(sql.Identifier(schema, table))
        for (row,) in connection.execute(query):
            yield f"{schema}.{table}", row.encode()
    for (body,) in connection.execute("select snapshot_body from dagster.snapshots"):
        yield "dagster.snapshots", zlib.decompress(body)


@pytest.mark.slow
def test_no_table_contains_a_secret(used: Running, needles: set[bytes]) -> None:
    with psycopg.connect(used.stack.owner_dsn) as connection:
        rows = list(_rows(connection))

    assert {"dagster.event_logs", "dagster.runs", "dagster.snapshots", "mlflow.runs", "public.stream_batches"} <= {
        table for table, _ in rows
    }
    assert {table for table, row in rows if _contains(row, needles)} == set()


@pytest.mark.slow
def test_no_command_line_contains_a_secret(used: Running, needles: set[bytes]) -> None:
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has ended, or belongs to another user

    assert any(str(used.stack.local) in line for line in lines)
    assert [line for line in lines if _contains(line.encode(), needles)] == []


def _environment(running: Running) -> dict[str, str]:
    return {**os.environ, **SETTINGS, ARTIFACTS_VARIABLE: ROOT, **running.stack.environment}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["status"], ["status", "--json"], ["settings"], ["settings", "--json"], ["logs", "--lines", "500"], ["up"]],
)
def test_no_command_shows_a_secret(used: Running, needles: set[bytes], arguments: list[str]) -> None:
    outcome = subprocess.run([CHURN, *arguments], env=_environment(used), capture_output=True, check=False, timeout=120)

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout
    assert not _contains(outcome.stdout + outcome.stderr, needles)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["db", "upgrade"], ["produce", "--count", "1"]])
def test_a_command_that_fails_shows_no_secret(used: Running, needles: set[bytes], arguments: list[str]) -> None:
    environment = _environment(used)
    wrong = environment["DATABASE_URL"].replace("churn_platform:", "churn_platform:wrong-")
    outcome = subprocess.run(
        [CHURN, *arguments],
        env={**environment, "DATABASE_URL": wrong, "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "COLUMNS": "4000"},
        capture_output=True,
        check=False,
        timeout=120,
    )

    assert outcome.returncode != 0
    assert not _contains(outcome.stdout + outcome.stderr, needles)


@pytest.mark.slow
def test_the_ui_shows_no_secret(used: Running, needles: set[bytes]) -> None:
    shown = used.graphql("{ instance { info } }")

    assert "PostgresRunStorage" in json.dumps(shown)
    assert not _contains(json.dumps(shown).encode(), needles)
