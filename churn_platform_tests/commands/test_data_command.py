"""`churn data generate`."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from churn_platform.commands.data import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.settings import PROJECT_ROOT

CHURN = Path(sys.executable).with_name("churn")


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200"})


def test_a_file_has_the_customers_of_its_seed(runner: CliRunner, tmp_path: Path) -> None:
    written, expected = tmp_path / "new folder" / "written.csv", tmp_path / "expected.csv"
    result = runner.invoke(app, ["generate", "--rows", "500", "--seed", "9", "--output", str(written)])
    write_customers(generate_customers(500, 9), expected)

    assert result.exit_code == 0
    assert f"CHURN_RAW_CSV={written}" in result.output
    assert written.read_bytes() == expected.read_bytes()


def test_a_file_that_cannot_be_written_is_reported_with_a_remedy(runner: CliRunner, tmp_path: Path) -> None:
    obstacle = tmp_path / "file"
    obstacle.touch()
    result = runner.invoke(app, ["generate", "--rows", "5", "--output", str(obstacle / "customers.csv")])

    assert result.exit_code == ExitCode.FAILED
    assert f"{obstacle / 'customers.csv'} cannot be written" in result.output
    assert "Name another file with --output" in result.output


def test_a_folder_as_output_is_refused(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["generate", "--output", str(tmp_path)])

    assert result.exit_code == 2
    assert f"--output {tmp_path / 'customers.csv'}" in result.output


def test_zero_rows_are_refused(runner: CliRunner) -> None:
    assert runner.invoke(app, ["generate", "--rows", "0"]).exit_code == 2


def test_an_existing_file_is_not_replaced_without_a_terminal(runner: CliRunner, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("mine")

    result = runner.invoke(app, ["generate", "--rows", "5", "--output", str(mine)])

    assert result.exit_code == ExitCode.FAILED
    assert f"{mine} already exists (4 bytes)" in result.output
    assert "--force" in result.output
    assert mine.read_text() == "mine"


def test_the_file_of_the_project_is_not_replaced_without_a_terminal() -> None:
    tracked = PROJECT_ROOT / "data" / "raw" / "ChurnModelling.csv"
    before = tracked.read_bytes()

    outcome = subprocess.run(
        [CHURN, "data", "generate", "--rows", "50"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )

    assert outcome.returncode == ExitCode.FAILED
    assert tracked.read_bytes() == before


def test_an_existing_file_is_replaced_with_force(runner: CliRunner, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("mine")

    result = runner.invoke(app, ["generate", "--rows", "5", "--output", str(mine), "--force"])

    assert result.exit_code == ExitCode.DONE
    assert len(mine.read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("answer", "code", "lines"), [(b"n\n", ExitCode.CHECK_FAILED, 1), (b"y\n", ExitCode.DONE, 6)], ids=["no", "yes"]
)
def test_on_a_terminal_it_asks_before_replacing(tmp_path: Path, answer: bytes, code: ExitCode, lines: int) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("mine")
    ours, theirs = pty.openpty()
    os.write(ours, answer)

    outcome = subprocess.run(
        [CHURN, "data", "generate", "--rows", "5", "--output", str(mine)],
        stdin=theirs,
        capture_output=True,
        check=False,
    )

    os.close(ours)
    os.close(theirs)
    assert outcome.returncode == code
    assert b"Replace it?" in outcome.stderr
    assert len(mine.read_text().splitlines()) == lines
