"""The code location as a server loads it."""

import re
import subprocess
import sys
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from churn_platform.definitions import build_defs, defs
from churn_platform.orchestration.io_managers.parquet import ParquetIOManager
from churn_platform.settings import (
    PROJECT_ROOT,
    DagsterSettings,
    MonitoringSettings,
    PlatformSettings,
    ScheduleSettings,
    Settings,
    StreamSettings,
)

BATCH_SIDE = {
    "raw_customers",
    "quarantined_customers",
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
MONITORING = {
    "customer_outcomes",
    "drift_hourly",
    "drift_daily",
    "live_performance",
    "monitoring_report",
    "shadow_comparison",
}
EXTERNAL = {
    "customers_file",
    "registered_model",
    "customer_events",
    "churn_predictions_topic",
    "dead_letter_events",
    "high_risk_customers",
    "customer_outcomes_topic",
}
RETENTION = {"retention_cases", "call_list", "alert_outbox", "operator_conditions"}
SCORING = {"customer_file_scores", "retention_effect", "labelled_customers"}
ALL = BATCH_SIDE | STREAM | MONITORING | EXTERNAL | RETENTION | SCORING
# Fitted steps, a model and the champion. They are not tables, so they have no columns.
NOT_TABLES = {
    "feature_imputer",
    "feature_encoder",
    "feature_scaler",
    "churn_model",
    "model_evaluation",
    "champion_model",
    "registered_model",
    "monitoring_report",
    "shadow_comparison",
}
SLOW = ("mlflow", "sklearn", "xgboost", "dagster_mlflow")
# Imports every module in an environment that records which of our modules read it. Prints the number of modules, and
# those that read it.
IMPORT_EVERYTHING = """
import importlib, os, pkgutil, sys

READS_SETTINGS = ("churn_platform.definitions",)
except_for = READS_SETTINGS
readers = set()

class Watched(type(os.environ)):
    def record(self):
        frame = sys._getframe(2)
        while frame.f_globals.get("__name__") in ("os", "_collections_abc", "collections.abc"):
            frame = frame.f_back
        name = frame.f_globals.get("__name__", "")
        if name.split(".")[0] == "churn_platform":
            readers.add(name)

    def __getitem__(self, key):
        self.record()
        return super().__getitem__(key)

    def __iter__(self):
        self.record()
        return super().__iter__()

os.environ.__class__ = Watched
import churn_platform

names = [module.name for module in pkgutil.walk_packages(churn_platform.__path__, "churn_platform.")]
names = [name for name in names if name not in except_for]
for name in names:
    importlib.import_module(name)
print(len(names))
print(sorted(readers))
"""


def test_it_loads_in_a_fresh_interpreter_without_what_is_slow_to_import() -> None:
    program = (
        "import sys; from churn_platform.definitions import defs; defs.resolve_all_asset_keys(); "
        f"print([name for name in {SLOW!r} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_asset_is_defined() -> None:
    assert {key.to_user_string() for key in defs.resolve_all_asset_keys()} == ALL


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_asset_has_a_description_a_group_and_an_owner(name: str) -> None:
    node = defs.resolve_asset_graph().get(dg.AssetKey(name))

    assert node.description
    assert node.group_name in {"raw", "preparation", "training", "predictions", "metrics", "monitoring", "retention"}
    assert node.kinds
    assert node.owners
    assert all(owner.startswith("team:") for owner in node.owners)
    assert node.is_executable == (name not in EXTERNAL | RETENTION)


def test_the_steps_of_every_job_run_in_the_process_of_the_run() -> None:
    repository = defs.get_repository_def()

    assert {job.executor_def.name for job in repository.get_all_jobs()} == {"in_process"}


def test_cases_come_from_the_scores_that_may_open_them() -> None:
    parents = defs.resolve_asset_graph().get(dg.AssetKey("retention_cases")).parent_keys

    assert {key.to_user_string() for key in parents} == {
        "churn_predictions",
        "high_risk_customers",
        "customer_file_scores",
    }


@pytest.fixture(scope="module", params=["bank", "subscribers"])
def graph(request: pytest.FixtureRequest) -> AssetGraph:
    """The assets of each data set."""
    if request.param == "bank":
        return defs.resolve_asset_graph()
    schema = PROJECT_ROOT / "data" / request.param / "schema.toml"
    return build_defs(Settings(platform=PlatformSettings(customer_schema=schema))).resolve_asset_graph()


def test_every_data_set_has_the_same_assets(graph: AssetGraph) -> None:
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == ALL


@pytest.mark.parametrize("name", sorted(ALL - NOT_TABLES))
def test_a_table_describes_its_columns(name: str, graph: AssetGraph) -> None:
    schema = _columns(graph, name)

    assert schema.columns
    assert all(column.type and column.description for column in schema.columns)


@pytest.mark.parametrize("name", sorted(ALL - NOT_TABLES))
def test_a_column_comes_from_a_column_that_an_asset_upstream_has(name: str, graph: AssetGraph) -> None:
    lineage = graph.get(dg.AssetKey(name)).metadata["dagster/column_lineage"]

    assert lineage.deps_by_column.keys() <= {column.name for column in _columns(graph, name).columns}
    for dependencies in lineage.deps_by_column.values():
        for each in dependencies:
            assert each.asset_key in graph.get(dg.AssetKey(name)).parent_keys
            upstream = _columns(graph, each.asset_key.to_user_string())
            assert each.column_name in {column.name for column in upstream.columns}


@pytest.mark.parametrize("name", sorted((BATCH_SIDE | STREAM) - NOT_TABLES))
def test_every_feature_of_our_tables_can_be_traced_to_the_file_or_the_topic(name: str, graph: AssetGraph) -> None:
    names = ("age", "avg_age", "balance", "monthlycharge", "monthly_charge", "avg_monthly_charge")
    columns = [column.name for column in _columns(graph, name).columns if column.name.lower() in names]

    for column in columns:
        assert _trace(graph, name, column) & {"customers_file", "customer_events"}


def _columns(graph: AssetGraph, asset: str) -> dg.TableSchema:
    schema = graph.get(dg.AssetKey(asset)).metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    return schema


def _trace(graph: AssetGraph, asset: str, column: str) -> set[str]:
    """Return the assets at the start of a column's lineage."""
    metadata = graph.get(dg.AssetKey(asset)).metadata
    dependencies = metadata["dagster/column_lineage"].deps_by_column.get(column, [])
    if not dependencies:
        return {asset}
    return set().union(*(_trace(graph, each.asset_key.to_user_string(), each.column_name) for each in dependencies))


def test_links_in_descriptions_lead_to_existing_assets() -> None:
    graph = defs.resolve_asset_graph()
    texts = [graph.get(key).description or "" for key in graph.get_all_asset_keys()]
    linked = {name for text in texts for name in re.findall(r"\]\(/assets/(\w+)\)", text)}

    assert len(linked) > 5
    assert linked <= {key.to_user_string() for key in graph.get_all_asset_keys()}


@pytest.mark.parametrize(
    "name", sorted(STREAM | MONITORING - {"customer_outcomes"} | {"raw_customers", "champion_model"})
)
def test_assets_that_should_be_fresh_have_a_freshness_policy(name: str) -> None:
    assert defs.resolve_asset_graph().get(dg.AssetKey(name)).freshness_policy is not None


def test_an_asset_links_to_its_code() -> None:
    def reference(**links: str) -> object:
        found = build_defs(Settings(dagster=DagsterSettings.model_validate(links)))
        metadata = found.resolve_asset_graph().get(dg.AssetKey("raw_customers")).metadata
        return metadata["dagster/code_references"].code_references[0]

    local = reference()
    linked = reference(code_url="https://github.com/somebody/churn/", code_branch="v1")

    assert isinstance(local, dg.LocalFileCodeReference)
    assert local.file_path == str(PROJECT_ROOT / "churn_platform/orchestration/assets/raw.py")
    assert isinstance(linked, dg.UrlCodeReference)
    path = "churn_platform/orchestration/assets/raw.py"
    assert linked.url.startswith(f"https://github.com/somebody/churn/tree/v1/{path}#L")


def test_definitions_follow_the_settings_that_they_are_built_with() -> None:
    epoch = datetime(2026, 5, 1, tzinfo=UTC)
    built = build_defs(
        Settings(
            stream=StreamSettings(epoch=epoch),
            schedules=ScheduleSettings(training_cron="5 5 * * *"),
            monitoring=MonitoringSettings(drift_shifted=0.17),
        )
    )
    graph = built.resolve_asset_graph()

    for name in ("churn_metrics_hourly", "churn_metrics_daily", "drift_hourly", "drift_daily", "live_performance"):
        partitions = graph.get(dg.AssetKey(name)).partitions_def
        assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
        assert partitions.start == epoch
    schedule = built.resolve_schedule_def("training_schedule")
    assert schedule.cron_schedule == "5 5 * * *"
    described = {spec.name: spec.description or "" for spec in built.resolve_assets_def("drift_hourly").check_specs}
    assert "from a PSI of 0.17" in described["drift_Age"]


@pytest.mark.slow
def test_importing_a_module_reads_nothing_from_the_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stderr
    count, readers = done.stdout.splitlines()
    assert int(count) > 150
    assert readers == "[]"


@pytest.mark.slow
def test_only_the_definitions_read_the_environment() -> None:
    program = IMPORT_EVERYTHING.replace("except_for = READS_SETTINGS", "except_for = ()")

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)

    assert "churn_platform.settings" in done.stdout.splitlines()[1]


def test_schedules_and_sensors_are_defined_and_batch_schedules_are_off_by_default() -> None:
    repository = defs.get_repository_def()

    assert {(s.name, s.cron_schedule, s.default_status) for s in repository.schedule_defs} == {
        ("data_preparation_schedule", "0 2 * * *", dg.DefaultScheduleStatus.STOPPED),
        ("training_schedule", "30 2 * * *", dg.DefaultScheduleStatus.STOPPED),
        ("customer_scoring_schedule", "0 3 * * *", dg.DefaultScheduleStatus.STOPPED),
        ("retention_effect_schedule", "41 4 * * *", dg.DefaultScheduleStatus.RUNNING),
        ("shadow_comparison_schedule", "47 4 * * *", dg.DefaultScheduleStatus.RUNNING),
        ("maintenance_schedule", "23 * * * *", dg.DefaultScheduleStatus.RUNNING),
    }
    assert {sensor.name: sensor.default_status for sensor in repository.sensor_defs} == {
        "customer_events_sensor": dg.DefaultSensorStatus.RUNNING,
        "customers_sensor": dg.DefaultSensorStatus.STOPPED,
        "dirty_hours_sensor": dg.DefaultSensorStatus.RUNNING,
        "monitoring_sensor": dg.DefaultSensorStatus.RUNNING,
        "retraining_sensor": dg.DefaultSensorStatus.STOPPED,
        "worker_sensor": dg.DefaultSensorStatus.RUNNING,
    }
    assert all(sensor.description for sensor in repository.sensor_defs)


def test_a_resource_can_be_swapped() -> None:
    memory = ParquetIOManager(root="/elsewhere")

    swapped = build_defs(Settings(), resource_overrides={"io_manager": memory})

    assert swapped.resources is not None
    assert swapped.resources["io_manager"] is memory
