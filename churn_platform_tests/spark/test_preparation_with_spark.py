"""Customers that Spark prepares are those that this process prepares: files, fitted steps, metadata and checks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd
import psycopg
import pytest

from churn_platform.database import erased_customers
from churn_platform.definitions import build_defs
from churn_platform.files.artifacts import ASSETS, find_files, join, list_names, read_bytes, write_bytes
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.local.stack import Stack
from churn_platform.model_store import load_bundle
from churn_platform.orchestration.assets.preparation import preparation_assets
from churn_platform.orchestration.assets.raw import raw_assets
from churn_platform.orchestration.assets.spark_preparation import spark_preparation_assets
from churn_platform.orchestration.checks.preparation_checks import preparation_checks
from churn_platform.orchestration.io_managers.parquet import ParquetIOManager
from churn_platform.orchestration.jobs import data_preparation_job
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers
from churn_platform.schema.subscribers import generate_subscribers
from churn_platform.settings import MonitoringSettings, settings
from churn_platform.spark.preparation_engine import STAGING
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS
from churn_platform_tests.orchestration.assets.test_preparation_and_training import new_batch_side
from churn_platform_tests.spark.customers import bank_folder

pytestmark = [pytest.mark.spark, pytest.mark.timeout(1_200)]

ROWS = 6_000
PART_ROWS = 700
TABLES = (
    "raw_customers",
    "quarantined_customers",
    "cleaned_customers",
    "train_test_split",
    "imputed_features",
    "encoded_features",
    "binned_features",
    "scaled_features",
    "train_features",
    "test_features",
)
STEPS = ("feature_imputer", "feature_encoder", "feature_scaler")


@dataclass
class Prepared:
    """The result of a preparation: the folder or prefix of its assets, and what Dagster shows of it."""

    assets: str
    run: dg.ExecuteInProcessResult

    def frame(self, asset: str) -> pd.DataFrame:
        """Return the frame of an asset."""
        return StoredFrame(join(self.assets, f"{asset}.parquet"), objects=True).rows()

    def step(self, asset: str) -> bytes:
        """Return the file of a fitted step."""
        return read_bytes(join(self.assets, f"{asset}.json"))

    def metadata(self) -> dict[str, dict[str, str]]:
        """Return the metadata of each asset, without places and sizes of files."""
        return {
            event.asset_key.to_user_string(): {
                name: str(value.value)
                for name, value in event.materialization.metadata.items()
                if name not in ("dagster/uri", "file_size_bytes", "dagster/code_version")
            }
            for event in self.run.get_asset_materialization_events()
            if event.asset_key is not None
        }

    def checks(self) -> dict[str, tuple[bool, str | None]]:
        """Return whether each check passed, and its text."""
        return {
            f"{each.asset_key.to_user_string()} {each.check_name}": (each.passed, each.description)
            for each in self.run.get_asset_check_evaluations()
        }


def prepare(schema: CustomerSchema, artifacts: Path | str, *, spark: bool, raise_on_error: bool = True) -> Prepared:
    """Prepare the customers of the settings."""
    assets = spark_preparation_assets(schema) if spark else [*raw_assets(schema), *preparation_assets(schema)]
    definitions = dg.Definitions(
        assets=assets,
        asset_checks=preparation_checks(schema, MonitoringSettings(), stored=spark),
        jobs=[data_preparation_job],
        resources={"io_manager": ParquetIOManager(), "postgres": PostgresResource()},
    )
    with changed(CHURN_ARTIFACTS=str(artifacts)), dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def("data_preparation_job")
        run = job.execute_in_process(instance=instance, raise_on_error=raise_on_error)
    return Prepared(join(str(artifacts), ASSETS), run)


@contextmanager
def changed(**variables: str) -> Iterator[None]:
    """Change settings within the block."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        settings.cache_clear()
        yield
    settings.cache_clear()


def erase(*customers: int | str) -> None:
    """Put customers on the list of erased ones."""
    with psycopg.connect(settings().postgres_dsn) as connection:
        erased_customers.lock(connection)
        for each in customers:
            erased_customers.add(connection, each)


def assert_same(prepared: Prepared, expected: Prepared) -> None:
    """Check that both have the same files, metadata and checks."""
    for asset in TABLES:
        found, wanted = prepared.frame(asset), expected.frame(asset)
        pd.testing.assert_frame_equal(found, wanted, check_exact=True)
        assert found.attrs == wanted.attrs
    for step in STEPS:
        assert prepared.step(step) == expected.step(step)
    assert prepared.metadata() == expected.metadata()
    assert prepared.checks() == expected.checks()
    assert [name for name in list_names(prepared.assets) if name != STAGING] == list_names(expected.assets)
    assert list_names(join(prepared.assets, STAGING)) == []


@pytest.mark.usefixtures("platform")
def test_a_folder_with_every_kind_of_row_is_prepared_alike(tmp_path: Path) -> None:
    place = bank_folder(tmp_path / "customers", ROWS)
    with changed(CHURN_RAW_CSV=str(place), SPARK_PART_ROWS=str(PART_ROWS)):
        ids = pd.read_csv(place / "a.csv", on_bad_lines="skip")["CustomerId"]
        erase(int(ids[20]), int(ids[1_500]))
        expected = prepare(BANK, tmp_path / "python", spark=False, raise_on_error=False)
        found = prepare(BANK, tmp_path / "spark", spark=True, raise_on_error=False)

    assert_same(found, expected)
    assert len(StoredFrame(join(found.assets, "raw_customers.parquet")).group_rows) > ROWS // PART_ROWS
    assert len(found.frame("quarantined_customers")) > 5
    assert found.metadata()["raw_customers"]["duplicates"] == "4"


@pytest.mark.usefixtures("platform")
def test_subscribers_with_dates_and_texts_as_ids_are_prepared_alike(tmp_path: Path) -> None:
    file = tmp_path / "subscribers.csv"
    generate_subscribers(ROWS, 5).to_csv(file, index=False)
    with changed(CHURN_RAW_CSV=str(file), SPARK_PART_ROWS=str(PART_ROWS)):
        expected = prepare(SUBSCRIBERS, tmp_path / "python", spark=False)
        found = prepare(SUBSCRIBERS, tmp_path / "spark", spark=True)

    assert_same(found, expected)
    assert json.loads(found.step("feature_imputer"))["medians"]


@pytest.mark.usefixtures("platform")
def test_files_in_s3_are_prepared_alike(tmp_path: Path, s3_root: str) -> None:
    place = join(s3_root, "customers.csv")
    write_bytes(place, generate_customers(1_000, seed=6).to_csv(index=False).encode())
    with changed(CHURN_RAW_CSV=place, SPARK_PART_ROWS="300"):
        expected = prepare(BANK, tmp_path / "python", spark=False)
        found = prepare(BANK, s3_root, spark=True)

    assert_same(found, expected)


@pytest.mark.usefixtures("platform")
def test_what_is_wrong_with_the_file_is_the_error_of_the_run_and_no_part_is_left(tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    generate_customers(100, seed=5).drop(columns="Age").to_csv(file, index=False)

    with changed(CHURN_RAW_CSV=str(file)):
        prepared = prepare(BANK, tmp_path / "spark", spark=True, raise_on_error=False)

    assert not prepared.run.success
    (failed,) = prepared.run.get_step_failure_events()
    assert "lacks the column Age" in str(failed.step_failure_data.error)
    assert find_files(prepared.assets) == []


def test_a_retraining_by_spark_gives_the_model_of_one_without_it(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    customers = tmp_path_factory.mktemp("spark_training") / "customers.csv"
    generate_customers(2_000, seed=5).to_csv(customers, index=False)
    parts = []
    for engine in ("python", "spark"):
        name, folder = f"trained_by_{engine}", tmp_path_factory.mktemp(engine)
        with (
            new_batch_side(stack, name, BANK, folder=folder, customers=customers) as batch_side,
            changed(PREPARATION_ENGINE=engine, SPARK_PART_ROWS="300"),
        ):
            batch_side.definitions = build_defs(settings())
            batch_side.run("retraining_job")
            parts.append(dict(load_bundle(batch_side.champion().uri).to_parts()))

    assert parts[0] == parts[1]
