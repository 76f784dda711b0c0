"""`churn data generate`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from churn_platform.commands.data import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.customers.generator import generate_customers, write_customers


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200"})


def test_it_writes_the_customers_of_the_seed(runner: CliRunner, tmp_path: Path) -> None:
    made, expected = tmp_path / "new folder" / "made.csv", tmp_path / "expected.csv"
    result = runner.invoke(app, ["generate", "--rows", "500", "--seed", "9", "--output", str(made)])
    write_customers(generate_customers(500, 9), expected)

    assert result.exit_code == 0
    assert f"CHURN_RAW_CSV={made}" in result.output
    assert made.read_bytes() == expected.read_bytes()


def test_a_file_that_cannot_be_written_is_named_with_the_way_out(runner: CliRunner, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    result = runner.invoke(app, ["generate", "--rows", "5", "--output", str(in_the_way / "customers.csv")])

    assert result.exit_code == ExitCode.FAILED
    assert f"{in_the_way / 'customers.csv'} cannot be written" in result.output
    assert "Name another file with --output" in result.output


def test_a_folder_as_output_is_refused(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["generate", "--output", str(tmp_path)])

    assert result.exit_code == 2
    assert f"--output {tmp_path / 'customers.csv'}" in result.output


def test_no_rows_are_refused(runner: CliRunner) -> None:
    assert runner.invoke(app, ["generate", "--rows", "0"]).exit_code == 2
