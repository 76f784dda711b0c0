"""`churn prepare` on real servers: what it makes, and that it may be run again."""

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
    """What the command says on both outputs."""
    outcome = runner.invoke(app, ["prepare", *options])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def test_it_makes_tables_logins_topics_and_dagster_s_home(logins: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "deep" / "dagster"

    said = prepare("--logins", "--dagster-home", str(home), "--code-server", "code:4000")

    assert "baseline.sql" in said
    with psycopg.connect(logins["DATABASE_URL"], autocommit=True) as app_login:
        environments.note(app_login, "here")
    with psycopg.connect(logins["DATABASE_READER_URL"], autocommit=True) as reader:
        assert reader.execute("select environment from environments").fetchall() == [("here",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("delete from environments")
    assert {settings().topics.events, settings().topics.predictions} <= set(
        AdminClient(settings().kafka_client).list_topics(timeout=10).topics
    )
    server = json.loads((home / "workspace.yaml").read_text())["load_from"][0]["grpc_server"]
    assert (server["host"], server["port"]) == ("code", 4000)
    assert "env: DAGSTER_POSTGRES_URL" in (home / "dagster.yaml").read_text()
    assert not [url for url in logins.values() if url.split(":")[2].split("@")[0] in said]


def test_again_it_makes_nothing_and_lets_in_whose_password_has_changed(logins: dict[str, str], stack: Stack) -> None:
    prepare("--logins")
    name = conninfo_to_dict(logins["DATABASE_URL"])["user"]

    assert "Logins: all can log in" in prepare("--logins")
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("alter role {} password 'another'").format(sql.Identifier(str(name))))
    said = prepare("--logins")

    assert f"Logins: {name}" in said
    assert "Migrations: up to date" in said
    psycopg.connect(logins["DATABASE_URL"]).close()


def test_beside_another_environment_it_changes_nothing(logins: dict[str, str]) -> None:
    prepare()
    with psycopg.connect(logins["DATABASE_OWNER_URL"], autocommit=True) as owner:
        environments.note(owner, "elsewhere")

    said = prepare("--logins", code=ExitCode.IN_USE)

    assert "'elsewhere' works on the database" in said
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(logins["DATABASE_URL"])


@pytest.mark.parametrize("address", ["code", "code:", ":4000", "code:http"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    assert "is not HOST:PORT" in prepare("--code-server", address, code=2)
