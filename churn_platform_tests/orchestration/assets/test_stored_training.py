"""A training that reads rows and features from disk in parts gives the model, and the decision, of one in memory."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from churn_platform.files.parquet import read_parquet, write_frames
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.local.stack import Stack
from churn_platform.model_store import load_bundle
from churn_platform.modeling.out_of_fold import OutOfFold
from churn_platform.orchestration.assets.preparation import preparation_assets
from churn_platform.orchestration.assets.raw import raw_assets
from churn_platform.orchestration.assets.training import training_assets
from churn_platform.orchestration.checks.preparation_checks import preparation_checks
from churn_platform.orchestration.io_managers.parquet import ParquetIOManager
from churn_platform.orchestration.jobs import data_preparation_job, training_job
from churn_platform.orchestration.resources.mlflow import MlflowRegistry, mlflow_run
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.settings import MonitoringSettings, settings
from churn_platform_tests.features.customers import BANK
from churn_platform_tests.orchestration.assets.test_preparation_and_training import (
    BatchSide,
    metadata,
    new_batch_side,
)

ROWS = 1_500
GROUP_ROWS = 170
READ_BY_TRAINING = ("train_test_split", "train_features", "test_features")
TIMES_AND_PLACES = (
    "training_time_seconds",
    "champion_since",
    "mlflow_run",
    "mlflow_version",
    "bundle",
    "dagster/uri",
    "file_size_bytes",
)


def definitions(*, stored: bool) -> dg.Definitions:
    """Return the preparation, and a training that reads frames at once or in parts."""
    return dg.Definitions(
        assets=[*raw_assets(BANK), *preparation_assets(BANK), *training_assets(BANK, stored=stored)],
        asset_checks=preparation_checks(BANK, MonitoringSettings(), stored=stored),
        jobs=[data_preparation_job, training_job],
        resources={
            "io_manager": ParquetIOManager(),
            "postgres": PostgresResource(),
            "mlflow": mlflow_run,
            "mlflow_registry": MlflowRegistry(),
        },
    )


@dataclass
class Trained:
    """What two trainings have given: the second one has a champion to compare with."""

    parts: list[dict[str, bytes]]
    records: list[OutOfFold]
    shown: list[dict[str, str]]


def train(batch_side: BatchSide, *, stored: bool) -> Trained:
    """Train twice on the same rows."""
    batch_side.definitions = definitions(stored=False)
    batch_side.run("data_preparation_job")
    for asset in READ_BY_TRAINING:
        in_small_groups(Path(settings().platform.artifacts_root, "assets", f"{asset}.parquet"))
    batch_side.definitions = definitions(stored=stored)
    trained = Trained([], [], [])
    for _ in range(2):
        result = batch_side.run("training_job")
        uri = str(metadata(result, "churn_model")["bundle"])
        trained.parts.append(dict(load_bundle(uri).to_parts()))
        trained.records.append(OutOfFold.load(uri))
        trained.shown.append(
            {
                f"{asset} {name}": str(each)
                for asset in ("churn_model", "model_evaluation", "champion_model")
                for name, each in metadata(result, asset).items()
                if name not in TIMES_AND_PLACES
            }
        )
    return trained


def in_small_groups(path: Path) -> None:
    """Write the file of an asset again, with few rows in each row group."""
    with path.open("rb") as file:
        frame = read_parquet(file, categorical=True)
    with path.open("wb") as file:
        blocks = (frame.iloc[start : start + GROUP_ROWS] for start in range(0, len(frame), GROUP_ROWS))
        write_frames(blocks, file, {str(name): value for name, value in frame.attrs.items()})
    assert len(StoredFrame(str(path)).group_rows) == -(-len(frame) // GROUP_ROWS)


@pytest.fixture(scope="module")
def trained(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Trained]:
    """Trainings in memory, and of stored rows, of the same customers."""
    customers = tmp_path_factory.mktemp("stored_training") / "customers.csv"
    write_customers(generate_customers(ROWS, seed=5), customers)
    found = {}
    for stored in (False, True):
        folder = tmp_path_factory.mktemp(f"stored_{stored}")
        name = f"stored_training_{stored}".lower()
        with new_batch_side(stack, name, BANK, folder=folder, customers=customers) as batch_side:
            found[stored] = train(batch_side, stored=stored)
    return found


def test_the_bundles_have_the_same_bytes(trained: dict[bool, Trained]) -> None:
    assert trained[True].parts == trained[False].parts


def test_the_probabilities_out_of_fold_are_the_same(trained: dict[bool, Trained]) -> None:
    for found, expected in zip(trained[True].records, trained[False].records, strict=True):
        assert (found.keys == expected.keys).all()
        assert (found.probabilities == expected.probabilities).all()


def test_metrics_comparisons_and_decisions_are_the_same(trained: dict[bool, Trained]) -> None:
    for found, expected in zip(trained[True].shown, trained[False].shown, strict=True):
        assert {name: text for name, text in found.items() if expected.get(name) != text} == {}
        assert found.keys() == expected.keys()


def test_the_checks_of_a_stored_file_find_what_those_of_a_frame_find(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stored_checks")
    customers = folder / "customers.csv"
    write_customers(generate_customers(ROWS, seed=6), customers)
    with new_batch_side(stack, "stored_checks", BANK, folder=folder, customers=customers) as batch_side:
        results = []
        for stored in (False, True):
            batch_side.definitions = definitions(stored=stored)
            evaluations = batch_side.run("data_preparation_job").get_asset_check_evaluations()
            results.append({(each.asset_key, each.check_name): (each.passed, each.description) for each in evaluations})

    assert results[0] == results[1]
    assert len(results[1]) == 23
