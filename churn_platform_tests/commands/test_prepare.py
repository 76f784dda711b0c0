"""`churn prepare` on real servers: what it creates, and that it can be repeated."""

import json
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import environments
from churn_platform.local.stack import Stack
from churn_platform.settings import settings

runner = CliRunner(env={"COLUMNS": "200"})


def prepare(*options: str, code: int = 0) -> str:
    """Run the command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, ["prepare", *options])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def test_it_creates_tables_logins_topics_and_dagsters_home(logins: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "deep" / "dagster"

    output = prepare("--logins", "--dagster-home", str(home), "--code-server", "code:4000")

    assert "baseline.sql" in output
    with psycopg.connect(logins["DATABASE_URL"], autocommit=True) as app_login:
        environments.record_running(app_login, "here")
    with psycopg.connect(logins["DATABASE_READER_URL"], autocommit=True) as reader:
        assert reader.execute("select environment from environments").fetchall() == [("here",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("delete from environments")
    assert {settings().topics.events, settings().topics.predictions} <= set(
        AdminClient(settings().kafka_client).list_topics(timeout=10).topics
    )
    server = json.loads((home / "workspace.yaml").read_text())["load_from"][0]["grpc_server"]
    assert (server["host"], server["port"]) == ("code", 4000)
    assert "PooledPostgresStorage" in (home / "dagster.yaml").read_text()
    assert not [url for url in logins.values() if url.split(":")[2].split("@")[0] in output]


@pytest.mark.usefixtures("logins")
def test_dagsters_queue_has_room_for_two_runs_of_each_lane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANES", "3")
    settings.cache_clear()

    prepare("--dagster-home", str(tmp_path / "dagster"))

    assert "max_concurrent_runs: 10 " in (tmp_path / "dagster" / "dagster.yaml").read_text()


@pytest.mark.usefixtures("logins")
def test_more_lanes_than_partitions_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANES", "4")
    settings.cache_clear()

    output = prepare("--dagster-home", str(tmp_path / "dagster"), code=ExitCode.FAILED)

    assert "LANES is 4" in output
    assert "has 3 partitions" in output
    assert not (tmp_path / "dagster").exists()


def test_a_repetition_creates_nothing_and_repairs_a_changed_password(logins: dict[str, str], stack: Stack) -> None:
    prepare("--logins")
    name = conninfo_to_dict(logins["DATABASE_URL"])["user"]

    assert "Logins: all can log in" in prepare("--logins")
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("alter role {} password 'another'").format(sql.Identifier(str(name))))
    output = prepare("--logins")

    assert f"Logins: {name}" in output
    assert "Migrations: up to date" in output
    psycopg.connect(logins["DATABASE_URL"]).close()


def test_with_another_environment_on_the_database_it_changes_nothing(logins: dict[str, str]) -> None:
    prepare()
    with psycopg.connect(logins["DATABASE_OWNER_URL"], autocommit=True) as owner:
        environments.record_running(owner, "elsewhere")

    output = prepare("--logins", code=ExitCode.IN_USE)

    assert "'elsewhere' uses the database" in output
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(logins["DATABASE_URL"])


@pytest.mark.parametrize("address", ["code", "code:", ":4000", "code:http"])
def test_an_invalid_address_is_refused(address: str) -> None:
    assert "is not HOST:PORT" in prepare("--code-server", address, code=2)
