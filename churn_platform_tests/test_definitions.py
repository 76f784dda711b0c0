"""The code location as a server loads it."""

import subprocess
import sys

import dagster as dg
import pytest

from churn_platform.definitions import build_defs, defs
from churn_platform.storage.parquet_io_manager import ParquetIOManager

BATCH_SIDE = {
    "raw_customers",
    "cleaned_customers",
    "train_test_split",
    "feature_imputer",
    "feature_encoder",
    "feature_scaler",
    "imputed_features",
    "encoded_features",
    "binned_features",
    "scaled_features",
    "train_features",
    "test_features",
    "churn_model",
    "model_evaluation",
    "champion_model",
}
STREAM = {"churn_predictions", "churn_metrics_hourly", "churn_metrics_daily"}
EXTERNAL = {"customer_events", "churn_predictions_topic", "dead_letter_events", "high_risk_customers"}
SLOW = ("mlflow", "sklearn", "xgboost", "dagster_mlflow")


def test_it_loads_in_a_fresh_interpreter_without_what_is_slow_to_import() -> None:
    program = (
        "import sys; from churn_platform.definitions import defs; defs.resolve_all_asset_keys(); "
        f"print([name for name in {SLOW!r} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_asset_is_there() -> None:
    assert {key.to_user_string() for key in defs.resolve_all_asset_keys()} == BATCH_SIDE | STREAM | EXTERNAL


@pytest.mark.parametrize("name", sorted(BATCH_SIDE | STREAM | EXTERNAL))
def test_an_asset_says_what_it_is_and_whose(name: str) -> None:
    node = defs.resolve_asset_graph().get(dg.AssetKey(name))

    assert node.description
    assert node.group_name in {"raw", "preparation", "training", "predictions", "metrics"}
    assert node.kinds
    assert node.owners
    assert all(owner.startswith("team:") for owner in node.owners)
    assert node.is_executable == (name not in EXTERNAL)


@pytest.mark.parametrize("name", sorted(STREAM | {"raw_customers", "cleaned_customers", "train_features"}))
def test_a_table_says_what_its_columns_mean(name: str) -> None:
    schema = defs.resolve_asset_graph().get(dg.AssetKey(name)).metadata["dagster/column_schema"]

    assert isinstance(schema, dg.TableSchema)
    assert schema.columns
    assert all(column.description for column in schema.columns)


def test_automation_is_there_and_schedules_of_the_batch_side_are_off_until_turned_on() -> None:
    repository = defs.get_repository_def()

    assert {(s.name, s.cron_schedule, s.default_status) for s in repository.schedule_defs} == {
        ("data_preparation_schedule", "*/20 * * * *", dg.DefaultScheduleStatus.STOPPED),
        ("training_schedule", "0 * * * *", dg.DefaultScheduleStatus.STOPPED),
        ("maintenance_schedule", "23 * * * *", dg.DefaultScheduleStatus.RUNNING),
    }
    assert {sensor.name: sensor.default_status for sensor in repository.sensor_defs} == {
        "customer_events_sensor": dg.DefaultSensorStatus.RUNNING,
        "dirty_hours_sensor": dg.DefaultSensorStatus.RUNNING,
    }
    assert all(sensor.description for sensor in repository.sensor_defs)


def test_a_resource_can_be_swapped() -> None:
    memory = ParquetIOManager(root="/elsewhere")

    swapped = build_defs(resource_overrides={"io_manager": memory})

    assert swapped.resources is not None
    assert swapped.resources["io_manager"] is memory
