"""A logged model works with only its logged requirements installed, without the platform."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.cleaning import clean
from churn_platform.modeling.tracking import PACKAGE, copy_scoring_code, example_rows, log_model
from churn_platform.scoring.bundle import ModelBundle
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned, inputs
from churn_platform_tests.modeling.serving import served_model, served_scores
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle

UV = Path(sys.executable).with_name("uv")
CUSTOMERS = cleaned(200, seed=11)[list(BANK.feature_columns)]


@dataclass(frozen=True)
class LoggedModel:
    """The folder of a logged model, and the packages that it requires."""

    folder: Path

    @property
    def requirements(self) -> list[str]:
        return (self.folder / "requirements.txt").read_text().split()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggedModel]:
    """The small bundle, logged and registered in a new MLflow store."""
    with logged_model(small_bundle(), CUSTOMERS, tmp_path_factory.mktemp("mlflow")) as model:
        yield model


@contextmanager
def logged_model(bundle: ModelBundle, example: pd.DataFrame, folder: Path) -> Iterator[LoggedModel]:
    """Log and register a bundle in a new MLflow store below the folder."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        experiment = mlflow.create_experiment("logged", artifact_location=str(folder / "artifacts"))
        with mlflow.start_run(experiment_id=experiment):
            version = log_model(bundle, registered_as="logged", example=example, tags={"data_hash": "test"})
        uri = f"models:/logged/{version}"
        yield LoggedModel(Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder / "downloaded"))))
    finally:
        mlflow.set_tracking_uri(before)


def test_a_model_ships_scoring_code_and_nothing_else_of_the_platform(logged: LoggedModel) -> None:
    shipped = {str(file.relative_to(logged.folder / "code")) for file in (logged.folder / "code").rglob("*.py")}

    packages = {Path(file).parts[1] for file in shipped}
    assert packages == {"__init__.py", "errors.py", "features", "schema", "scoring"}
    assert {file for file in shipped if "/schema/" in file} == {
        f"{PACKAGE.name}/schema/__init__.py",
        f"{PACKAGE.name}/schema/columns.py",
        f"{PACKAGE.name}/schema/customer_schema.py",
    }


def test_a_model_of_another_schema_takes_rows_as_json_has_them(tmp_path: Path) -> None:
    import mlflow

    rows = clean(any_customers(SUBSCRIBERS, 300, seed=5), SUBSCRIBERS)
    bundle = bundle_of(rows, SUBSCRIBERS)

    with logged_model(bundle, rows, tmp_path) as logged:
        loaded = mlflow.pyfunc.load_model(str(logged.folder))
        example = json.loads((logged.folder / "serving_input_example.json").read_text())["dataframe_split"]

        sent = pd.DataFrame(example["data"], columns=example["columns"])
        scores = loaded.predict(sent)["probability"].to_numpy()

        of_no_customer = example_rows(rows, SUBSCRIBERS)
        np.testing.assert_array_equal(scores, bundle.score(inputs(of_no_customer, SUBSCRIBERS)))
        columns = list(SUBSCRIBERS.feature_columns)
        assert of_no_customer.merge(rows[columns], on=columns).empty
        optional = [column.name for column in loaded.metadata.signature.inputs if not column.required]
        assert optional == ["Discount"]
        assert len(loaded.predict(sent.drop(columns="Discount"))) == len(sent)


def test_all_requirements_are_pinned(logged: LoggedModel) -> None:
    assert {requirement.partition("==")[0] for requirement in logged.requirements} >= {"mlflow", "numpy", "pandas"}
    assert all("==" in requirement for requirement in logged.requirements)


def test_every_shipped_module_can_be_imported_without_the_rest(tmp_path: Path) -> None:
    package = copy_scoring_code(tmp_path)
    modules = [
        ".".join(file.relative_to(tmp_path).with_suffix("").parts).removesuffix(".__init__")
        for file in sorted(package.rglob("*.py"))
    ]
    script = f"""
import importlib, json, sys
sys.path.insert(0, {str(tmp_path)!r})
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps([module.__file__ for name, module in sys.modules.items() if name.startswith("churn_platform")]))
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)

    files = json.loads(done.stdout)
    assert len(files) == len(modules) > 10
    assert all(file.startswith(str(package)) for file in files)


@pytest.mark.slow
@pytest.mark.timeout(900)  # installs 640 MB, from the internet if uv has not cached them
def test_a_new_environment_with_the_logged_requirements_serves_the_scores_of_the_bundle(
    logged: LoggedModel, tmp_path: Path
) -> None:
    programs = tmp_path / "venv" / "bin"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for command in (
        ["venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")],
        ["pip", "install", "--quiet", "--python", str(programs / "python"), *logged.requirements],
    ):
        subprocess.run([str(UV), *command], env=environment, check=True)
    listed = subprocess.run(
        [str(UV), "pip", "freeze", "--python", str(programs / "python")], capture_output=True, text=True, check=True
    )
    assert not {"churn-platform", "dagster", "confluent-kafka", "psycopg", "polars"} & {
        line.partition("==")[0] for line in listed.stdout.split()
    }

    with served_model(str(logged.folder), programs=programs, environment={"PYTHONPATH": ""}) as client:
        scores = served_scores(client, CUSTOMERS)

    np.testing.assert_array_equal(scores, small_bundle().score(inputs(CUSTOMERS)))
