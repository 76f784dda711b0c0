"""A second checkout with the Kafka, topics and group of the first: it is refused until it takes over."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import environments
from churn_platform.environments.exceptions import EnvironmentConflictError
from churn_platform.local.environment import ARTIFACTS_VARIABLE, EMBEDDED_MARKER
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.stream.streams import Stream
from churn_platform_tests.waiting import wait_until

runner = CliRunner(env={"COLUMNS": "200"})


def run(*arguments: str, code: int = 0, typed: str | None = None) -> str:
    """Run a command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, list(arguments), input=typed)
    assert outcome.exit_code == code, outcome.output
    return outcome.output


@pytest.fixture
def second_checkout(stack: Stack, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a stack with an embedded PostgreSQL; its other settings are those of the first stack."""
    assert stack.is_up
    assert stream.config.kafka.group
    with tempfile.TemporaryDirectory(prefix="churn-tests-") as folder:  # a short path, unlike pytest's own
        Path(folder).chmod(0o711)  # root's PostgreSQL runs as another user
        local = Path(folder) / "local"
        with monkeypatch.context() as changed:
            for name in (EMBEDDED_MARKER, "DATABASE_URL"):
                changed.delenv(name)
            changed.setenv("CHURN_LOCAL", str(local))
            changed.setenv(ARTIFACTS_VARIABLE, str(local / "artifacts"))
            forget_settings()
            yield local
            second_stack(local).stop()
        forget_settings()


def second_stack(local: Path, *, services_only: bool = True) -> Stack:
    """Return the stack of the second checkout."""
    return Stack(local, services_only=services_only, usual_ports=ANY_FREE_PORTS, env_file=Path(os.devnull))


@pytest.mark.slow
def test_a_second_checkout_is_refused_and_takes_over_by_its_own_command(stream: Stream, second_checkout: Path) -> None:
    stream.stream(idle_seconds=0.5)  # without events, so nothing was published yet
    first = environments.identify(stream.connection)

    with pytest.raises(EnvironmentConflictError, match=f"belongs to environment {first}"):
        second_stack(second_checkout, services_only=False).start()
    assert not second_stack(second_checkout).is_up
    assert "churn stream take-over" in run("up", "--services-only", code=ExitCode.IN_USE)

    run("stream", "take-over", "--json", code=ExitCode.USAGE)
    assert "nothing was changed" in run("stream", "take-over", code=ExitCode.CHECK_FAILED, typed="yes\n")
    stream.stream(idle_seconds=0.5)  # the first environment still owns the topic

    output = run("stream", "take-over", typed=f"{first}\n")

    assert f"'{stream.config.kafka.group}-0'" in output
    assert "Taken over" in output
    assert "nothing was changed" in run("stream", "take-over")
    with second_stack(second_checkout) as started:
        assert started.is_ready("postgres")
    with pytest.raises(EnvironmentConflictError, match=str(second_checkout)):
        stream.stream(idle_seconds=0.5)


def test_prepare_in_a_second_checkout_changes_nothing(
    stream: Stream, logins: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.stream(idle_seconds=0.5)
    config = stream.config
    monkeypatch.setenv("PREDICTIONS_TOPIC", config.predictions_topic)
    monkeypatch.setenv("STREAM_GROUP", config.kafka.group)
    forget_settings()

    output = run("prepare", "--logins", code=ExitCode.IN_USE)

    assert f"belongs to environment {environments.identify(stream.connection)}" in output
    assert "id none yet" in output
    assert os.environ["EVENTS_TOPIC"] not in stream.admin.list_topics(timeout=10).topics
    with psycopg.connect(logins["DATABASE_OWNER_URL"]) as owner:
        assert not environments.exists(owner)


def test_prepare_claims_the_topic_before_a_stream_runs(logins: dict[str, str], stream: Stream) -> None:
    del logins
    run("prepare")

    with pytest.raises(EnvironmentConflictError):
        stream.stream(idle_seconds=0.5, predictions_topic=os.environ["PREDICTIONS_TOPIC"])
    wait_until(lambda: os.environ["PREDICTIONS_TOPIC"] in stream.admin.list_topics(timeout=10).topics)
