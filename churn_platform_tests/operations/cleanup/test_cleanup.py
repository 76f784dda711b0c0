"""`churn clean` deletes what the platform created, keeps the rest, and is refused while something still writes."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import dagster as dg
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from dagster._daemon.types import DaemonHeartbeat
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner, Result

from churn_platform.api.tokens import write_tokens
from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import advisory_locks, environments, model_versions
from churn_platform.database.studies import study_storage
from churn_platform.definitions import defs
from churn_platform.environments import created_topics
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.files.artifacts import MARKER, claim, exists, is_empty, join, write_bytes
from churn_platform.local.environment import ARTIFACTS_VARIABLE, EMBEDDED_MARKER, OWNER_VARIABLE
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.conftest import copy_database, forget_settings
from churn_platform_tests.stream.streams import Stream, event, register_champion
from churn_platform_tests.waiting import wait_until

runner = CliRunner(env={"COLUMNS": "200"})


def clean(*arguments: str, code: int = 0, typed: str | None = None) -> str:
    """Run the command, which must end with this exit code; return both outputs."""
    return invoke(*arguments, code=code, typed=typed).output


def invoke(*arguments: str, code: int = 0, typed: str | None = None) -> Result:
    """Run the command, which must end with this exit code; return the result."""
    outcome = runner.invoke(app, ["clean", *arguments], input=typed)
    assert outcome.exit_code == code, outcome.output
    return outcome


def listed(code: int = 0) -> dict[str, Any]:
    """Return the JSON of a dry run. It is read from stdout alone, because stderr may have progress."""
    found: dict[str, Any] = json.loads(invoke("--dry-run", "--json", code=code).stdout)
    return found


def names(found: Sequence[dict[str, str]]) -> set[str]:
    """Return the names in a list of items."""
    return {each["name"] for each in found}


# The user's own servers: those of the session, with a database and topics for each test.


@dataclass
class Yours:
    """A platform on the user's own servers."""

    stream: Stream
    owner: str
    root: str

    @property
    def word(self) -> str:
        """The confirmation word."""
        parts = conninfo_to_dict(self.owner)
        return f"{parts['dbname']}@{parts['host']}"

    def read_and_publish(self) -> None:
        """Stream a few events, so that there are rows and published predictions."""
        self.stream.send([event(number) for number in range(9)])
        self.stream.stream(idle_seconds=0.5)

    def execute(self, statement: LiteralString) -> None:
        """Run a statement as the owner of the database."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            connection.execute(statement)

    def tables(self) -> set[str]:
        """Return the tables and views outside of PostgreSQL's own schemas."""
        with psycopg.connect(self.owner) as connection:
            found = connection.execute(
                "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = relnamespace "
                "where relkind in ('r', 'v') and nspname in ('public', 'dagster', 'mlflow', 'optuna')"
            )
            return {name for (name,) in found}

    def schemas(self) -> set[str]:
        """Return which of the schemas dagster, mlflow and optuna exist."""
        with psycopg.connect(self.owner) as connection:
            found = connection.execute(
                "select nspname from pg_namespace where nspname in ('dagster', 'mlflow', 'optuna')"
            )
            return {name for (name,) in found}

    def topics(self) -> set[str]:
        """Return which of the platform's topics exist."""
        config = self.stream.config
        existing = self.stream.admin.list_topics(timeout=10).topics
        return {name for name in (config.events_topic, config.predictions_topic) if name in existing}


@pytest.fixture
def yours(
    stack: Stack, platform: str, s3_root: str, bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Yours]:
    """A platform with topics, tables, a group and files, on servers that others use, too."""
    database = str(conninfo_to_dict(platform)["dbname"])
    owner = urlsplit(stack.owner_dsn)._replace(path=f"/{database}").geturl()
    monkeypatch.delenv(EMBEDDED_MARKER)
    monkeypatch.setenv("DATABASE_URL", urlsplit(stack.addresses["postgres"])._replace(path=f"/{database}").geturl())
    monkeypatch.setenv(OWNER_VARIABLE, owner)
    monkeypatch.setenv("CHURN_LOCAL", str(tmp_path / "local"))
    monkeypatch.setenv("STREAM_GROUP", f"group-of-{database}")
    forget_settings()
    with psycopg.connect(platform) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    claim(s3_root)
    write_bytes(join(s3_root, "models", "run", "model.ubj"), b"model")
    with Stream(StreamConfig.from_settings(settings())) as stream:
        created_topics.create_missing(stream.admin, stream.config)
        yield Yours(stream, owner, s3_root)


@pytest.fixture
def instance(yours: Yours) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance whose records are in the schema dagster."""
    assert "dagster" in yours.schemas()
    with tempfile.TemporaryDirectory() as folder:
        storage = {"postgres": {"postgres_url": in_schema(settings().postgres_dsn, "dagster")}}
        Path(folder, "dagster.yaml").write_text(json.dumps({"storage": storage, "telemetry": {"enabled": False}}))
        with dg.DagsterInstance.from_config(folder) as instance:
            yield instance


@pytest.mark.slow
@pytest.mark.usefixtures("instance")
def test_what_the_platform_created_is_deleted_and_the_rest_is_kept(yours: Yours) -> None:
    yours.read_and_publish()
    created_topics.create_missing(yours.stream.admin, yours.stream.config, settings().topics.outcomes)
    yours.execute("create table public.theirs (a integer)")
    with study_storage(settings().postgres_dsn):
        assert "optuna.studies" in yours.tables()
    write_bytes(join(yours.root, "theirs.txt"), b"x")

    found = listed()
    clean("--yes", "something else", code=1)
    assert "nothing was deleted" in clean(code=1, typed="yes\n")
    assert len(yours.stream.table_ids()) == 9

    output = clean(typed=f"{yours.word}\n")

    config = yours.stream.config
    assert found["word"] == yours.word
    assert {f"topic {config.events_topic}", f"topic {config.predictions_topic}", "models/", "schema dagster"} <= names(
        found["delete"]
    )
    assert f"topic {settings().topics.outcomes}" in names(found["delete"])
    assert f"consumer group {config.kafka.group}" in names(found["delete"])
    assert "roles churn_owner" in output
    assert yours.tables() == {"theirs"}
    assert yours.schemas() == set()
    assert yours.topics() == set()
    assert is_empty(join(yours.root, "models"))
    assert not exists(join(yours.root, MARKER))
    assert exists(join(yours.root, "theirs.txt"))
    after = listed()
    assert after["delete"] == []
    assert "theirs.txt" in names(after["keep"])
    assert "nothing to delete" in clean()


def test_a_dry_run_changes_nothing(yours: Yours) -> None:
    before = (yours.tables(), yours.topics(), exists(join(yours.root, MARKER)))

    assert "Will delete" in clean("--dry-run")

    assert (yours.tables(), yours.topics(), exists(join(yours.root, MARKER))) == before
    clean("--json", code=2)


def test_what_the_platform_did_not_mark_is_kept(yours: Yours, monkeypatch: pytest.MonkeyPatch) -> None:
    admin, recreated = yours.stream.admin, yours.stream.config.predictions_topic
    theirs, elsewhere = f"theirs-{yours.stream.config.events_topic}", join(yours.root, "elsewhere")
    admin.create_topics([NewTopic(theirs, 1)])[theirs].result()
    admin.delete_topics([recreated])[recreated].result()
    wait_until(lambda: recreated not in admin.list_topics(timeout=10).topics)
    admin.create_topics([NewTopic(recreated, 1)])[recreated].result()
    yours.execute("comment on schema mlflow is null")  # as if it held tables before the platform was installed
    yours.execute("insert into schema_migrations (version) values ('1')")
    write_bytes(join(elsewhere, "models", "theirs"), b"x")
    claim(elsewhere)
    monkeypatch.setenv("EVENTS_TOPIC", theirs)
    monkeypatch.setenv("CHURN_ARTIFACTS", elsewhere)
    forget_settings()

    found = listed()
    clean("--yes", found["word"])

    assert {f"topic {theirs}", f"topic {recreated}", "schema mlflow", "models", "table schema_migrations"} <= names(
        found["keep"]
    )
    assert {theirs, recreated} <= admin.list_topics(timeout=10).topics.keys()
    assert (
        yours.stream.config.events_topic not in admin.list_topics(timeout=10).topics
    )  # recorded, though no longer in the settings
    assert yours.tables() == {"schema_migrations"}
    assert yours.schemas() == {"mlflow"}
    assert exists(join(elsewhere, "models", "theirs"))


@pytest.mark.slow
def test_a_group_that_also_reads_other_topics_is_kept(yours: Yours) -> None:
    yours.read_and_publish()
    yours.execute("update stream_topics set topic = 'another'")

    assert f"consumer group {yours.stream.config.kafka.group}" in names(listed()["keep"])


# Another environment on the same Kafka.


@pytest.fixture
def other_environment(yours: Yours, stack: Stack, template_database: str, bundle_uri: str) -> Iterator[Stream]:
    """Another environment: its own database, with the settings of this one for everything else."""
    dsn = copy_database(stack, template_database)
    register_champion(dsn, bundle_uri)
    with Stream(replace(yours.stream.config, dsn=dsn, idle_seconds=0.5)) as other_environment:
        yield other_environment


@pytest.mark.slow
def test_what_another_environment_has_taken_over_is_kept(yours: Yours, other_environment: Stream) -> None:
    yours.read_and_publish()
    config = other_environment.config
    with EnvironmentGuard(other_environment.connection, other_environment.admin, config) as guard:
        guard.take_over(silent_seconds=0)
    other_environment.stream()
    published = other_environment.published_ids()

    found = listed()
    clean("--yes", yours.word)

    other = environments.identify(other_environment.connection)
    reasons = {each["name"]: each["reason"] for each in found["keep"]}
    assert other in reasons[f"consumer group {config.kafka.group}"]
    assert other in reasons[f"topic {config.predictions_topic}"]
    assert f"environment {other} " in reasons[f"topic {config.events_topic}"]
    assert yours.tables() == set()
    assert other_environment.published_ids() == published
    other_environment.send([event(number) for number in range(9)])
    assert other_environment.stream().events == 9
    assert set(other_environment.table_ids()) <= set(other_environment.published_ids())


@pytest.mark.slow
def test_the_group_of_a_running_environment_is_kept_when_another_one_cleans(
    yours: Yours, other_environment: Stream
) -> None:
    other_environment.send([event(number) for number in range(9)])
    other_environment.stream()
    name = yours.stream.config.events_topic
    with psycopg.connect(yours.owner, autocommit=True) as connection:  # it has read that topic, too
        connection.execute("insert into stream_topics (topic_id, topic) values ('earlier', %s)", (name,))

    found = listed()
    clean("--yes", found["word"])

    assert f"consumer group {other_environment.config.kafka.group}" in names(found["keep"])
    before = len(other_environment.published())
    assert other_environment.stream().events == 0
    assert len(other_environment.published()) == before == 9


@pytest.mark.slow
def test_an_events_topic_that_another_environment_reads_is_kept(yours: Yours, other_environment: Stream) -> None:
    yours.read_and_publish()
    staging = f"staging-{yours.stream.config.kafka.group}"
    other_environment.stream(group=staging, predictions_topic=staging)

    found = listed()
    clean("--yes", found["word"])

    assert f"topic {yours.stream.config.events_topic}" in names(found["keep"])
    assert yours.topics() == {yours.stream.config.events_topic}


@pytest.mark.slow
def test_withdrawn_claims_are_free_for_another_environment(yours: Yours, other_environment: Stream) -> None:
    yours.read_and_publish()
    found = listed()
    claimed = [name for name in names(found["delete"]) if name.startswith("claims of environment ")]
    clean("--yes", found["word"])

    created_topics.create_missing(other_environment.admin, other_environment.config)
    other_environment.send([event(number) for number in range(9)])

    assert len(claimed) == 1
    assert other_environment.stream().events == 9
    assert other_environment.published_ids() == other_environment.table_ids()


@pytest.mark.slow
def test_a_consumer_in_the_group_is_reported(yours: Yours) -> None:
    yours.read_and_publish()
    config = yours.stream.config
    consumer = Consumer({**config.kafka.client, "group.id": config.kafka.group, "client.id": "somebody"})
    consumer.subscribe([config.events_topic])
    wait_until(lambda: consumer.poll(0.1) is not None or bool(consumer.assignment()))
    try:
        output = clean("--yes", yours.word, code=3)
    finally:
        consumer.close()

    assert "'somebody' on" in output
    assert len(yours.topics()) == 2


def test_objects_that_depend_on_the_tables_are_reported_and_nothing_is_deleted(yours: Yours) -> None:
    yours.execute("create view public.report as select customer_id from churn_predictions")
    before = yours.tables()

    output = clean("--yes", yours.word, code=ExitCode.FAILED)

    assert "Drop those objects first" in output
    assert "view report depends on table churn_predictions" in output
    assert yours.tables() == before
    assert len(yours.topics()) == 2
    assert not is_empty(join(yours.root, "models"))


def test_a_login_that_does_not_own_the_tables_is_refused_with_the_remedy(
    yours: Yours, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OWNER_VARIABLE)

    output = clean("--yes", yours.word, code=ExitCode.FAILED)

    assert "Set DATABASE_OWNER_URL" in output
    assert len(yours.topics()) == 2


def test_an_unreachable_s3_is_reported_with_the_remedy(yours: Yours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    forget_settings()

    output = clean("--dry-run", code=ExitCode.FAILED)

    assert "\nStart the S3 server" in output
    assert len(yours.topics()) == 2


# Refused while something still writes.


def test_a_live_streaming_run_is_reported(yours: Yours) -> None:
    with psycopg.connect(settings().postgres_dsn, application_name=advisory_locks.session_name("run-7")):
        found = listed(code=3)
        output = clean("--yes", yours.word, code=3)

    assert [writer for writer in names(found["writers"]) if "churn stream run-7" in writer]
    assert "Still writing: session 'churn stream run-7'" in output
    assert len(yours.topics()) == 2


def test_a_live_dagster_run_is_reported_with_the_remedy(yours: Yours, instance: dg.DagsterInstance) -> None:
    job = defs.resolve_job_def("training_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)

    (writer,) = listed(code=3)["writers"]

    assert run.run_id in writer["name"]
    assert f"dagster run delete {run.run_id}" in writer["remedy"]
    instance.delete_run(run.run_id)
    assert listed()["writers"] == []
    assert yours.topics()


@pytest.mark.parametrize(("silent", "code"), [(20, 3), (60, 0)])
def test_a_daemon_is_running_while_it_sends_heartbeats(instance: dg.DagsterInstance, silent: float, code: int) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - silent, "SENSOR", "daemon", None))

    found = listed(code=code)

    assert bool([writer for writer in names(found["writers"]) if "a Dagster daemon" in writer]) == (code == 3)


def test_a_producer_is_detected(yours: Yours) -> None:
    producer = Producer(yours.stream.config.kafka.client)
    has_begun, stopped = threading.Event(), threading.Event()

    def send() -> None:
        while not stopped.wait(0.02):
            producer.produce(yours.stream.config.events_topic, b"{}")
            if producer.flush(5) == 0:
                has_begun.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert has_begun.wait(30)
    try:
        found = listed(code=3)
    finally:
        stopped.set()
        thread.join()

    assert [writer for writer in names(found["writers"]) if yours.stream.config.events_topic in writer]


# The stack's own folder.


@pytest.fixture
def local(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a stack in which only PostgreSQL is embedded; the settings name it."""
    assert stack.is_up  # the new stack uses its Kafka and MLflow
    with tempfile.TemporaryDirectory(prefix="churn-tests-") as folder:  # a short path, unlike pytest's own
        Path(folder).chmod(0o711)  # root's PostgreSQL runs as another user
        local = Path(folder) / "local"
        for name in (EMBEDDED_MARKER, "DATABASE_URL"):
            monkeypatch.delenv(name)
        for name, value in {
            "CHURN_LOCAL": str(local),
            ARTIFACTS_VARIABLE: str(local / "artifacts"),
            "EVENTS_TOPIC": f"events-of-{Path(folder).name}",
            "PREDICTIONS_TOPIC": f"predictions-of-{Path(folder).name}",
        }.items():
            monkeypatch.setenv(name, value)
        forget_settings()
        yield local
        stack_in(local).stop()
        monkeypatch.undo()
        forget_settings()


def stack_in(local: Path) -> Stack:
    """Return the stack in a folder."""
    return Stack(local, services_only=True, usual_ports=ANY_FREE_PORTS, env_file=Path(os.devnull))


@pytest.mark.slow
def test_the_stacks_folder_and_the_topics_in_its_database_are_deleted(
    stack: Stack, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKENS", str(local / "tokens"))
    forget_settings()
    with stack_in(local) as running:
        assert running.embedded == {"postgres"}
        config = StreamConfig.from_settings(settings().with_servers(postgres=running.addresses["postgres"]))
        admin = AdminClient(config.kafka.client)
        created_topics.create_missing(admin, config)
        claim(str(local / "artifacts"))
        output = clean("--yes", stack.addresses["kafka"], code=3)
    (local / "theirs").write_text("x")
    report = local / "rolled-back-20260101T000000Z.json"
    report.write_text("{}")
    write_tokens(local / "tokens", {})

    assert "First: churn down" in output
    assert f"PostgreSQL (process {running_pid(output)})" in output
    found = listed()
    assert {
        *(f"topic {config.events_topic}", "postgres", "artifacts", "ports.json", "tokens", report.name, MARKER)
    } <= names(found["delete"])
    assert "theirs" in names(found["keep"])
    assert found["word"] == stack.addresses["kafka"]

    clean("--yes", found["word"])

    assert [path.name for path in local.iterdir()] == ["theirs"]
    assert config.events_topic not in admin.list_topics(timeout=10).topics
    assert listed()["delete"] == []


def running_pid(output: str) -> str:
    """Return the process id in a refusal."""
    return output.partition("(process ")[2].partition(")")[0]


@pytest.mark.slow
def test_a_folder_without_other_files_is_deleted_and_can_be_created_again(local: Path) -> None:
    with stack_in(local):
        pass
    clean("--yes", "local")
    assert not local.exists()

    with stack_in(local) as again:
        assert again.is_ready("postgres")


def test_a_folder_without_the_marker_file_is_kept(local: Path) -> None:
    (local / "logs").mkdir(parents=True)
    (local / "logs" / "theirs.log").write_text("x")

    found = listed()
    clean()

    assert found["delete"] == []
    assert any("'churn up' did not create it" in each["reason"] for each in found["keep"])
    assert (local / "logs" / "theirs.log").exists()


def test_an_artifacts_folder_elsewhere_is_deleted_if_it_has_the_marker_file(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "files"
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(root))
    forget_settings()
    claim(str(root))
    write_bytes(str(root / "assets" / "train.parquet"), b"x")
    assert not local.exists()

    clean("--yes", "files")

    assert not root.exists()


def test_help_has_an_example() -> None:
    assert "Example: churn clean" in " ".join(clean("--help").split())
