"""The stack on real servers: started, broken, stopped."""

import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from mlflow import MlflowClient
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import migrations
from churn_platform.local import postgres
from churn_platform.local.errors import StackError
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.progress import Phase, Step
from churn_platform.local.stack import Stack
from churn_platform.local.supervision import left_over, runtime_folder
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Sandbox:
    """A folder for a separate stack. MLflow is the session's, so that only Kafka and PostgreSQL start."""

    local: Path
    given: dict[str, str]

    def stack(self, given: Mapping[str, str] = MappingProxyType({}), *, user_server_deadline: float = 15) -> Stack:
        """Return a stack in the folder."""
        return Stack(
            self.local,
            services_only=True,
            usual_ports=ANY_FREE_PORTS,
            given={**self.given, **given},
            env_file=Path(os.devnull),
            user_server_deadline=user_server_deadline,
        )


@pytest.fixture
def sandbox(embedded_only: dict[str, str], stack: Stack) -> Iterator[Sandbox]:
    """A sandbox, whose processes are ended and files deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="churn-tests-"))
    sandbox = Sandbox(folder / "local", {**embedded_only, "MLFLOW_TRACKING_URI": stack.addresses["mlflow"]})
    yield sandbox
    sandbox.stack().stop()
    shutil.rmtree(folder)


def test_all_services_answer(stack: Stack) -> None:
    assert {part.name: part.state for part in stack.status() if part.name in ("kafka", "postgres", "mlflow")} == {
        "kafka": "ready",
        "postgres": "ready",
        "mlflow": "ready",
    }


def test_the_database_has_schemas_and_migrations(stack: Stack) -> None:
    with psycopg.connect(stack.addresses["postgres"]) as connection:
        schemas = {name for (name,) in connection.execute("SELECT nspname FROM pg_namespace")}
        tables = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'mlflow'")}
        (applied,) = connection.execute("SELECT count(*) FROM public.schema_migrations").fetchone() or (0,)

    assert {"dagster", "mlflow"} <= schemas
    assert "experiments" in tables
    assert applied > 0


def test_the_database_requires_its_password(stack: Stack) -> None:
    without = stack.addresses["postgres"].replace(stack.addresses["postgres"].split(":")[2].split("@")[0], "wrong")

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(without)


def test_mlflow_keeps_artifacts_and_models(stack: Stack, tmp_path: Path) -> None:
    client = MlflowClient(stack.addresses["mlflow"])
    run = client.create_run(client.create_experiment("local"))

    client.log_text(run.info.run_id, "kept", "note.txt")
    client.create_registered_model("local")

    downloaded = Path(client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path)))
    assert downloaded.read_text() == "kept"
    assert (stack.local / "mlflow" / "artifacts").is_dir()
    assert client.get_registered_model("local").name == "local"


def test_a_misspelled_topic_is_not_created(stack: Stack) -> None:
    admin = AdminClient({"bootstrap.servers": stack.addresses["kafka"]})

    admin.list_topics("customer-evnets", timeout=10)

    assert "customer-evnets" not in admin.list_topics(timeout=10).topics


def test_only_the_owner_can_read_secrets(stack: Stack) -> None:
    files = [login.password_file for login in postgres.LOGINS]
    passwords = {(stack.local / file).read_text() for file in files}

    assert len(passwords) == len(files)
    for name in ("env", *files):
        assert stat.S_IMODE((stack.local / name).stat().st_mode) == 0o600
    places = [" ".join(process.cmdline()) for process in left_over(stack.local)]
    places += [log.read_text(errors="replace") for log in (stack.local / "logs").iterdir()]
    places.append((runtime_folder(stack.local) / "supervisord.conf").read_text())
    assert not [place for place in places for password in passwords if password in place]


def test_the_owners_password_is_in_no_environment(stack: Stack) -> None:
    password = (stack.local / postgres.OWNER.password_file).read_text()

    environments = [stack.environment, *(process.environ() for process in left_over(stack.local))]

    assert len(environments) > 1
    assert not [value for each in environments for value in each.values() if password in value]


@pytest.mark.slow
def test_a_supervisor_that_is_frozen_is_named_and_nothing_hangs(
    sandbox: Sandbox, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = sandbox.stack({"KAFKA_BOOTSTRAP_SERVERS": stack.addresses["kafka"]})
    own.start()
    pid = int((runtime_folder(own.local) / "supervisord.pid").read_text())
    monkeypatch.setenv("CHURN_LOCAL", str(own.local))
    forget_settings()
    os.kill(pid, signal.SIGSTOP)
    try:
        for words in ("status", "up", "down", "verify", "stream pause"):
            began = time.monotonic()
            said = CliRunner().invoke(app, words.split())

            assert said.exit_code == ExitCode.FAILED, said.output
            assert time.monotonic() - began < 12
            assert f"supervisord (process {pid})" in said.output
            assert f"kill -CONT {pid}" in said.output
        assert (own.local / "env").exists()
    finally:
        os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        forget_settings()

    assert own.is_ready("postgres")


@pytest.mark.slow
def test_tables_that_dagster_created_as_the_owner_get_the_platforms_login_as_owner(
    sandbox: Sandbox, stack: Stack
) -> None:
    others = {"KAFKA_BOOTSTRAP_SERVERS": stack.addresses["kafka"]}
    [baseline] = migrations.MIGRATIONS.glob("*_baseline.sql")
    with sandbox.stack(others) as old, psycopg.connect(old.owner_dsn, autocommit=True) as connection:
        connection.execute(baseline.read_bytes().partition(b"-- migrate:down")[2])
        connection.execute("delete from schema_migrations where version = %s", (baseline.name.partition("_")[0],))
        for statement in (
            "drop role churn_platform, churn_analyst",
            "create table dagster.runs (id serial primary key)",
        ):
            connection.execute(statement)
    for login in (postgres.WRITER, postgres.READER, postgres.RETENTION):
        (old.local / login.password_file).unlink()

    with sandbox.stack(others) as new, psycopg.connect(new.addresses["postgres"]) as connection:
        assert connection.info.user == postgres.WRITER.name
        connection.execute("insert into dagster.runs default values")
        connection.execute("alter table dagster.runs add column body text")


def test_an_owner_login_without_your_own_database_is_rejected(sandbox: Sandbox) -> None:
    with pytest.raises(StackError, match="DATABASE_OWNER_URL is set, but DATABASE_URL is not"):
        sandbox.stack({"DATABASE_OWNER_URL": "postgresql://anna@db.example/churn"}).start()


def test_a_database_of_yours_is_migrated_by_its_owner_and_used_by_the_writer(sandbox: Sandbox, stack: Stack) -> None:
    mine = sandbox.stack(
        {
            "KAFKA_BOOTSTRAP_SERVERS": stack.addresses["kafka"],
            "DATABASE_URL": stack.addresses["postgres"],
            "DATABASE_OWNER_URL": stack.owner_dsn,
        }
    )

    mine.start()

    assert mine.owner_dsn == stack.owner_dsn
    assert mine.environment["DATABASE_URL"] == stack.addresses["postgres"]
    password = (stack.local / postgres.OWNER.password_file).read_text()
    environments = [process.environ() for process in left_over(mine.local)]
    assert environments
    assert not [value for each in environments for value in each.values() if password in value]


def test_starting_again_changes_nothing(stack: Stack) -> None:
    before = {name: stack.pid(name) for name in ("kafka", "postgres", "mlflow")}

    assert not stack.start()

    assert {name: stack.pid(name) for name in before} == before


@pytest.mark.slow
def test_a_killed_part_is_started_again(stack: Stack) -> None:
    before = stack.pid("postgres")

    stack.kill_part("postgres")

    wait_until(
        lambda: stack.is_ready("postgres") and stack.pid("postgres") != before, what="a new PostgreSQL to answer"
    )


@pytest.mark.slow
def test_a_stopped_part_stays_stopped_until_it_is_started(stack: Stack) -> None:
    stack.stop_part("mlflow")
    assert {part.name: part.state for part in stack.status()}["mlflow"] == "stopped"

    stack.start_part("mlflow")

    assert stack.is_ready("mlflow")


def test_a_server_of_the_user_is_not_started(sandbox: Sandbox, stack: Stack) -> None:
    mine = sandbox.stack(
        {"KAFKA_BOOTSTRAP_SERVERS": stack.addresses["kafka"], "DATABASE_URL": stack.addresses["postgres"]}
    )

    mine.start()

    assert mine.embedded == set()
    assert {part.state for part in mine.status()} == {"yours", "stopped"}
    assert mine.environment["KAFKA_BOOTSTRAP_SERVERS"] == stack.addresses["kafka"]
    assert left_over(mine.local)  # supervisord alone
    assert len(left_over(mine.local)) == 1


@pytest.mark.slow
def test_a_server_of_the_user_that_is_down_is_named(sandbox: Sandbox) -> None:
    mine = sandbox.stack({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, user_server_deadline=1)

    with pytest.raises(StackError, match="KAFKA_BOOTSTRAP_SERVERS"):
        mine.start()

    assert not mine.is_up


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_named_before_anything_starts(sandbox: Sandbox) -> None:
    mine = sandbox.stack({"CHURN_ARTIFACTS": "s3://no-such-bucket/churn"})

    with pytest.raises(StackError, match="NoSuchBucket") as failure:
        mine.start()

    assert failure.value.remedy.startswith("Create the bucket")
    assert left_over(mine.local) == []
    assert not (mine.local / "dagster").exists()


@pytest.mark.slow
def test_a_killed_supervisor_orphans_nothing_and_a_stop_leaves_no_trace(sandbox: Sandbox) -> None:
    first = sandbox.stack()
    assert first.start()
    orphans = {name: first.pid(name) for name in ("kafka", "postgres")}
    os.kill(int((runtime_folder(first.local) / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not first.is_up)
    assert first.count_left_over() > 0

    second = sandbox.stack()
    assert second.start()

    assert not any(_runs(pid) for pid in orphans.values())
    assert len([process for process in left_over(second.local) if "kafka.Kafka" in process.cmdline()]) == 1
    assert second.addresses == first.addresses

    started = {second.pid(name) for name in ("kafka", "postgres")}
    steps: list[Step] = []
    assert second.stop(steps.append)

    assert not any(_runs(pid) for pid in started)
    assert second.count_left_over() == 0
    assert not (second.local / "env").exists()
    stopped = [step.part for step in steps if step.phase is Phase.STOPPED]
    assert stopped.index("kafka") < stopped.index("postgres")
    assert not second.stop()


@pytest.mark.slow
def test_a_part_that_cannot_start_is_explained_and_nothing_stays_up(sandbox: Sandbox) -> None:
    (sandbox.local / "kafka" / "data").mkdir(parents=True)
    (sandbox.local / "kafka" / "data" / "meta.properties").write_text("version=9\n")  # as if formatted by a later Kafka
    broken = sandbox.stack()

    with pytest.raises(StackError) as failure:
        broken.start()

    assert "Kafka ended while it was starting" in failure.value.problem
    assert "meta.properties" in failure.value.details
    assert str(broken.log_file("kafka")) in failure.value.remedy
    assert not broken.is_up
    assert left_over(broken.local) == []


def test_a_long_path_moves_the_sockets_to_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60)

    folder = runtime_folder(deep)

    assert len(os.fsencode(folder)) < 60
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("variable", "change", "reason"),
    [
        ("DATABASE_URL", {"password": "wrong"}, "password authentication failed"),
        ("DATABASE_URL", {"user": "nobody", "password": "wrong"}, 'password authentication failed for user "nobody"'),
        ("DATABASE_URL", {"dbname": "nowhere"}, 'database "nowhere" does not exist'),
        ("DATABASE_OWNER_URL", {"password": "wrong"}, "password authentication failed"),
    ],
    ids=["password", "role", "database", "owner"],
)
def test_a_postgres_of_yours_that_refuses_is_named_with_its_reason_at_once(
    sandbox: Sandbox, stack: Stack, variable: str, change: dict[str, str], reason: str
) -> None:
    given = {
        "KAFKA_BOOTSTRAP_SERVERS": stack.addresses["kafka"],
        "DATABASE_URL": stack.addresses["postgres"],
        "DATABASE_OWNER_URL": stack.owner_dsn,
    }
    mine = sandbox.stack(given | {variable: _changed(given[variable], change)})
    before = _refusals(stack)

    with pytest.raises(StackError) as failure:
        mine.start()

    assert failure.value.problem.startswith(f"Your own PostgreSQL cannot be used. {variable} is refused: ")
    assert reason in failure.value.problem
    assert "does not answer" not in str(failure.value)
    assert not {"wrong", stack.owner_dsn} & set(str(failure.value).split())
    assert len(_refusals(stack)) - len(before) <= 2  # libpq may try twice, but nothing retries
    assert not mine.is_up


def _changed(url: str, change: dict[str, str]) -> str:
    parts = conninfo_to_dict(url) | change
    return f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"


def _refusals(stack: Stack) -> list[str]:
    log = stack.log_file("postgres").read_text(errors="replace")
    return [line for line in log.splitlines() if "FATAL:" in line]


def test_a_server_of_yours_that_answers_with_an_error_is_named_with_its_answer(sandbox: Sandbox, stack: Stack) -> None:
    address = f"{stack.addresses['mlflow']}/elsewhere"
    mine = sandbox.stack(
        {
            "KAFKA_BOOTSTRAP_SERVERS": stack.addresses["kafka"],
            "DATABASE_URL": stack.addresses["postgres"],
            "DATABASE_OWNER_URL": stack.owner_dsn,
            "MLFLOW_TRACKING_URI": address,
        }
    )

    with pytest.raises(StackError, match=f"Your own MLflow cannot be used. {address}/health answers with HTTP 404"):
        mine.start()
