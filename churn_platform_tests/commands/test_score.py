"""`churn score` with the champion of a real database."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.schema.generator import generate_customers
from churn_platform_tests.commands.tree import KEYS
from churn_platform_tests.stream.streams import Stream

runner = CliRunner(env={"COLUMNS": "200"})


def run(*arguments: str | Path, code: int = 0, typed: str | None = None) -> str:
    """Run the command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, ["score", *map(str, arguments)], input=typed)
    assert outcome.exit_code == code, outcome.output
    return outcome.output


pytestmark = pytest.mark.usefixtures("stream")


@pytest.fixture
def customers(tmp_path: Path) -> Path:
    """A file of customers who can all be scored, without the target."""
    place = tmp_path / "customers.csv"
    generate_customers(500, 3).dropna(subset=["Gender"]).drop(columns="Exited").to_csv(place, index=False)
    return place


def test_every_customer_is_scored_by_the_champion(stream: Stream, customers: Path, tmp_path: Path) -> None:
    assert stream.value("select version from model_versions where promoted_at is not null") == 1
    place = tmp_path / "scores.csv"

    output = run(customers, "--output", place)

    rows = pd.read_csv(place)
    assert rows["CustomerId"].tolist() == pd.read_csv(customers)["CustomerId"].tolist()
    assert f"{len(rows):,} customers scored by model version 1" in output


def test_rejected_rows_end_the_command_with_1(customers: Path, tmp_path: Path) -> None:
    with customers.open("a") as file:
        file.write(customers.read_text().splitlines()[1].replace("Female", "?").replace("Male", "?") + "\n")

    output = run(customers, "--output", tmp_path / "scores.parquet", "--json", code=ExitCode.CHECK_FAILED)

    document, _, problem = output.partition("\n}\n")
    found = json.loads(document + "}")
    assert sorted(found) == sorted(KEYS["score"])
    assert found["rejected"] == 1
    assert (
        found["low"] + found["medium"] + found["high"]
        == found["customers"]
        == len(pd.read_parquet(tmp_path / "scores.parquet"))
    )
    assert "1 rows break a rule" in problem
    assert len(pd.read_csv(found["rejected_file"])) == 1


@pytest.mark.parametrize("name", ["scores.csv", "scores.csv.rejected.csv"])
def test_an_existing_file_is_replaced_only_with_force(name: str, customers: Path, tmp_path: Path) -> None:
    place, existing = tmp_path / "scores.csv", tmp_path / name
    existing.write_text("mine")

    assert f"{existing} already exists" in run(customers, "--output", place, code=ExitCode.FAILED)
    assert [file.read_text() for file in tmp_path.glob("scores*")] == ["mine"]
    run(customers, "--output", place, "--force")
    assert place.read_text().startswith("CustomerId,risk_score")
    assert (tmp_path / "scores.csv.rejected.csv").read_text().startswith("file,row")


def test_problems_are_explained(stream: Stream, customers: Path, tmp_path: Path) -> None:
    assert "no customers file" in run(tmp_path / "none.csv", code=ExitCode.FAILED)
    assert ".csv, .xlsx, .parquet" in run(customers, "--output", tmp_path / "scores.txt", code=ExitCode.FAILED)
    assert "is a folder" in run(customers, "--output", tmp_path, code=ExitCode.USAGE)
    stream.connection.execute("update model_versions set retired_at = now()")
    assert "No model has been promoted" in run(customers, "--output", tmp_path / "s.csv", code=ExitCode.FAILED)
