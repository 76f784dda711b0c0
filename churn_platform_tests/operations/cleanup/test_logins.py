"""`churn clean` on your own PostgreSQL: the rights of each login. A dry run fails wherever a real one would."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from dagster import DagsterInstance
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from psycopg import sql
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database.migrations import upgrade
from churn_platform.database.studies import study_storage
from churn_platform.local.environment import ARTIFACTS_VARIABLE, EMBEDDED_MARKER, OWNER_VARIABLE
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.conftest import forget_settings

runner = CliRunner(env={"COLUMNS": "200"})


@dataclass(frozen=True)
class Logins:
    """Connection strings of three logins to one database that has been used."""

    superuser: str
    owner: str
    application: str
    word: str

    def remaining(self) -> set[str]:
        """Return the platform's tables, views and schemas that still exist."""
        with psycopg.connect(self.superuser) as connection:
            found = connection.execute(
                "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = relnamespace "
                "where relkind in ('r', 'v') and nspname in ('public', 'dagster', 'mlflow', 'optuna') "
                "union all select nspname from pg_namespace where nspname in ('dagster', 'mlflow', 'optuna')"
            )
            return {name for (name,) in found}


@pytest.fixture
def logins(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bank_schema: CustomerSchema
) -> Iterator[Logins]:
    """As in docs/how-to/connect-your-servers.md: one login owns the database, another one works with rows."""
    suffix, password = secrets.token_hex(4), secrets.token_hex(8)
    owner, application, database = f"admin_{suffix}", f"app_{suffix}", f"clean_{suffix}"
    with psycopg.connect(stack.owner_dsn, autocommit=True) as server:
        for statement in ("create role {} login createrole password {}", "create role {} login password {}"):
            name = owner if "createrole" in statement else application
            server.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(password)))
        server.execute(
            sql.SQL("grant churn_owner, churn_writer, churn_reader, churn_retention to {}").format(
                sql.Identifier(owner)
            )
        )
        server.execute(sql.SQL("grant churn_writer to {}").format(sql.Identifier(application)))
        server.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(database), sql.Identifier(owner)))
    url = urlsplit(stack.owner_dsn)
    place = f"{url.hostname}:{url.port}/{database}"
    urls = Logins(
        url._replace(path=f"/{database}").geturl(),
        f"postgresql://{owner}:{password}@{place}",
        f"postgresql://{application}:{password}@{place}",
        f"{database}@{url.hostname}",
    )
    upgrade(urls.owner, bank_schema)
    for variable in (EMBEDDED_MARKER, OWNER_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DATABASE_URL", urls.application)
    monkeypatch.setenv("CHURN_LOCAL", str(tmp_path / "local"))
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(tmp_path / "files"))
    for variable in ("EVENTS_TOPIC", "PREDICTIONS_TOPIC", "STREAM_GROUP"):
        monkeypatch.setenv(variable, f"{variable.lower()}-{suffix}")
    forget_settings()
    # Tables that the platform's processes create.
    storage = {"postgres": {"postgres_url": in_schema(urls.application, "dagster")}}
    (tmp_path / "dagster.yaml").write_text(json.dumps({"storage": storage, "telemetry": {"enabled": False}}))
    with DagsterInstance.from_config(str(tmp_path)), study_storage(urls.application):
        store = SqlAlchemyStore(in_schema(urls.application, "mlflow"), str(tmp_path / "mlflow"))  # type: ignore[no-untyped-call]  # of MLflow
        store.engine.dispose()
    yield urls  # the database and its roles stay, as dropping them would wait for a checkpoint
    monkeypatch.undo()
    forget_settings()


def clean(*arguments: str, code: int = 0) -> str:
    """Run the command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, ["clean", *arguments])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


@pytest.mark.parametrize("login", ["owner", pytest.param("superuser", marks=pytest.mark.slow)])
def test_the_owner_and_a_superuser_can_delete_everything(
    logins: Logins, login: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWNER_VARIABLE, getattr(logins, login))
    forget_settings()
    assert "mlflow.experiments" in logins.remaining()

    output = clean("--dry-run")
    assert "schema mlflow" in output
    assert "mlflow.experiments" in logins.remaining()
    clean("--yes", logins.word)

    assert logins.remaining() == set()


def test_the_platforms_login_is_refused_in_a_dry_run_and_in_a_real_one(logins: Logins) -> None:
    before = logins.remaining()

    dry = clean("--dry-run", code=ExitCode.FAILED)
    real = clean("--yes", logins.word, code=ExitCode.FAILED)

    for output in (dry, real):
        assert "Set DATABASE_OWNER_URL to a login" in output
        name = str(urlsplit(logins.application).username)
        assert f"The login {name!r} may not delete" in output
        assert "churn_owner" in output
    assert logins.remaining() == before


def test_logins_that_cannot_read_dagsters_runs_are_refused_with_the_remedy(
    logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", logins.owner)  # Dagster's tables belong to the application's login
    forget_settings()
    before = logins.remaining()

    dry = clean("--dry-run", code=ExitCode.FAILED)
    real = clean("--yes", logins.word, code=ExitCode.FAILED)

    for output in (dry, real):
        assert "Set DATABASE_URL to the platform's login" in output
        assert f"{str(urlsplit(logins.owner).username)!r}) may not read dagster.runs" in output
    assert logins.remaining() == before
