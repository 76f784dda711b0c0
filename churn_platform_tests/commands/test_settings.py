"""`churn settings`: its output is the committed reference, and it never shows a secret."""

import json
import re
from pathlib import Path

import pytest
from dotenv import dotenv_values
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.settings import as_env_file, reference
from churn_platform.commands.terminal import ExitCode
from churn_platform.settings import PROJECT_ROOT, Settings, SettingsError, descriptions, load_settings
from churn_platform.stream.config import StreamConfig

SECRET = "s3cret"  # noqa: S105  used by no server


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Run the command on a wide terminal, so that no value is wrapped, and without addresses of servers."""
    for variable in ("DATABASE_URL", "DATABASE_OWNER_URL", "KAFKA_BOOTSTRAP_SERVERS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    return CliRunner()


@pytest.mark.parametrize(("form", "file"), [("markdown", "docs/reference/settings.md"), ("env", ".env.example")])
def test_the_committed_reference_is_the_output_of_the_command(runner: CliRunner, form: str, file: str) -> None:
    outcome = runner.invoke(app, ["settings", "--format", form])

    assert outcome.exit_code == 0, outcome.output
    committed = (PROJECT_ROOT / file).read_text()
    assert outcome.stdout == committed, f"Write it again: churn settings --format {form} > {file}"


def test_the_env_file_with_every_line_uncommented_sets_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(re.sub(r"^#(?=[A-Z])", "", as_env_file(reference()), flags=re.MULTILINE))

    variables = {name: value for name, value in dotenv_values(file).items() if value}

    assert variables.keys() > {"BATCH_SECONDS", "EVENTS_TOPIC"}
    assert Settings.from_variables(variables) == Settings()


def test_the_reference_does_not_depend_on_the_environment(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    before = runner.invoke(app, ["settings", "--format", "env"]).stdout
    monkeypatch.setenv("BATCH_SECONDS", "7")

    assert runner.invoke(app, ["settings", "--format", "env"]).stdout == before


@pytest.mark.parametrize("form", ["markdown", "env"])
def test_the_reference_names_no_path_of_this_machine(runner: CliRunner, form: str) -> None:
    printed = runner.invoke(app, ["settings", "--format", form]).stdout

    assert str(PROJECT_ROOT) not in printed
    assert str(Path.home()) not in printed


def test_every_setting_has_a_titled_group_and_a_description() -> None:
    assert all(setting.group and setting.description for setting in reference())


def test_json_has_value_and_default_of_every_setting(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SECONDS", "7")

    found = {each["variable"]: each for each in json.loads(runner.invoke(app, ["settings", "--json"]).stdout)}

    assert found.keys() == {each.variable for each in descriptions()}
    assert (found["BATCH_SECONDS"]["value"], found["BATCH_SECONDS"]["default"]) == (7, 300)


@pytest.mark.parametrize("arguments", [["settings"], ["settings", "--json"]])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", f"postgresql://anna:{SECRET}@db.example:5432/churn"),
        ("DATABASE_URL", f"postgresql://anna:a@{SECRET}@db.example:5432/churn"),
        ("DATABASE_URL", f"postgresql://anna:a/{SECRET}@db.example:5432/churn"),
        ("DATABASE_URL", f"postgresql://db.example/churn?user=anna&password={SECRET}"),
        ("DATABASE_URL", f"host=db.example user=anna password={SECRET}"),
        ("DATABASE_URL", SECRET),
        ("DATABASE_OWNER_URL", f"postgresql://anna:{SECRET}@db.example:5432/churn"),
        ("KAFKA_SASL_PASSWORD", SECRET),
        ("KAFKA_SASL_PASSWORD", f"user={SECRET}"),
        ("MLFLOW_TRACKING_URI", f"https://anna:{SECRET}@mlflow.example"),
        ("CHURN_ARTIFACTS", f"s3://key:{SECRET}@bucket/churn"),
    ],
)
def test_no_secret_is_printed(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    outcome = runner.invoke(app, arguments)

    assert outcome.exit_code == 0, outcome.output
    assert "***" in outcome.output
    assert SECRET not in outcome.output


@pytest.mark.parametrize("arguments", [["status"], ["down"], ["db", "upgrade"]])
@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        f"postgresql://anna:a@{SECRET}@db.example:5432/churn",
        f"postgresql://anna:a/{SECRET}@db.example:5432/churn",
        f"postgresql://anna:a?{SECRET}@db.example:5432/churn",
        f"postgresql://anna:a#{SECRET}@db.example:5432/churn",
        f"postgresql://anna:%{SECRET}@db.example:5432/churn",
        f"postgresql://anna:{SECRET}@[::1/churn",
        f"postgresql://db.example:{SECRET}/churn",
        f"host=db.example password='{SECRET}",
    ],
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_OWNER_URL"])
def test_a_connection_string_that_cannot_be_read_is_refused_and_not_shown(
    runner: CliRunner,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv("CHURN_LOCAL", str(tmp_path / "local"))
    monkeypatch.setenv("DATABASE_URL", "postgresql://anna@db.example/churn")
    monkeypatch.setenv(variable, value)

    outcome = runner.invoke(app, arguments)

    assert outcome.exit_code == ExitCode.FAILED
    assert f"{variable} is not a connection string" in outcome.stderr
    assert SECRET not in outcome.output


def test_a_run_refuses_a_connection_string_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://anna:a@{SECRET}@db.example:5432/churn")

    with pytest.raises(SettingsError, match="percent-encoded") as refusal:
        StreamConfig.from_settings(load_settings().with_servers(kafka="kafka:9092"))

    assert SECRET not in str(refusal.getrepr(style="long", showlocals=False))


def test_the_address_of_a_database_is_shown(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://anna:{SECRET}@db.example:5433/churn")

    outcome = runner.invoke(app, ["settings"])

    assert "host=db.example port=5433 dbname=churn user=anna password=***" in outcome.stdout


def test_an_invalid_value_is_reported_with_a_remedy(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SECONDS", "soon")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "TLS")

    outcome = runner.invoke(app, ["settings"])

    assert outcome.exit_code == ExitCode.FAILED
    assert "BATCH_SECONDS: Input should be a valid number" in outcome.stderr
    assert "KAFKA_SECURITY_PROTOCOL: Input should be 'PLAINTEXT'" in outcome.stderr
    assert "churn settings --format markdown" in outcome.stderr


def test_an_unknown_name_is_refused_with_the_nearest_setting(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_SECOND", "5")

    outcome = runner.invoke(app, ["settings"])

    assert outcome.exit_code == ExitCode.FAILED
    assert "BATCH_SECOND in the environment is not a setting. Did you mean BATCH_SECONDS?" in outcome.stderr
    assert "env -u NAME churn" in outcome.stderr


def test_json_cannot_be_combined_with_another_format(runner: CliRunner) -> None:
    assert runner.invoke(app, ["settings", "--json", "--format", "env"]).exit_code == 2
