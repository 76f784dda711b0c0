"""Commands that launch or show runs, without a Dagster. Those with one are in end_to_end/test_jobs.py."""

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.local.ports import HOST
from churn_platform_tests.conftest import forget_settings

NOBODY = f"http://{HOST}:1"
runner = CliRunner(env={"COLUMNS": "400"})


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings that name a web server that is not there."""
    monkeypatch.setenv("DAGSTER_URL", NOBODY)
    forget_settings()
    yield
    monkeypatch.undo()
    forget_settings()


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("words", [["data", "prepare"], ["model", "train", "--json"], ["logs", "--run", "1f2e"]])
def test_without_dagster_the_error_names_its_address_and_what_to_do(words: list[str]) -> None:
    outcome = runner.invoke(app, words)

    assert outcome.exit_code == ExitCode.FAILED, outcome.output
    assert outcome.stdout == ""
    problem, remedy = outcome.stderr.splitlines()
    assert problem.startswith(f"Dagster's web server at {NOBODY} does not answer")
    assert remedy == "Start it with 'churn up', or set DAGSTER_URL to the address of yours."


def test_a_part_and_a_run_cannot_be_combined() -> None:
    outcome = runner.invoke(app, ["logs", "daemon", "--run", "1f2e"])

    assert outcome.exit_code == ExitCode.USAGE
    assert "cannot be combined" in outcome.stderr
