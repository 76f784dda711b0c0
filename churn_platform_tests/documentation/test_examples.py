"""On real servers, the commands of `console` blocks print the documented output. `make docs-examples` rewrites it."""

import itertools
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString, TypeVar
from urllib.parse import urlsplit

import psycopg
import pytest
from confluent_kafka import TopicPartition
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import model_versions
from churn_platform.environments import created_topics
from churn_platform.files.artifacts import claim, join, write_bytes
from churn_platform.local.environment import (
    ARTIFACTS_VARIABLE,
    EMBEDDED_MARKER,
    OWNER_VARIABLE,
    RETENTION_VARIABLE,
)
from churn_platform.local.stack import Stack
from churn_platform.monitoring import outcomes
from churn_platform.settings import PROJECT_ROOT, settings
from churn_platform.stream.config import StreamConfig
from churn_platform.worker.cases import CasesDuty
from churn_platform.worker.process import cases_config
from churn_platform_tests.conftest import copy_database, forget_settings
from churn_platform_tests.documentation.examples import Example, examples, name_of, renamed
from churn_platform_tests.documentation.pages import PAGES
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

Found = TypeVar("Found")
_numbers = itertools.count(1)
EVENTS, PREDICTIONS, OUTCOMES, GROUP = "customer-events", "churn-predictions", "customer-outcomes", "churn-platform"


@dataclass
class PagePlatform:
    """The platform that the commands of a page run on: the servers of the tests, with the default names."""

    stream: Stream
    stack: Stack
    template: str
    environment: pytest.MonkeyPatch
    names: dict[str, str] = field(default_factory=dict)  # name in this test -> name on the page

    def set(self, **variables: str) -> None:
        """Change settings."""
        for name, value in variables.items():
            self.environment.setenv(name, value)
        forget_settings()

    def send(self, *values: dict[str, object] | bytes) -> None:
        """Send events to partition 0."""
        self.stream.send(values, partition=0)

    def score(self) -> None:
        """Score all new events."""
        self.stream.stream(idle_seconds=0.5)

    def delete_records(self, topic: str, partition: int, offset: int) -> None:
        """Delete the records below an offset, as retention does."""
        for future in self.stream.admin.delete_records([TopicPartition(topic, partition, offset)]).values():
            future.result()


def _nothing(page_platform: PagePlatform) -> None:
    del page_platform


@dataclass(frozen=True)
class Scene:
    """The state in which the commands of a page run, and the answers to their prompts."""

    prepare: Callable[[PagePlatform], None] = _nothing
    before: Mapping[str, Callable[[PagePlatform], None]] = field(default_factory=dict)  # by the start of a command
    typed: Mapping[str, Callable[[PagePlatform], str]] = field(default_factory=dict)
    codes: Mapping[str, ExitCode] = field(default_factory=dict)


def _few_events(page_platform: PagePlatform) -> None:
    page_platform.send(*(event(number) for number in range(4)))
    page_platform.score()


def _lost_events(page_platform: PagePlatform) -> None:
    page_platform.send(*(event(number) for number in range(9)))
    page_platform.delete_records(EVENTS, 0, 9)


def _other_environment(page_platform: PagePlatform) -> None:
    """Publish with one database, then switch to another one."""
    page_platform.score()  # claims the topic without publishing: a take-over is refused for a minute after predictions
    first = page_platform.stream.config
    page_platform.names[f"{os.uname().nodename}:{page_platform.stack.local}"] = "laptop:/home/me/first/.local"
    other = copy_database(page_platform.stack, page_platform.template)
    page_platform.set(DATABASE_URL=other)
    assert other != first.dsn


def _publisher(page_platform: PagePlatform) -> str:
    """Return the id of the environment that publishes."""
    return str(page_platform.stream.value("select id from environment_identity"))


def _dead_letters(page_platform: PagePlatform) -> None:
    page_platform.send(event(1, Gender=None), event(2, Gender="female"), event(3, Age=17), b'{"CreditScore": 640')
    page_platform.score()


def _mixed_events(page_platform: PagePlatform) -> None:
    good = [event(number) for number in range(40)]
    page_platform.send(*good, event(41, Gender=None), event(42, Age=17), good[0])
    page_platform.score()


def _outcomes_file(page_platform: PagePlatform) -> None:
    del page_platform
    Path("outcomes.csv").write_text("CustomerId,true_churn_label\n15600001,1\n15600001,0\n15600001,1\n")


def _lost_outcomes(page_platform: PagePlatform) -> None:
    """Ingest the first file, send a second one, and delete a part of it as retention does."""
    outcomes.ingest(page_platform.stream.connection, page_platform.stream.admin, page_platform.stream.config, OUTCOMES)
    assert CliRunner().invoke(app, ["outcomes", "send", "--from", "outcomes.csv"]).exit_code == ExitCode.DONE
    page_platform.delete_records(OUTCOMES, 0, 5)


def _use_own_servers(page_platform: PagePlatform) -> None:
    """Name the servers in the settings, as for the user's own servers, and store a file."""
    _few_events(page_platform)
    sessions: LiteralString = (
        "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'churn%'"
    )
    wait_until(lambda: page_platform.stream.value(sessions) == 0)
    database = str(conninfo_to_dict(page_platform.stream.config.dsn)["dbname"])
    page_platform.environment.delenv(EMBEDDED_MARKER)
    addresses = {
        "DATABASE_URL": page_platform.stack.addresses["postgres"],
        OWNER_VARIABLE: page_platform.stack.owner_dsn,
    }
    root = str(Path("artifacts").resolve())
    page_platform.set(
        **{name: urlsplit(url)._replace(path=f"/{database}").geturl() for name, url in addresses.items()},
        **{ARTIFACTS_VARIABLE: root},
        CHURN_LOCAL=str(Path("local").resolve()),
    )
    claim(root)
    write_bytes(join(root, "models", "run", "model.ubj"), b"model")
    page_platform.names |= {
        f"{database}@127.0.0.1": "churn@db.example",
        settings().kafka.bootstrap_servers or "": "kafka.example:9092",
        str(Path.cwd()): "/srv/churn",
    }


def _cases(page_platform: PagePlatform) -> None:
    """Open cases for customers with the scores of the small model, as the worker does."""
    database = str(conninfo_to_dict(page_platform.stream.config.dsn)["dbname"])
    login = make_conninfo(page_platform.stack.environment[RETENTION_VARIABLE], dbname=database)
    page_platform.set(HIGH_RISK_THRESHOLD="0.5", CONTROL_SHARE="0", DATABASE_RETENTION_URL=login)
    page_platform.send(*(event(number) for number in range(60)))
    page_platform.stream.stream(idle_seconds=0.5, high_risk_threshold=0.5)
    CasesDuty(cases_config(settings())).run(page_platform.stream.connection)


SCENES: dict[str, Scene] = {
    "docs/how-to/call-customers.md": Scene(prepare=_cases),
    "docs/how-to/clean-up.md": Scene(prepare=_use_own_servers, typed={"churn clean": lambda _: "churn@db.example"}),
    "docs/how-to/correct-dead-letters.md": Scene(
        prepare=_dead_letters, codes={"churn dlq retry 0:2": ExitCode.CHECK_FAILED}
    ),
    "docs/how-to/operate-the-stream.md": Scene(
        prepare=_few_events,
        before={"churn stream reset": _lost_events},
        typed={"churn stream reset": lambda _: EVENTS},
    ),
    "docs/how-to/send-outcomes.md": Scene(
        prepare=lambda page_platform: page_platform.set(TOPIC_PARTITIONS="1"),
        before={"churn outcomes send": _outcomes_file, "churn outcomes reset": _lost_outcomes},
        typed={"churn outcomes reset": lambda _: OUTCOMES},
    ),
    "docs/how-to/take-over-an-environment.md": Scene(
        prepare=_other_environment, typed={"churn stream take-over": _publisher}
    ),
    "docs/how-to/use-your-customers.md": Scene(),
    "docs/how-to/verify-the-platform.md": Scene(prepare=_mixed_events),
    "docs/reference/cli-conventions.md": Scene(codes={"churn produce": ExitCode.FAILED}),
}


@pytest.fixture
def page_platform(
    stack: Stack,
    template_database: str,
    database: str,
    bundle_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[PagePlatform]:
    """A platform with a champion, empty topics with the default names, and a temporary working folder."""
    folder = tempfile.mkdtemp(prefix="docs-")  # a short path, so that it fits into the columns of tables
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DATABASE_URL", database)
    claims = f"claims-of-examples-{next(_numbers)}"
    monkeypatch.setenv("CLAIMS_TOPIC", claims)
    for name in ("EVENTS_TOPIC", "PREDICTIONS_TOPIC", "OUTCOMES_TOPIC", "STREAM_GROUP"):
        monkeypatch.delenv(name, raising=False)
    forget_settings()
    with psycopg.connect(database) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    with Stream(StreamConfig.from_settings(settings())) as stream:
        _delete_defaults(stream)
        created_topics.create_missing(stream.admin, stream.config)
        names = {f"/{conninfo_to_dict(database)['dbname']}": "/churn", claims: "churn-claims", folder: "/home/me"}
        yield PagePlatform(stream, stack, template_database, monkeypatch, names)
        _delete_defaults(stream)
    monkeypatch.undo()
    shutil.rmtree(folder)
    forget_settings()


def _delete_defaults(stream: Stream) -> None:
    """Delete the topics and the group with the default names, so that the next page starts without them."""

    def existing() -> set[str]:
        return {EVENTS, PREDICTIONS, OUTCOMES} & stream.admin.list_topics(timeout=10).topics.keys()

    for future in stream.admin.delete_topics(sorted(existing())).values() if existing() else ():
        future.result()
    wait_until(lambda: not existing())
    listed = stream.admin.list_consumer_groups().result().valid
    if GROUP in {group.group_id for group in listed}:
        stream.admin.delete_consumer_groups([GROUP])[GROUP].result()


def _find(values: Mapping[str, Found], command: str) -> Found | None:
    return next((value for start, value in values.items() if command.startswith(start)), None)


def _printed(page_platform: PagePlatform, scene: Scene, command: str) -> list[str]:
    """Run a command and return the lines that it prints, with the names of the page."""
    typed, code = _find(scene.typed, command), _find(scene.codes, command)
    back = {written: actual for actual, written in page_platform.names.items()}
    answer = renamed(typed(page_platform), back) + "\n" if typed else None
    words = shlex.split(command)
    assert words[0] == "churn"
    outcome = CliRunner(env={"COLUMNS": "160"}).invoke(app, words[1:], input=answer)
    assert outcome.exit_code == (code or ExitCode.DONE), outcome.output
    return [line.rstrip() for line in renamed(outcome.output, page_platform.names).strip().splitlines()]


def test_every_page_with_output_has_a_scene() -> None:
    assert {name_of(page) for page in PAGES if list(examples(page))} == SCENES.keys()


@pytest.mark.slow  # with the servers to itself, because the output would include topics of other tests
@pytest.mark.parametrize("page", SCENES)
def test_commands_print_what_the_page_shows(
    page: str, page_platform: PagePlatform, request: pytest.FixtureRequest
) -> None:
    rewrite, scene, path = request.config.getoption("--rewrite-docs"), SCENES[page], PROJECT_ROOT / page
    stale: list[tuple[Example, Example]] = []
    scene.prepare(page_platform)
    for example in examples(path):
        (_find(scene.before, example.command) or _nothing)(page_platform)
        printed = _printed(page_platform, scene, example.command)
        if not example.matches(printed):
            stale.append((example, example.updated(printed)))
    if rewrite:
        text = path.read_text()
        for old, new in stale:
            text = text.replace(old.block, new.block)
        path.write_text(text)
    else:
        assert [(old.block, new.block) for old, new in stale] == [], f"{page} is out of date: run 'make docs-examples'"
