"""`churn clean` deletes what the platform has made, leaves what others have, and waits for nobody who still writes."""

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
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported
from dagster._daemon.types import DaemonHeartbeat
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner, Result

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
    """What the command says on both outputs; it must end with this exit code."""
    return invoked(*arguments, code=code, typed=typed).output


def invoked(*arguments: str, code: int = 0, typed: str | None = None) -> Result:
    """What the command said and how it ended, which must be with this exit code."""
    outcome = runner.invoke(app, ["clean", *arguments], input=typed)
    assert outcome.exit_code == code, outcome.output
    return outcome


def listed(code: int = 0) -> dict[str, Any]:
    """What it would do. On the other output a slow machine may be told what is being looked at."""
    found: dict[str, Any] = json.loads(invoked("--dry-run", "--json", code=code).stdout)
    return found


def names(found: Sequence[dict[str, str]]) -> set[str]:
    """Names of what was listed."""
    return {each["name"] for each in found}


# Servers of the user's own: the session's, to which a database and topics of the test's own were given.


@dataclass
class Yours:
    """A platform on servers that are not its own."""

    stream: Stream
    owner: str
    root: str

    @property
    def word(self) -> str:
        """What has to be typed."""
        parts = conninfo_to_dict(self.owner)
        return f"{parts['dbname']}@{parts['host']}"

    def read_and_publish(self) -> None:
        """Let events become rows and predictions."""
        self.stream.send([event(number) for number in range(9)])
        self.stream.stream(idle_seconds=0.5)

    def owns(self, statement: LiteralString) -> None:
        """Run a statement as the owner of the database."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            connection.execute(statement)

    def tables(self) -> set[str]:
        """Tables and views outside of PostgreSQL's own schemas."""
        with psycopg.connect(self.owner) as connection:
            found = connection.execute(
                "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = relnamespace "
                "where relkind in ('r', 'v') and nspname in ('public', 'dagster', 'mlflow', 'optuna')"
            )
            return {name for (name,) in found}

    def schemas(self) -> set[str]:
        """Which of the schemas for others' tables there are."""
        with psycopg.connect(self.owner) as connection:
            found = connection.execute(
                "select nspname from pg_namespace where nspname in ('dagster', 'mlflow', 'optuna')"
            )
            return {name for (name,) in found}

    def topics(self) -> set[str]:
        """Which of the platform's topics there are."""
        config = self.stream.config
        there = self.stream.admin.list_topics(timeout=10).topics
        return {name for name in (config.events_topic, config.predictions_topic) if name in there}


@pytest.fixture
def yours(
    stack: Stack, platform: str, s3_root: str, bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Yours]:
    """Topics, tables, a group and files of the platform's, beside some of others'."""
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
def test_what_the_platform_made_goes_and_what_others_have_stays(yours: Yours) -> None:
    yours.read_and_publish()
    created_topics.create_missing(yours.stream.admin, yours.stream.config, settings().topics.outcomes)
    yours.owns("create table public.theirs (a integer)")
    with study_storage(settings().postgres_dsn):
        assert "optuna.studies" in yours.tables()
    write_bytes(join(yours.root, "theirs.txt"), b"x")

    found = listed()
    clean("--yes", "something else", code=1)
    assert "nothing was deleted" in clean(code=1, typed="yes\n")
    assert len(yours.stream.table_ids()) == 9

    said = clean(typed=f"{yours.word}\n")

    config = yours.stream.config
    assert found["word"] == yours.word
    assert {f"topic {config.events_topic}", f"topic {config.predictions_topic}", "models/", "schema dagster"} <= names(
        found["delete"]
    )
    assert f"topic {settings().topics.outcomes}" in names(found["delete"])
    assert f"consumer group {config.kafka.group}" in names(found["delete"])
    assert "roles churn_owner" in said
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


def test_a_dry_run_and_a_second_look_change_nothing(yours: Yours) -> None:
    before = (yours.tables(), yours.topics(), exists(join(yours.root, MARKER)))

    assert "Will delete" in clean("--dry-run")

    assert (yours.tables(), yours.topics(), exists(join(yours.root, MARKER))) == before
    clean("--json", code=2)


def test_what_bears_no_mark_of_the_platform_stays(yours: Yours, monkeypatch: pytest.MonkeyPatch) -> None:
    admin, remade = yours.stream.admin, yours.stream.config.predictions_topic
    theirs, elsewhere = f"theirs-{yours.stream.config.events_topic}", join(yours.root, "elsewhere")
    admin.create_topics([NewTopic(theirs, 1)])[theirs].result()
    admin.delete_topics([remade])[remade].result()
    wait_until(lambda: remade not in admin.list_topics(timeout=10).topics)
    admin.create_topics([NewTopic(remade, 1)])[remade].result()
    yours.owns("comment on schema mlflow is null")  # as where it held tables when the platform came
    yours.owns("insert into schema_migrations (version) values ('1')")
    write_bytes(join(elsewhere, "models", "theirs"), b"x")
    claim(elsewhere)
    monkeypatch.setenv("EVENTS_TOPIC", theirs)
    monkeypatch.setenv("CHURN_ARTIFACTS", elsewhere)
    forget_settings()

    found = listed()
    clean("--yes", found["word"])

    assert {f"topic {theirs}", f"topic {remade}", "schema mlflow", "models", "table schema_migrations"} <= names(
        found["keep"]
    )
    assert {theirs, remade} <= admin.list_topics(timeout=10).topics.keys()
    assert yours.stream.config.events_topic not in admin.list_topics(timeout=10).topics  # recorded, if no longer named
    assert yours.tables() == {"schema_migrations"}
    assert yours.schemas() == {"mlflow"}
    assert exists(join(elsewhere, "models", "theirs"))


@pytest.mark.slow
def test_a_group_that_reads_other_topics_too_is_not_ours(yours: Yours) -> None:
    yours.read_and_publish()
    yours.owns("update stream_topics set topic = 'another'")

    assert f"consumer group {yours.stream.config.kafka.group}" in names(listed()["keep"])


# Another environment on the same Kafka.


@pytest.fixture
def neighbour(yours: Yours, stack: Stack, template_database: str, bundle_uri: str) -> Iterator[Stream]:
    """Another environment: a database of its own, and this one's settings for everything else."""
    dsn = copy_database(stack, template_database)
    register_champion(dsn, bundle_uri)
    with Stream(replace(yours.stream.config, dsn=dsn, idle_seconds=0.5)) as neighbour:
        yield neighbour


@pytest.mark.slow
def test_what_another_environment_has_taken_over_stays(yours: Yours, neighbour: Stream) -> None:
    yours.read_and_publish()
    config = neighbour.config
    with EnvironmentGuard(neighbour.connection, neighbour.admin, config) as guard:
        guard.take_over(silent_seconds=0)
    neighbour.stream()
    published = neighbour.published_ids()

    found = listed()
    clean("--yes", yours.word)

    other = environments.identify(neighbour.connection)
    reasons = {each["name"]: each["reason"] for each in found["keep"]}
    assert other in reasons[f"consumer group {config.kafka.group}"]
    assert other in reasons[f"topic {config.predictions_topic}"]
    assert f"environment {other} " in reasons[f"topic {config.events_topic}"]
    assert yours.tables() == set()
    assert neighbour.published_ids() == published
    neighbour.send([event(number) for number in range(9)])
    assert neighbour.stream().events == 9
    assert set(neighbour.table_ids()) <= set(neighbour.published_ids())


@pytest.mark.slow
def test_the_group_of_an_environment_that_was_never_stopped_stays_where_a_second_one_cleans(
    yours: Yours, neighbour: Stream
) -> None:
    neighbour.send([event(number) for number in range(9)])
    neighbour.stream()
    name = yours.stream.config.events_topic
    with psycopg.connect(yours.owner, autocommit=True) as connection:  # it has read that topic, too
        connection.execute("insert into stream_topics (topic_id, topic) values ('earlier', %s)", (name,))

    found = listed()
    clean("--yes", found["word"])

    assert f"consumer group {neighbour.config.kafka.group}" in names(found["keep"])
    before = len(neighbour.published())
    assert neighbour.stream().events == 0
    assert len(neighbour.published()) == before == 9


@pytest.mark.slow
def test_an_events_topic_that_another_environment_reads_stays(yours: Yours, neighbour: Stream) -> None:
    yours.read_and_publish()
    staging = f"staging-{yours.stream.config.kafka.group}"
    neighbour.stream(group=staging, predictions_topic=staging)

    found = listed()
    clean("--yes", found["word"])

    assert f"topic {yours.stream.config.events_topic}" in names(found["keep"])
    assert yours.topics() == {yours.stream.config.events_topic}


@pytest.mark.slow
def test_what_was_claimed_is_free_for_the_next_environment(yours: Yours, neighbour: Stream) -> None:
    yours.read_and_publish()
    found = listed()
    claimed = [name for name in names(found["delete"]) if name.startswith("claims of environment ")]
    clean("--yes", found["word"])

    created_topics.create_missing(neighbour.admin, neighbour.config)
    neighbour.send([event(number) for number in range(9)])

    assert len(claimed) == 1
    assert neighbour.stream().events == 9
    assert neighbour.published_ids() == neighbour.table_ids()


@pytest.mark.slow
def test_a_consumer_in_the_group_is_named(yours: Yours) -> None:
    yours.read_and_publish()
    config = yours.stream.config
    consumer = Consumer({**config.kafka.client, "group.id": config.kafka.group, "client.id": "somebody"})
    consumer.subscribe([config.events_topic])
    wait_until(lambda: consumer.poll(0.1) is not None or bool(consumer.assignment()))
    try:
        said = clean("--yes", yours.word, code=3)
    finally:
        consumer.close()

    assert "'somebody' on" in said
    assert len(yours.topics()) == 2


def test_what_others_have_built_on_the_tables_is_named_and_nothing_is_deleted(yours: Yours) -> None:
    yours.owns("create view public.report as select customer_id from churn_predictions")
    before = yours.tables()

    said = clean("--yes", yours.word, code=ExitCode.FAILED)

    assert "Drop those objects first" in said
    assert "view report depends on table churn_predictions" in said
    assert yours.tables() == before
    assert len(yours.topics()) == 2
    assert not is_empty(join(yours.root, "models"))


def test_who_does_not_own_the_tables_is_told_who_has_to(yours: Yours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OWNER_VARIABLE)

    said = clean("--yes", yours.word, code=ExitCode.FAILED)

    assert "Set DATABASE_OWNER_URL" in said
    assert len(yours.topics()) == 2


def test_an_s3_that_is_away_stops_it_with_the_remedy(yours: Yours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    forget_settings()

    said = clean("--dry-run", code=ExitCode.FAILED)

    assert said.startswith("Start the S3 server")
    assert len(yours.topics()) == 2


# Refused while something still writes.


def test_a_live_streaming_run_is_named(yours: Yours) -> None:
    with psycopg.connect(settings().postgres_dsn, application_name=advisory_locks.session_name("run-7")):
        found = listed(code=3)
        said = clean("--yes", yours.word, code=3)

    assert [writer for writer in names(found["writers"]) if "churn stream run-7" in writer]
    assert "Still writes: session 'churn stream run-7'" in said
    assert len(yours.topics()) == 2


def test_a_running_dagster_run_is_named_with_the_way_out(yours: Yours, instance: dg.DagsterInstance) -> None:
    job = defs.resolve_job_def("training_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)

    (writer,) = listed(code=3)["writers"]

    assert run.run_id in writer["name"]
    assert f"dagster run delete {run.run_id}" in writer["remedy"]
    instance.delete_run(run.run_id)
    assert listed()["writers"] == []
    assert yours.topics()


@pytest.mark.parametrize(("silent", "code"), [(20, 3), (60, 0)])
def test_a_daemon_lives_while_it_reports(instance: dg.DagsterInstance, silent: float, code: int) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - silent, "SENSOR", "daemon", None))

    found = listed(code=code)

    assert bool([writer for writer in names(found["writers"]) if "a Dagster daemon" in writer]) == (code == 3)


def test_a_producer_is_noticed(yours: Yours) -> None:
    producer = Producer(yours.stream.config.kafka.client)
    begun, enough = threading.Event(), threading.Event()

    def send() -> None:
        while not enough.wait(0.02):
            producer.produce(yours.stream.config.events_topic, b"{}")
            if producer.flush(5) == 0:
                begun.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert begun.wait(30)
    try:
        found = listed(code=3)
    finally:
        enough.set()
        thread.join()

    assert [writer for writer in names(found["writers"]) if yours.stream.config.events_topic in writer]


# The stack's own folder.


@pytest.fixture
def local(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a stack of which PostgreSQL alone is embedded; the settings of this process name it."""
    assert stack.is_up  # whose Kafka and MLflow are this one's
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
    """The stack in a folder, as the command finds it."""
    return Stack(local, services_only=True, usual_ports=ANY_FREE_PORTS, env_file=Path(os.devnull))


@pytest.mark.slow
def test_the_stacks_folder_goes_and_so_do_the_topics_that_its_database_knows(stack: Stack, local: Path) -> None:
    with stack_in(local) as running:
        assert running.embedded == {"postgres"}
        config = StreamConfig.from_settings(settings().with_servers(postgres=running.addresses["postgres"]))
        admin = AdminClient(config.kafka.client)
        created_topics.create_missing(admin, config)
        claim(str(local / "artifacts"))
        said = clean("--yes", stack.addresses["kafka"], code=3)
    (local / "theirs").write_text("x")

    assert "First: churn down" in said
    assert f"PostgreSQL (process {running_pid(said)})" in said
    found = listed()
    assert {f"topic {config.events_topic}", "postgres", "artifacts", "ports.json", MARKER} <= names(found["delete"])
    assert "theirs" in names(found["keep"])
    assert found["word"] == stack.addresses["kafka"]

    clean("--yes", found["word"])

    assert [path.name for path in local.iterdir()] == ["theirs"]
    assert config.events_topic not in admin.list_topics(timeout=10).topics
    assert listed()["delete"] == []


def running_pid(said: str) -> str:
    """The process that a refusal names."""
    return said.partition("(process ")[2].partition(")")[0]


@pytest.mark.slow
def test_a_folder_in_which_nothing_else_is_goes_itself_and_can_be_made_again(local: Path) -> None:
    with stack_in(local):
        pass
    clean("--yes", "local")
    assert not local.exists()

    with stack_in(local) as again:
        assert again.is_ready("postgres")


def test_a_folder_that_was_not_empty_is_not_ours(local: Path) -> None:
    (local / "logs").mkdir(parents=True)
    (local / "logs" / "theirs.log").write_text("x")

    found = listed()
    clean()

    assert found["delete"] == []
    assert any("'churn up' did not create it" in each["reason"] for each in found["keep"])
    assert (local / "logs" / "theirs.log").exists()


def test_a_folder_of_files_elsewhere_goes_where_it_bears_the_mark(
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
