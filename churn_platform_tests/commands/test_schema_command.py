"""`churn schema` and `churn init`."""

import json
import shlex
from pathlib import Path

import pytest
from dotenv import dotenv_values
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.schema.toml_file import customers_file, load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.commands.tree import KEYS
from churn_platform_tests.schema.files import HEADER, bank_row
from churn_platform_tests.schema.files import customers_file as write_lines

BANK = PROJECT_ROOT / "data/bank/schema.toml"
SUBSCRIBERS = PROJECT_ROOT / "data/subscribers/schema.toml"
DATA_SETS = pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS], ids=["bank", "subscribers"])


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "300"})


@DATA_SETS
def test_a_draft_passes_the_check_with_the_file_that_it_was_made_from(
    runner: CliRunner, tmp_path: Path, schema: Path
) -> None:
    file, draft = customers_file(schema), tmp_path / "schema.toml"
    inferred = runner.invoke(app, ["schema", "infer", file])
    draft.write_text(inferred.stdout, encoding="utf-8")
    checked = runner.invoke(app, ["schema", "check", file, "--schema", str(draft)])

    assert (inferred.exit_code, checked.exit_code) == (0, 0)
    assert "is valid" in checked.stdout
    assert "0 quarantined" in checked.stdout


@DATA_SETS
def test_a_schema_is_shown_with_all_columns_and_features(runner: CliRunner, schema: Path) -> None:
    shown = runner.invoke(app, ["schema", "show", "--schema", str(schema)])
    found = json.loads(runner.invoke(app, ["schema", "show", "--schema", str(schema), "--json"]).stdout)

    known = load_schema(schema)
    assert all(name in shown.stdout for name in (*known.names, *known.feature_names))
    assert [column["name"] for column in found["columns"]] == list(known.names)
    assert found["fingerprint"] == known.fingerprint
    assert list(found) == KEYS["schema show"]


def test_the_schema_of_the_settings_is_the_default(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURN_SCHEMA", str(SUBSCRIBERS))

    found = json.loads(runner.invoke(app, ["schema", "check", "--json"]).stdout)

    assert found["data_set"] == "subscribers"
    assert list(found) == KEYS["schema check"][:5]


def test_a_file_with_too_many_quarantined_rows_fails_the_check_with_their_reasons(
    runner: CliRunner, tmp_path: Path
) -> None:
    rows = [bank_row(number) for number in range(20)]
    file = write_lines(tmp_path, HEADER, *rows, rows[0], bank_row(90, Age="7"), bank_row(91, Age="8", Tenure=""))
    arguments = ["schema", "check", str(file), "--schema", str(BANK)]
    checked = runner.invoke(app, arguments)
    found = json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)

    assert checked.exit_code == ExitCode.CHECK_FAILED
    assert "23 rows: 20 customers, of whom 100.0% left, 2 quarantined, 1 duplicates." in checked.stdout
    assert "  2: Age is out of range: expected a number from 18 to 120 years, or empty" in checked.stdout
    assert "8.70% of the rows" in checked.stderr
    assert list(found) == KEYS["schema check"]
    assert (found["quarantined"], found["duplicates"], found["passed"]) == (2, 1, False)
    assert list(found["reasons"].values()) == [2, 1]


def test_an_invalid_schema_fails_the_check_and_a_missing_one_cannot_be_checked(
    runner: CliRunner, tmp_path: Path
) -> None:
    (tmp_path / "schema.toml").write_text(BANK.read_text().replace('kind = "flag"', 'kind = "switch"', 1))
    invalid = runner.invoke(app, ["schema", "check", "--schema", str(tmp_path / "schema.toml")])
    missing = runner.invoke(app, ["schema", "check", "--schema", str(tmp_path / "absent.toml")])
    no_file = runner.invoke(app, ["schema", "check", str(tmp_path / "absent.csv"), "--schema", str(BANK)])

    assert invalid.exit_code == ExitCode.CHECK_FAILED
    assert "columns.HasCrCard.kind: is 'switch'" in invalid.stderr
    assert (missing.exit_code, no_file.exit_code) == (ExitCode.FAILED, ExitCode.FAILED)


def test_a_new_folder_has_a_valid_schema_settings_that_name_it_and_a_readme(runner: CliRunner, tmp_path: Path) -> None:
    folder = tmp_path / "my shop"
    made = runner.invoke(app, ["init", str(folder), "--json"])

    assert json.loads(made.stdout) == {"folder": str(folder), "files": ["schema.toml", ".env", "README.md"]}
    assert list(json.loads(made.stdout)) == KEYS["init"]
    settings = dotenv_values(folder / ".env")
    assert settings == {"CHURN_SCHEMA": str(folder / "schema.toml"), "CHURN_LOCAL": str(folder / ".local")}
    assert len(load_schema(folder / "schema.toml").features) > 3
    assert shlex.quote(str(folder / ".env")) in (folder / "README.md").read_text()


def test_a_new_folder_for_a_customers_file_has_its_schema(runner: CliRunner, tmp_path: Path) -> None:
    file = customers_file(SUBSCRIBERS)
    made = runner.invoke(app, ["init", str(tmp_path / "new"), "--from", file])

    assert made.exit_code == 0
    assert load_schema(tmp_path / "new" / "schema.toml").target == "Churn"
    assert customers_file(tmp_path / "new" / "schema.toml") == file


def test_no_existing_file_is_changed(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    made = runner.invoke(app, ["init", str(tmp_path)])

    assert made.exit_code == ExitCode.FAILED
    assert "already has README.md" in made.stderr
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("README.md", "mine")]


def test_options_for_a_draft_need_a_file(runner: CliRunner, tmp_path: Path) -> None:
    assert runner.invoke(app, ["init", str(tmp_path / "new"), "--target", "x"]).exit_code == ExitCode.USAGE
    assert not (tmp_path / "new").exists()
