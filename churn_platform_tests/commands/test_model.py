"""`churn model` on real servers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import challengers, model_versions
from churn_platform.files.artifacts import join, write_bytes
from churn_platform.files.parquet import to_parquet
from churn_platform.model_store import save_bundle
from churn_platform.modeling.out_of_fold import OutOfFold
from churn_platform.modeling.splitting import TRAIN, rows_of, with_split
from churn_platform.modeling.training import Hyperparameters
from churn_platform.orchestration.resources.mlflow import MlflowRegistry
from churn_platform.settings import settings
from churn_platform_tests.commands.tree import KEYS
from churn_platform_tests.features.customers import BANK, cleaned, inputs
from churn_platform_tests.scoring.bundles import FEW_TREES, small_bundle

runner = CliRunner()
MODEL = "model_commands"


@dataclass
class Registry:
    """Three versions in model_versions and MLflow: 1 poor, 2 and 3 alike and better; no champion."""

    dsn: str

    def champion(self) -> int | None:
        """Return the champion according to model_versions."""
        with psycopg.connect(self.dsn) as connection:
            champion = model_versions.champion(connection)
        return None if champion is None else champion.version

    def alias(self) -> int:
        """Return the champion according to MLflow's alias."""
        return int(MlflowRegistry().client().get_registered_model(MODEL).aliases["champion"])


@pytest.fixture
def registry(platform: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """Create a database, a folder and a registered model for one test."""
    monkeypatch.setenv("CHURN_ARTIFACTS", str(tmp_path))
    monkeypatch.setenv("MLFLOW_MODEL", MODEL)
    monkeypatch.setenv("COLUMNS", "200")  # so that each row of the table is one line
    settings.cache_clear()
    split = with_split(cleaned(1_500), BANK)
    write_bytes(join(settings().platform.artifacts_root, "assets", "train_test_split.parquet"), to_parquet(split))
    rows, client = rows_of(split, TRAIN), MlflowRegistry().client()
    client.create_registered_model(MODEL)
    poor = Hyperparameters(trees=1, max_depth=1)
    with psycopg.connect(platform) as connection:
        for version, hyperparameters in enumerate((poor, FEW_TREES, FEW_TREES), 1):
            bundle, uri = small_bundle(hyperparameters), str(tmp_path / str(version))
            save_bundle(bundle, uri)
            OutOfFold.of(rows, bundle.score(inputs(rows)), BANK).save(uri)
            client.create_model_version(MODEL, f"s3://models/{version}", f"run {version}")  # nothing is read from there
            metrics = {"oof_roc_auc": 0.8 + version / 100, "threshold": 0.3}
            model_versions.register(connection, version=version, uri=uri, run_id=f"run {version}", metrics=metrics)
    yield Registry(platform)
    client.delete_registered_model(MODEL)


def run(*arguments: str, code: ExitCode = ExitCode.DONE) -> str:
    """Run a command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, ["model", *arguments])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def run_json(*arguments: str) -> dict[str, Any]:
    """Run a command with --json; return its JSON, which must have the documented keys."""
    found: dict[str, Any] = json.loads(runner.invoke(app, ["model", *arguments, "--json"]).stdout)
    assert list(found) == KEYS[f"model {arguments[0]}"]
    return found


def test_versions_are_promoted_listed_and_rolled_back(registry: Registry) -> None:
    run("promote", "1")
    assert "the stream scores with it from its next commit" in run("promote", "3", "--reason", "better").lower()
    assert (registry.champion(), registry.alias()) == (3, 3)

    listed = run("list")
    as_json = run_json("list")["versions"]

    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        ["3", "champion"],
        ["2", "never"],
        ["1", "retired"],
    ]
    assert "0.8300" in listed
    # TTY_COMPATIBLE: the output is a terminal for Rich, which gives a pipe more columns than this
    narrow = runner.invoke(app, ["model", "list"], env={"COLUMNS": "80", "TTY_COMPATIBLE": "1"}).stdout
    assert "0.8300" in narrow
    assert "threshold" not in narrow
    assert "too narrow for all metrics" in narrow
    assert "…" not in narrow
    assert (as_json[0]["version"], as_json[0]["state"]) == (3, "champion")
    assert "Version 1 is champion again instead of 3" in run("rollback", "--reason", "too many calls")
    assert (registry.champion(), registry.alias()) == (1, 1)
    assert "no champion before version 1" in run("rollback", code=ExitCode.FAILED)
    assert "already champion" in run("promote", "1")
    assert "version 9 is not in model_versions" in run("promote", "9", code=ExitCode.FAILED).replace("\n", " ")


def test_versions_are_compared_on_the_same_rows(registry: Registry) -> None:
    assert "no champion to compare with" in run("compare", "2", code=ExitCode.FAILED)
    run("promote", "1")

    better, equal = run("compare", "2"), run("compare", "3", "2")
    found = run_json("compare", "2")

    assert better.index("the gain is significant") < better.index("roc_auc"), "the verdict is first"
    assert "Not promoted: the gain is not significant" in equal
    assert found["gain"]["low"] > 0
    assert registry.champion() == 1, "comparing changes nothing"


def test_a_version_is_tried_as_a_shadow_and_as_a_canary(registry: Registry) -> None:
    assert "There is no champion" in run("shadow", "2", code=ExitCode.FAILED)
    run("promote", "1")

    assert "Version 2 is a shadow for 0.2 of the customers" in run("shadow", "2", "--share", "0.2")
    assert "Version 3 is a canary for 0.1 of the customers" in run("canary", "3")
    states = {each["version"]: each["state"] for each in run_json("list")["versions"]}
    compared = run_json("compare", "2")
    stopped = run("shadow", "--stop"), run("canary", "--stop")

    assert states == {1: "champion", 2: "shadow (0.2)", 3: "canary (0.1)"}
    assert compared["shadow"] is None, "it has scored nothing yet"
    assert "Version 2 is no shadow any more" in stopped[0]
    assert "Version 3 is no canary any more" in stopped[1]
    assert "There is no canary" in run("canary", "--stop", code=ExitCode.FAILED)
    assert "Expected a version" in run("shadow", code=ExitCode.USAGE)
    assert "Expected a version" in run("canary", "3", "--share", "0", code=ExitCode.USAGE)
    run("canary", "3")
    with psycopg.connect(registry.dsn) as connection:
        canary = challengers.active(connection, "canary")
        assert canary is not None
        challengers.end(connection, canary, by="rollback", reason="It failed to score 9 of its 100 events.")
    assert "The canary, version 3, was rolled back" in run("list")
    assert registry.champion() == 1


def test_a_promotion_is_refused_before_the_version_was_a_shadow_for_shadow_days(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHADOW_DAYS", "3")
    settings.cache_clear()
    run("promote", "1")

    refused = run("promote", "2", code=ExitCode.FAILED)
    run("shadow", "2")
    with psycopg.connect(registry.dsn) as connection:
        connection.execute(
            "update challengers set events = 1200, started_at = now() - interval '36 hours', followed_at = now()"
        )
    halfway = run("promote", "2", code=ExitCode.FAILED)
    with psycopg.connect(registry.dsn) as connection:
        connection.execute("update challengers set started_at = now() - interval '73 hours'")
    promoted = run("promote", "2")

    assert "It was a shadow for 0.00 of the 3 days that SHADOW_DAYS requires, and has scored no event" in refused
    assert "1.50 of the 3 days that SHADOW_DAYS requires, and has scored 1,200 events. It is a shadow now." in halfway
    assert "Version 2 is champion now" in promoted
    assert "is champion again" in run("rollback"), "a rollback needs no shadow"
    assert "Version 3 is champion now" in run("promote", "3", "--skip-shadow")


@pytest.mark.usefixtures("registry")
def test_without_mlflow_the_table_is_changed_and_the_alias_moves_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings.cache_clear()

    output = run("promote", "2")

    assert "Version 2 is champion now" in output
    assert "the next training moves it" in output
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.usefixtures("platform")
def test_without_versions_the_list_explains_how_to_train_one() -> None:
    assert "No model has been trained yet" in run("list")
