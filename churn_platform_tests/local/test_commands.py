"""`churn up`, `down`, `status`, `logs` and `db`, as a person or a script sees them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.local.stack import Stack

runner = CliRunner()


def test_status_as_json_has_each_server(stack: Stack) -> None:
    outcome = runner.invoke(app, ["status", "--json"])

    assert outcome.exit_code == 0, outcome.output
    states = {part["name"]: part["state"] for part in json.loads(outcome.stdout)["servers"]}
    assert states["kafka"] == states["postgres"] == states["mlflow"] == "ready"
    assert states["daemon"] == "stopped"
    assert stack.addresses["postgres"] not in outcome.stdout  # it holds the password


def test_up_reports_that_the_stack_is_already_up(stack: Stack) -> None:
    outcome = runner.invoke(app, ["up", "--services-only"])

    assert outcome.exit_code == 0, outcome.output
    assert "Already up" in outcome.stdout
    assert str(stack.local / "env") in outcome.stdout.replace("\n", "")


@pytest.mark.usefixtures("stack")
def test_logs_shows_the_end_of_a_log() -> None:
    outcome = runner.invoke(app, ["logs", "kafka", "--lines", "3"])

    assert outcome.exit_code == 0, outcome.output
    assert len(outcome.stdout.splitlines()) == 3


@pytest.mark.usefixtures("stack")
def test_an_unknown_part_is_rejected_with_a_list_of_the_parts() -> None:
    outcome = runner.invoke(app, ["logs", "zookeeper"])

    assert outcome.exit_code == ExitCode.USAGE
    assert "zookeeper" in outcome.stderr
    assert "kafka" in outcome.stderr


@pytest.mark.usefixtures("stack")
def test_the_schema_is_up_to_date_once_the_stack_is_up() -> None:
    outcome = runner.invoke(app, ["db", "upgrade"])

    assert outcome.exit_code == 0, outcome.output
    assert "Up to date" in outcome.stdout


def test_down_without_a_stack_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURN_LOCAL", str(tmp_path / "local"))

    outcome = runner.invoke(app, ["down"])

    assert outcome.exit_code == 0, outcome.output
    assert "Nothing was running" in outcome.stdout
