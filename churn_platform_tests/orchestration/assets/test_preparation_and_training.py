"""From the customers file to the champion, through Dagster, on real PostgreSQL and MLflow servers."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg.conninfo import make_conninfo

from churn_platform.database import erased_customers, model_evaluations, model_versions
from churn_platform.database.migrations import upgrade
from churn_platform.files.parquet import from_parquet
from churn_platform.local.stack import Stack
from churn_platform.model_store import load_bundle
from churn_platform.modeling.file_attributes import FILE_HASH
from churn_platform.modeling.splitting import TEST, TRAIN, rows_of
from churn_platform.monitoring import lookups
from churn_platform.monitoring.drift import Reference
from churn_platform.orchestration.assets.preparation import preparation_assets
from churn_platform.orchestration.assets.raw import raw_assets
from churn_platform.orchestration.assets.training import training_assets
from churn_platform.orchestration.checks.preparation_checks import preparation_checks
from churn_platform.orchestration.io_managers.parquet import OBJECTS, MissingAssetFileError, ParquetIOManager
from churn_platform.orchestration.jobs import data_preparation_job, training_job
from churn_platform.orchestration.resources.mlflow import MlflowError, MlflowRegistry, mlflow_run
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.schedules import training_schedules
from churn_platform.schema.current import customers_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.schema.reader import fingerprint, load_customers
from churn_platform.settings import PROJECT_ROOT, MonitoringSettings, ScheduleSettings, settings
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, inputs
from churn_platform_tests.modeling.serving import served_model, served_scores


def definitions(schema: CustomerSchema) -> dg.Definitions:
    """Return the part of the code location that prepares and trains."""
    return dg.Definitions(
        assets=[*raw_assets(schema), *preparation_assets(schema), *training_assets(schema)],
        asset_checks=preparation_checks(schema, MonitoringSettings()),
        jobs=[data_preparation_job, training_job],
        schedules=training_schedules(ScheduleSettings()),
        resources={
            "io_manager": ParquetIOManager(),
            "postgres": PostgresResource(),
            "mlflow": mlflow_run,
            "mlflow_registry": MlflowRegistry(),
        },
    )


MODEL = "batch_side_test"  # its own registered model and database, because other tests have champions too
ROWS = 1_500
# The charts and tables that docs/explanation/model.md lists.
CURVES = {"roc", "precision_recall", "reliability", "gain"}
TABLES = {  # name in Dagster -> in evaluation/tables.json
    "confusion": "confusion",
    "lift": "lift",
    "slices": "slices",
    "baselines": "baselines",
    "contributions": "contributions",
    "permutation_importance": "permutation",
}


@dataclass
class BatchSide:
    """The preparation and training of customers, on an instance."""

    instance: dg.DagsterInstance
    definitions: dg.Definitions

    def run(self, job: str, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        """Run a job of the code location in this process."""
        definition = self.definitions.resolve_job_def(job)
        return definition.execute_in_process(instance=self.instance, raise_on_error=raise_on_error)

    def train(self) -> dict[str, object]:
        """Run the training job and return the metadata of champion_model."""
        return metadata(self.run("training_job"), "champion_model")

    def champion(self) -> model_versions.ModelVersion:
        """Return the champion of model_versions."""
        with psycopg.connect(settings().postgres_dsn) as connection:
            champion = model_versions.champion(connection)
        assert champion is not None
        return champion

    def value(self, asset: str) -> pd.DataFrame:
        """Return the stored frame of an asset."""
        return pd.read_parquet(f"{settings().platform.artifacts_root}/assets/{asset}.parquet")


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    """Return the metadata of an asset that a run materialized."""
    events = [event for event in result.get_asset_materialization_events() if event.asset_key == dg.AssetKey(asset)]
    return {name: entry.value for name, entry in events[-1].materialization.metadata.items()}


@pytest.fixture(scope="module")
def batch_side(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchSide]:
    """Prepared data of generated customers and one trained model, in its own database and folder."""
    folder = tmp_path_factory.mktemp("batch_side")
    write_customers(generate_customers(ROWS, seed=5), folder / "customers.csv")
    with new_batch_side(stack, MODEL, BANK, folder=folder, customers=folder / "customers.csv") as batch_side:
        batch_side.run("data_preparation_job")
        batch_side.train()
        yield batch_side


@contextmanager
def new_batch_side(
    stack: Stack, name: str, schema: CustomerSchema, *, folder: Path, customers: Path
) -> Iterator[BatchSide]:
    """Set up a data set in a database and a registered model of this name."""
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    database = make_conninfo(stack.addresses["postgres"], dbname=name)
    upgrade(make_conninfo(stack.owner_dsn, dbname=name), schema)
    with pytest.MonkeyPatch.context() as environment, dg.DagsterInstance.ephemeral() as instance:
        environment.setenv("CHURN_RAW_CSV", str(customers))
        environment.setenv("CHURN_ARTIFACTS", str(folder / "artifacts"))
        environment.setenv("DATABASE_URL", database)
        environment.setenv("MLFLOW_MODEL", name)
        environment.setenv("MLFLOW_EXPERIMENT", name)
        settings.cache_clear()
        yield BatchSide(instance, definitions(schema))
    settings.cache_clear()


def test_preparation_gives_fourteen_features_in_order_and_every_check_passes(batch_side: BatchSide) -> None:
    result = batch_side.run("data_preparation_job")

    cleaned, train, test = (batch_side.value(name) for name in ("cleaned_customers", "train_features", "test_features"))
    known_gender = load_customers(customers_of(settings()), BANK).customers["Gender"].notna()
    assert len(cleaned) == known_gender.sum() < ROWS
    assert len(train) + len(test) == len(cleaned)
    assert tuple(train.columns) == tuple(test.columns) == (*BANK.feature_names, "Exited")
    evaluations = result.get_asset_check_evaluations()
    assert len(evaluations) == 23
    assert all(evaluation.passed for evaluation in evaluations)


def test_stored_features_equal_those_that_the_bundle_makes_of_raw_rows(batch_side: BatchSide) -> None:
    split = batch_side.value("train_test_split")
    rows = split[split["split"] == "test"]

    made = load_bundle(batch_side.champion().uri).transform.transform(inputs(rows))

    stored = batch_side.value("test_features")[[*BANK.feature_names]].to_numpy(np.float32)
    np.testing.assert_array_equal(made, stored)


def test_mlflow_has_the_parameters_metrics_tags_rows_and_importances_of_the_run(batch_side: BatchSide) -> None:
    import mlflow

    mlflow.set_tracking_uri(settings().tracking_uri)
    run = mlflow.get_run(batch_side.champion().run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params["max_depth"] == "3"
    assert set(run.data.metrics) >= {"accuracy", "precision", "recall", "f1", "roc_auc", "brier", "oof_roc_auc"}
    assert run.data.metrics["training_time_seconds"] > 0
    assert set(run.data.tags) >= {"dagster_run_id", "git_commit", "data_hash"}
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.name == "training_split"
    importances = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/feature_importances.json")
    assert set(importances) == set(BANK.feature_names)
    reference = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/reference.json")
    with psycopg.connect(settings().postgres_dsn) as connection:
        kept = lookups.references(connection, [batch_side.champion().version])
    assert list(kept.values()) == [Reference.from_json(reference)]
    assert sum(reference["Age"]["counts"]) == len(rows_of(batch_side.value("train_test_split"), TRAIN))


def test_charts_and_tables_of_an_evaluation_are_in_dagster_mlflow_and_the_database(batch_side: BatchSide) -> None:
    import mlflow

    evaluated = batch_side.instance.get_latest_materialization_event(dg.AssetKey("model_evaluation"))
    assert evaluated is not None
    assert evaluated.asset_materialization is not None
    in_ui = evaluated.asset_materialization.metadata
    with psycopg.connect(settings().postgres_dsn) as connection:
        version = model_versions.get(connection, int(str(in_ui["version"].value)))
        stored = model_evaluations.find(connection, version.version)
    run_id = version.run_id
    client = MlflowRegistry().client()
    mlflow.set_tracking_uri(settings().tracking_uri)
    files = {file.path for file in client.list_artifacts(run_id, "evaluation")}
    kept = mlflow.artifacts.load_dict(f"{client.get_run(run_id).info.artifact_uri}/evaluation/tables.json")

    assert stored == kept
    assert {"roc_auc", "pr_auc", "oof_pr_auc", "threshold"} <= set(version.metrics)
    assert set(kept["curves"]) == CURVES
    for name in CURVES:
        assert "data:image/svg+xml" in str(in_ui[name].value)
        assert f"evaluation/{name}.svg" in files
    for in_dagster, in_mlflow in TABLES.items():
        table = in_ui[in_dagster]
        assert isinstance(table, dg.TableMetadataValue)
        assert len(table.records) == len(kept[in_mlflow]) > 0
    assert len(kept["baselines"]) == 3
    assert set(kept["contributions"]) == set(kept["permutation"]) == set(BANK.feature_columns)
    assert all(each["roc_auc_low"] <= each["roc_auc"] <= each["roc_auc_high"] for each in kept["slices"])


def test_the_registered_model_has_exactly_the_scores_of_the_bundle(batch_side: BatchSide) -> None:
    import mlflow

    mlflow.set_tracking_uri(settings().tracking_uri)
    champion = batch_side.champion()
    raw_rows = batch_side.value("cleaned_customers").head(200)

    model = mlflow.pyfunc.load_model(f"models:/{MODEL}/{champion.version}")
    scored = model.predict(raw_rows)

    bundle = load_bundle(champion.uri)
    np.testing.assert_array_equal(scored["probability"].to_numpy(), bundle.score(inputs(raw_rows)))
    assert scored["prediction"].tolist() == (scored["probability"] >= bundle.threshold).astype(int).tolist()
    assert model.metadata.get_input_schema().input_names()[:2] == ["CreditScore", "Age"]
    assert model.metadata.metadata["columns"]["Age"] == "a number from 18 to 120 years, or null"
    assert model.input_example is not None


def test_the_registered_model_scores_common_dtypes_and_rejects_what_the_stream_rejects(
    batch_side: BatchSide,
) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(settings().tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}/{batch_side.champion().version}")
    read = pd.read_csv(customers_of(settings())).dropna(subset=["Gender", "Age"]).head(50)
    expected = model.predict(read)["probability"].tolist()

    for frame in (
        read.astype({"Age": "int64"}),
        read.convert_dtypes(),
        read.astype({"CreditScore": "float64", "HasCrCard": "bool"}),
        read.astype({"Geography": "category", "Gender": "category"}),
    ):
        assert model.predict(frame)["probability"].tolist() == expected
    event = {"CreditScore": 545, "Geography": "Spain", "Gender": "Female", "Age": 26, "Tenure": 4, "Balance": 0}
    event |= {"NumOfProducts": 2, "HasCrCard": True, "IsActiveMember": 1, "EstimatedSalary": 166_761}
    assert len(model.predict(pd.DataFrame([event]))) == 1
    for wrong in ({"Age": 500}, {"Balance": float("inf")}, {"Geography": "Italy"}, {"CreditScore": 545.5}):
        with pytest.raises(MlflowException, match=f"{next(iter(wrong))} is wrong in 1 of 1 rows"):
            model.predict(pd.DataFrame([{**event, **wrong}]))


@pytest.mark.slow
def test_mlflow_serves_the_registered_model_with_the_scores_of_the_bundle(batch_side: BatchSide) -> None:
    champion = batch_side.champion()
    raw_rows = batch_side.value("cleaned_customers").head(50)[list(BANK.feature_columns)]
    with served_model(
        f"models:/{MODEL}/{champion.version}",
        programs=Path(sys.executable).parent,
        environment={"MLFLOW_TRACKING_URI": settings().tracking_uri},
    ) as client:
        scores = served_scores(client, raw_rows)
        event = json.loads(raw_rows.head(1).assign(Age=41, Balance=0).to_json(orient="records"))[0]
        answers = [
            client.post("/invocations", json={"dataframe_records": [{**event, **change}]})
            for change in ({}, {"CreditScore": 545.0, "HasCrCard": True}, {"Age": 500}, {"Geography": "Italy"})
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 400, 400]
    assert "Age is wrong in 1 of 1 rows (500 in row 0)" in answers[2].json()["message"]
    np.testing.assert_array_equal(scores, load_bundle(champion.uri).score(inputs(raw_rows)))


@pytest.mark.slow
def test_an_equally_good_model_is_not_promoted(batch_side: BatchSide) -> None:
    former = batch_side.champion()

    decided = batch_side.train()

    assert batch_side.champion() == former, "the same rows train the same model"
    assert (decided["promoted"], decided["challenger_version"]) == (False, former.version + 1)
    assert "gain of +0.0000" in str(decided["reason"])
    assert "the gain is not significant" in str(decided["reason"])
    assert aliases() == {"champion": former.version, "challenger": former.version + 1}


def test_a_model_of_shuffled_labels_is_not_promoted_and_the_reason_is_given(
    batch_side: BatchSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    from churn_platform.modeling import training as fitting

    former = batch_side.champion()
    train = fitting.train

    def on_shuffled_labels(
        features: NDArray[np.float32], churned: NDArray[np.int64], *arguments: Any, **options: Any
    ) -> fitting.TrainingResult:
        return train(features, np.random.default_rng(1).permutation(churned), *arguments, **options)

    # A fault in the training: no setting and no file gives a bad model of good data.
    monkeypatch.setattr(fitting, "train", on_shuffled_labels)
    decided = batch_side.train()

    assert batch_side.champion() == former
    assert decided["promoted"] is False
    assert f"Version {former.version} stays champion" in str(decided["reason"])
    rejected = MlflowRegistry().client().get_model_version(MODEL, str(decided["challenger_version"]))
    assert rejected.tags["decision"] == "rejected"
    assert rejected.tags["decision_reason"] == decided["reason"]


@pytest.mark.slow
def test_a_better_model_is_promoted_and_the_alias_follows(
    batch_side: BatchSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    from churn_platform.modeling import training as fitting

    with monkeypatch.context() as poorer:
        # A poor champion of good data, which no setting gives.
        poorer.setattr(fitting, "Hyperparameters", partial(fitting.Hyperparameters, trees=1, max_depth=1))
        poor = batch_side.train()["challenger_version"]
    assert isinstance(poor, int)
    with psycopg.connect(settings().postgres_dsn) as connection:
        promoted = model_versions.promote(connection, poor)
    MlflowRegistry().follow_champion(poor, promoted.run_id)

    decided = batch_side.train()

    champion = batch_side.champion()
    assert champion.version == decided["champion_version"] == poor + 1
    assert decided["promoted"] is True
    assert "the gain is significant" in str(decided["reason"])
    assert aliases() == {"champion": champion.version}


def test_training_reads_no_row_of_the_test_split(batch_side: BatchSide) -> None:
    before = batch_side.champion()
    split, features = batch_side.value("train_test_split"), batch_side.value("test_features")
    garbled = split.copy()
    is_test = garbled["split"] == "test"
    garbled.loc[is_test, "Exited"] = 1 - garbled.loc[is_test, "Exited"]
    garbled.loc[is_test, ["Age", "Balance", "CreditScore"]] = 0
    try:
        garbled.to_parquet(f"{settings().platform.artifacts_root}/assets/train_test_split.parquet")
        (features * 0).to_parquet(f"{settings().platform.artifacts_root}/assets/test_features.parquet")
        result = batch_side.run("training_job", raise_on_error=False)
    finally:
        split.to_parquet(f"{settings().platform.artifacts_root}/assets/train_test_split.parquet")
        features.to_parquet(f"{settings().platform.artifacts_root}/assets/test_features.parquet")

    made = load_bundle(str(metadata(result, "churn_model")["bundle"]))
    assert made == load_bundle(before.uri)
    assert not result.success, "model_evaluation reads the test split, and fails on the garbled rows"


@pytest.mark.slow
def test_a_model_has_the_file_hash_of_its_rows_and_not_of_newer_data(
    batch_side: BatchSide,
) -> None:
    newer = dg.AssetMaterialization("train_test_split", metadata={FILE_HASH: "of another file"})
    batch_side.instance.report_runless_asset_event(newer)

    made = metadata(batch_side.run("training_job"), "churn_model")

    assert made[FILE_HASH] == fingerprint(customers_of(settings()))


def test_training_on_features_and_rows_of_different_files_is_an_error(batch_side: BatchSide) -> None:
    path = f"{settings().platform.artifacts_root}/assets/train_test_split.parquet"
    split = batch_side.value("train_test_split")
    other = split.copy()
    other.attrs = {FILE_HASH: "of another file"}
    try:
        other.to_parquet(path)
        result = batch_side.run("training_job", raise_on_error=False)
    finally:
        split.to_parquet(path)

    failure = result.failure_data_for_node("churn_model")
    assert failure is not None
    assert failure.error is not None
    assert "train_test_split from the one with of another file" in str(failure.error.cause)


@pytest.mark.slow
def test_a_search_is_logged_by_trial_and_reused_by_the_next_training(
    batch_side: BatchSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("TUNING_TRIALS", "1")
    settings.cache_clear()
    try:
        first, second = (batch_side.run("training_job") for _ in range(2))
    finally:
        monkeypatch.undo()
        settings.cache_clear()

    made = [metadata(result, "churn_model") for result in (first, second)]
    assert "trial 1 of 1 of study churn" in str(made[0]["hyperparameters_from"])
    assert made[0]["hyperparameters"] == made[1]["hyperparameters"]
    bundles = [load_bundle(str(each["bundle"])).to_parts() for each in made]
    assert bundles[0] == bundles[1]
    mlflow.set_tracking_uri(settings().tracking_uri)
    trials = {
        result.run_id: mlflow.search_runs(
            experiment_names=[MODEL],
            filter_string=f"tags.mlflow.parentRunId = '{run_of(result)}'",
            output_format="list",
        )
        for result in (first, second)
    }
    assert [len(runs) for runs in trials.values()] == [1, 0]
    assert all(run.data.metrics["log_loss"] > 0 for run in trials[first.run_id])


def run_of(result: dg.ExecuteInProcessResult) -> str:
    """Return the id of the MLflow run of a training job."""
    import mlflow

    mlflow.set_tracking_uri(settings().tracking_uri)
    (run,) = mlflow.search_runs(
        experiment_names=[MODEL], filter_string=f"tags.dagster_run_id = '{result.run_id}'", output_format="list"
    )
    return str(run.info.run_id)


@pytest.mark.slow
def test_an_alias_moved_by_hand_is_adopted_and_reported(batch_side: BatchSide) -> None:
    chosen = batch_side.train()["challenger_version"]
    assert isinstance(chosen, int)
    MlflowRegistry().client().set_registered_model_alias(MODEL, "champion", str(chosen))

    decided = batch_side.train()

    assert decided["alias_moved_by_hand"] is True
    assert batch_side.champion().version == chosen
    assert aliases()["champion"] == chosen
    assert batch_side.train()["alias_moved_by_hand"] is False, "it is adopted only once"


@pytest.mark.slow
def test_after_a_change_of_costs_a_model_with_a_new_threshold_is_promoted_once(
    batch_side: BatchSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("CALL_COST", "5"), ("KEPT_CUSTOMER_VALUE", "400"), ("CALL_SUCCESS_RATE", "0.25")):
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    try:
        by_cost, again = batch_side.train(), batch_side.train()
        threshold = load_bundle(str(by_cost["bundle"])).threshold
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    by_f1 = batch_side.train()

    assert [decided["promoted"] for decided in (by_cost, again, by_f1)] == [True, False, True]
    assert "At today's (a call 5, a kept customer 400, success rate 0.25)" in str(by_cost["reason"])
    assert "At today's (no costs)" in str(by_f1["reason"])
    assert threshold < load_bundle(str(by_f1["bundle"])).threshold


def runs_by_alias() -> dict[str, str | None]:
    """Return alias -> run of the version that it points at."""
    client = MlflowRegistry().client()
    return {name: client.get_model_version(MODEL, str(version)).run_id for name, version in aliases().items()}


@pytest.mark.slow
def test_what_mlflow_has_lost_is_reported_and_does_not_change_the_decision(batch_side: BatchSide) -> None:
    trained = metadata(batch_side.run("training_job"), "churn_model")
    client, champion = MlflowRegistry().client(), batch_side.champion()
    with psycopg.connect(settings().postgres_dsn) as connection:
        run_id = model_versions.get(connection, int(str(trained["version"]))).run_id
    client.delete_run(run_id)
    client.delete_model_version(MODEL, str(trained["version"]))
    client.delete_model_version(MODEL, str(champion.version))

    result = batch_side.definitions.resolve_job_def("training_job").execute_in_process(
        instance=batch_side.instance,
        asset_selection=[dg.AssetKey("model_evaluation"), dg.AssetKey("champion_model")],
    )

    evaluated, decided = metadata(result, "model_evaluation"), metadata(result, "champion_model")
    assert f"MLflow no longer has run {run_id}" in str(evaluated["missing_in_mlflow"])
    assert f"MLflow no longer has version {champion.version} of model {MODEL}" in str(decided["missing_in_mlflow"])
    assert batch_side.champion() == champion, "it still scores"
    assert "champion" not in aliases()


@pytest.mark.slow
def test_a_registered_model_that_was_deleted_and_created_again_is_another_model(
    batch_side: BatchSide,
) -> None:
    champion = batch_side.champion()
    with psycopg.connect(settings().postgres_dsn) as connection:
        newest = model_versions.newest(connection)
    MlflowRegistry().client().delete_registered_model(MODEL)

    decided = batch_side.train()

    assert decided["challenger_version"] == newest + 1, "the first training succeeds, and its version has a new number"
    assert batch_side.champion() == champion
    with psycopg.connect(settings().postgres_dsn) as connection:
        made = model_versions.get(connection, newest + 1)
        assert runs_by_alias() == {"challenger": made.run_id}
        model_versions.promote(connection, made.version)
    MlflowRegistry().follow_champion(made.version, made.run_id)
    assert runs_by_alias()["champion"] == made.run_id
    kept = MlflowRegistry().client().search_model_versions(f"name = '{MODEL}'")
    assert [int(version.version) for version in kept] == [newest + 1]


@pytest.mark.slow
def test_an_alias_at_a_version_of_an_unknown_run_is_an_error_and_changes_nothing(batch_side: BatchSide) -> None:
    champion, client = batch_side.champion(), MlflowRegistry().client()
    client.delete_registered_model(MODEL)
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, "s3://models/other", "another run")
    client.set_registered_model_alias(MODEL, "champion", "1")

    result = batch_side.run("training_job", raise_on_error=False)

    failure = result.failure_data_for_node("champion_model")
    assert failure is not None
    assert failure.error is not None
    assert "not to run another run" in str(failure.error.cause)
    assert batch_side.champion() == champion
    client.delete_registered_model_alias(MODEL, "champion")


def test_the_error_for_an_mlflow_that_does_not_answer_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings.cache_clear()
    try:
        for request in (
            MlflowRegistry().champion_set_by_hand,
            lambda: MlflowRegistry().follow_champion(1, "run"),
            lambda: MlflowRegistry().log_metrics("run", {"f1": 0.6}),
        ):
            with pytest.raises(MlflowError, match="MLFLOW_TRACKING_URI"):
                request()
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_a_training_that_fails_ends_its_mlflow_run_as_failed(
    batch_side: BatchSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from churn_platform.modeling import training as fitting

    def out_of_memory(*_: object) -> None:
        raise MemoryError("no memory")

    # A fault in the training, which no setting gives.
    monkeypatch.setattr(fitting, "train", out_of_memory)
    result = batch_side.run("training_job", raise_on_error=False)

    assert not result.success
    mlflow.set_tracking_uri(settings().tracking_uri)
    (run,) = mlflow.search_runs(
        experiment_names=[MODEL], filter_string=f"tags.dagster_run_id = '{result.run_id}'", output_format="list"
    )
    assert run.info.status == "FAILED"


def prepared(batch_side: BatchSide, customers: pd.DataFrame, file: Path) -> dg.ExecuteInProcessResult:
    """Run the preparation of these customers and return the result, which may be a failure."""
    write_customers(customers, file)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CHURN_RAW_CSV", str(file))
        settings.cache_clear()
        result = batch_side.run("data_preparation_job", raise_on_error=False)
    settings.cache_clear()
    return result


def failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return the blocking checks that failed, by name."""
    failed = [each for each in result.get_asset_check_evaluations() if not each.passed and each.blocking]
    return {evaluation.check_name: evaluation for evaluation in failed}


@pytest.mark.parametrize("wrong", [1, 2])
def test_rows_that_break_a_rule_are_quarantined_and_block_only_above_the_allowed_share(
    batch_side: BatchSide, tmp_path: Path, wrong: int
) -> None:
    customers = generate_customers(150, seed=5)
    customers.loc[customers.index[:wrong], "CreditScore"] = 9_999

    result = prepared(batch_side, customers, tmp_path / "wrong.csv")

    assert result.success == (wrong == 1), "1 of 150 is less than 1 %"
    assert metadata(result, "raw_customers")["quarantined"] == wrong
    quarantined = batch_side.value("quarantined_customers")
    assert quarantined["row"].tolist() == [*range(1, wrong + 1)]
    assert json.loads(quarantined["values"][0])["CreditScore"] == "9999"
    assert all("CreditScore" in reasons and "300 to 900" in reasons for reasons in quarantined["reasons"])
    if wrong > 1:
        failed = failed_checks(result)
        assert [*failed] == ["quarantined_share"]
        assert "2 of 150 rows (1.333 %) break a rule" in str(failed["quarantined_share"].description)
        made = {event.asset_key for event in result.get_asset_materialization_events()}
        assert made == {dg.AssetKey("raw_customers"), dg.AssetKey("quarantined_customers")}


def test_a_row_that_occurs_twice_is_used_once_and_another_row_of_the_customer_is_quarantined(
    batch_side: BatchSide, tmp_path: Path
) -> None:
    customers = generate_customers(150, seed=5)
    changed = customers.head(1).assign(Tenure=customers["Tenure"][0] + 1)

    result = prepared(batch_side, pd.concat([customers, customers.tail(50), changed]), tmp_path / "twice.csv")

    read = metadata(result, "raw_customers")
    assert (read["dagster/row_count"], read["duplicates"], read["quarantined"]) == (150, 50, 1)
    assert result.success


def test_one_asset_of_the_file_can_be_materialized_alone(batch_side: BatchSide) -> None:
    for asset in ("raw_customers", "quarantined_customers"):
        result = batch_side.definitions.resolve_job_def("data_preparation_job").execute_in_process(
            instance=batch_side.instance, asset_selection=[dg.AssetKey(asset)]
        )

        assert [event.asset_key for event in result.get_asset_materialization_events()] == [dg.AssetKey(asset)]


def test_customers_unlike_those_of_the_champion_are_a_warning(batch_side: BatchSide, tmp_path: Path) -> None:
    customers = generate_customers(1_500, seed=6)
    alike = prepared(batch_side, customers, tmp_path / "alike.csv")
    older = prepared(batch_side, customers.assign(Age=customers["Age"].clip(upper=99) + 20), tmp_path / "older.csv")

    (found,), (same,) = (
        [each for each in result.get_asset_check_evaluations() if each.check_name == "drift_from_champion"]
        for result in (older, alike)
    )
    assert (same.passed, found.passed, found.blocking) == (True, False, False)
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "Age is far (PSI" in str(found.description)
    assert older.success


@pytest.mark.parametrize(
    ("rows", "outcome", "gates"),
    [
        pytest.param(10, None, ["row_count", "class_balance"], marks=pytest.mark.slow),
        pytest.param(200, 0, ["class_balance"], marks=pytest.mark.slow),
        (200, 1, ["class_balance"]),
    ],
)
def test_a_file_with_too_few_customers_of_an_outcome_is_not_trained_on(
    batch_side: BatchSide, tmp_path: Path, rows: int, outcome: int | None, gates: list[str]
) -> None:
    customers = generate_customers(rows, seed=5)
    if outcome is not None:
        customers["Exited"] = outcome
    path = f"{settings().platform.artifacts_root}/assets/train_test_split.parquet"
    before = Path(path).read_bytes()

    result = prepared(batch_side, customers, tmp_path / "few.csv")

    assert [*failed_checks(result)] == gates
    assert not result.success
    assert Path(path).read_bytes() == before


@pytest.mark.slow
def test_another_data_set_is_prepared_and_trained_as_the_bank_is(stack: Stack, tmp_path: Path) -> None:
    """Its file has texts as ids, dates, spelled flags, unlisted categories and missing values of every kind."""
    customers = PROJECT_ROOT / "data/subscribers/subscribers.csv"
    with new_batch_side(stack, "subscribers_test", SUBSCRIBERS, folder=tmp_path, customers=customers) as batch_side:
        prepared = batch_side.run("data_preparation_job")
        decided = batch_side.train()

        champion = batch_side.champion()
        file = Path(f"{settings().platform.artifacts_root}/assets/train_test_split.parquet")
        split = from_parquet(file.read_bytes())
        stored = batch_side.value("test_features")

    assert failed_checks(prepared) == {}
    assert tuple(stored.columns) == (*SUBSCRIBERS.feature_names, "Churn")
    assert decided["promoted"] is True
    assert champion.metrics["oof_roc_auc"] > SUBSCRIBERS.least_roc_auc
    bundle = load_bundle(champion.uri)
    assert bundle.schema == SUBSCRIBERS
    made = bundle.transform.transform(inputs(rows_of(split, TEST), SUBSCRIBERS))
    np.testing.assert_array_equal(made, stored[[*SUBSCRIBERS.feature_names]].to_numpy(np.float32))


def test_a_model_is_not_evaluated_on_the_test_split_of_another_preparation(
    batch_side: BatchSide,
) -> None:
    path = f"{settings().platform.artifacts_root}/assets/train_test_split.parquet"
    split = batch_side.value("train_test_split")
    try:
        split.assign(split=split["split"].map({"train": "test", "test": "train"})).to_parquet(path)
        result = batch_side.definitions.resolve_job_def("training_job").execute_in_process(
            instance=batch_side.instance, asset_selection=[dg.AssetKey("model_evaluation")], raise_on_error=False
        )
    finally:
        split.to_parquet(path)

    failure = result.failure_data_for_node("model_evaluation")
    assert failure is not None
    assert failure.error is not None
    assert "churn_model was trained on rows with hash" in str(failure.error.cause)


@pytest.mark.parametrize(("metadata", "dtype"), [({}, "category"), ({OBJECTS: True}, "object")])
def test_texts_are_categories_unless_the_input_wants_objects(
    tmp_path: Path, metadata: dict[str, bool], dtype: str
) -> None:
    manager, key = ParquetIOManager(root=str(tmp_path)), dg.AssetKey("customers")
    frame = pd.DataFrame({"country": ["Spain", "France", "Spain"], "age": [1.0, 2.0, 3.0]})

    manager.handle_output(dg.build_output_context(asset_key=key), frame)
    loaded = manager.load_input(
        dg.build_input_context(
            asset_key=key,
            dagster_type=dg.PythonObjectDagsterType(pd.DataFrame),
            definition_metadata=metadata,
        )
    )

    assert isinstance(loaded, pd.DataFrame)
    assert str(loaded["country"].dtype) == dtype
    pd.testing.assert_frame_equal(loaded.astype({"country": object}), frame)


def test_the_error_for_a_missing_file_names_the_asset_to_materialize(tmp_path: Path) -> None:
    manager = ParquetIOManager(root=str(tmp_path))
    context = dg.build_input_context(
        asset_key=dg.AssetKey("train_features"), dagster_type=dg.PythonObjectDagsterType(pd.DataFrame)
    )

    with pytest.raises(MissingAssetFileError, match=rf"no file at {tmp_path}.*Materialize train_features first"):
        manager.load_input(context)


def test_a_value_of_an_unknown_type_is_an_error(tmp_path: Path) -> None:
    context = dg.build_output_context(asset_key=dg.AssetKey("something"))

    with pytest.raises(TypeError, match="returned a set, expected a DataFrame"):
        ParquetIOManager(root=str(tmp_path)).handle_output(context, {1})  # type: ignore[arg-type]  # the mistake
    assert not list(tmp_path.iterdir())


def aliases() -> dict[str, int]:
    """Return alias -> version in MLflow."""
    model = MlflowRegistry().client().get_registered_model(MODEL)
    return {name: int(version) for name, version in model.aliases.items()}


def test_erased_customers_are_left_out_and_counted_and_no_check_fails(batch_side: BatchSide) -> None:
    """The last test: others expect all customers of the file."""
    customers = load_customers(customers_of(settings()), BANK).customers
    erased = customers.loc[customers["Gender"].notna(), "CustomerId"].head(3).tolist()
    with psycopg.connect(settings().postgres_dsn) as connection:
        erased_customers.lock(connection)
        for each in erased:
            erased_customers.add(connection, each)

    result = batch_side.run("data_preparation_job")

    assert metadata(result, "raw_customers")["erased"] == 3
    assert metadata(result, "quarantined_customers")["dagster/row_count"] == 0
    for asset in ("raw_customers", "cleaned_customers", "train_test_split"):
        assert not batch_side.value(asset)["CustomerId"].isin(erased).any()
    assert len(batch_side.value("raw_customers")) == len(customers) - 3
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())
