"""From features to the champion: train a model, evaluate it, and promote it if it is significantly better."""

from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from churn_platform.challengers.reading import shadow_record
from churn_platform.database import model_evaluations, model_versions
from churn_platform.features.columns import columns_of
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform, assemble, take_features
from churn_platform.files.artifacts import MODELS, join
from churn_platform.files.memory import release_unused_memory
from churn_platform.files.stored_frame import Frame, StoredColumns, StoredFrame, blocks_of
from churn_platform.model_store import load_bundle, save_bundle
from churn_platform.modeling.comparison import Comparison
from churn_platform.modeling.out_of_fold import OutOfFold
from churn_platform.modeling.outcome_rows import WEIGHT
from churn_platform.modeling.promotion import Decision, decide, promotion_rule
from churn_platform.modeling.splitting import SPLIT, TEST, TRAIN, rows_of
from churn_platform.modeling.stored_features import StoredFeatures
from churn_platform.modeling.trained_model import TrainedModel
from churn_platform.monitoring import lookups
from churn_platform.monitoring.drift import Reference
from churn_platform.monitoring.verdicts import SCORE
from churn_platform.orchestration.assets import evaluation_metadata
from churn_platform.orchestration.assets.training_inputs import (
    REVISION,
    SCHEMA,
    TRAINING_SETTINGS,
    file_hash,
    outcomes_hash,
    require_one_file,
    require_same_rows,
    training_settings,
)
from churn_platform.orchestration.assets.ui_metadata import next_asset, significant
from churn_platform.orchestration.io_managers.parquet import COLUMNS, OBJECTS
from churn_platform.orchestration.resources.mlflow import (
    MlflowLostError,
    MlflowRegistry,
    RegisteredVersion,
    code_version,
    ending_run,
)
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.schema.current import customers_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle, require_same_scores
from churn_platform.scoring.costs import CallCosts
from churn_platform.settings import settings

if TYPE_CHECKING:
    import psycopg

    from churn_platform.modeling.training import Features, Hyperparameters, TrainingResult

APPLICATION = "churn training"


class Common(TypedDict):
    """What all assets of this group have in common."""

    group_name: str
    owners: list[str]


TRAINING = Common(group_name="training", owners=["team:ml-platform"])
FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=30), warn_window=timedelta(days=7))

registered_model = dg.AssetSpec(
    "registered_model",
    **TRAINING,
    deps=["champion_model"],
    kinds={"mlflow"},
    description="""The model in MLflow's registry (setting `MLFLOW_MODEL`): its versions, and the alias `champion`.

[churn_model](/assets/churn_model) registers the versions. The alias follows the table `model_versions`, which decides
which version scores the stream. If somebody moves the alias in MLflow, the next
[champion_model](/assets/champion_model) adopts that version.
`mlflow models serve` and `mlflow.pyfunc.load_model` accept raw rows: the feature steps are part of the model.

**Observations** record the version that the alias points to.""",
)


def training_assets(schema: CustomerSchema, *, stored: bool = False) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the assets that train a model of a schema's customers, evaluate it and decide who is champion.

    Args:
        schema: of the customers.
        stored: whether rows and features are read from disk in parts, because they may be larger than memory. The
            model is the same.
    """
    frame = StoredFrame if stored else pd.DataFrame

    @dg.asset(
        **TRAINING,
        ins={
            "train_features": dg.AssetIn(dagster_type=frame),
            "train_test_split": dg.AssetIn(
                metadata={OBJECTS: True, COLUMNS: [*schema.inputs, schema.target, SPLIT]}, dagster_type=frame
            ),
        },
        kinds={"xgboost", "mlflow", "postgres"},
    )
    def churn_model(
        context: dg.AssetExecutionContext,
        train_features: Frame,
        train_test_split: Frame,
        feature_imputer: Imputer,
        feature_encoder: OneHotEncoder,
        feature_scaler: MinMaxScaler,
        mlflow: dg.ResourceParam[ModuleType],  # dagster-mlflow's resource has all functions of the module mlflow
        mlflow_registry: MlflowRegistry,
        postgres: PostgresResource,
    ) -> dg.MaterializeResult[TrainedModel]:
        """An XGBoost model of the training split: an MLflow run, a registered version and a bundle. Not yet champion.

        Metrics that begin with `oof_` are out of fold: each row is scored by a model that has not seen it. The
        threshold, from which a risk score counts as churn, is chosen out of fold as well. The bundle holds the model
        and its feature steps as data, without pickles; the stream loads it without MLflow. The training code is
        `modeling/training.py`. The distribution of the training rows is stored too:
        [drift_hourly](/assets/drift_hourly) compares the stream with it.
        """
        import time

        from churn_platform.modeling import training

        require_one_file(train_features, train_test_split)
        rows = _rows_of(train_test_split, TRAIN)
        with retry_transient_errors(), ending_run():
            started = time.perf_counter()
            features = _features_of(train_features, schema)
            release_unused_memory()  # of both frames, before fits need it
            churned = train_features[schema.target].to_numpy()
            data_hash = training.data_hash(rows, [*schema.feature_columns, schema.target])
            hyperparameters, source = _hyperparameters(context, mlflow, features, churned, schema, data_hash)
            costs = promotion_rule(settings(), schema).costs
            weights = rows[WEIGHT].to_numpy(np.float64) if WEIGHT in rows else None
            trained = training.train(features, churned, schema, hyperparameters, costs, weights=weights)
            seconds = time.perf_counter() - started

            transform = FeatureTransform(
                schema=schema, imputer=feature_imputer, encoder=feature_encoder, scaler=feature_scaler
            )
            bundle = _bundle(trained, transform, data_hash=data_hash, costs=costs)
            scores = {SCORE: trained.out_of_fold}
            reference = Reference.of(
                StoredColumns(rows, schema.inputs, scores)
                if isinstance(rows, StoredFrame)
                else {**columns_of(rows, schema.inputs), **scores},
                schema,
            )
            metrics = {**bundle.metrics, "threshold": bundle.threshold}
            mlflow.log_params({"trees": hyperparameters.trees, **hyperparameters.booster_parameters(schema)})
            mlflow.log_param("hyperparameters_from", source)
            mlflow.log_metrics({**metrics, "training_time_seconds": seconds})
            mlflow.log_dict(reference.to_json(), "reference.json")
            mlflow.log_dict(trained.calibration.tried, "calibration.json")
            mlflow.log_dict(trained.importances, "feature_importances.json")
            run_id = mlflow.active_run().info.run_id
            version = _register(context, mlflow, bundle, rows, mlflow_registry, postgres)

        model = TrainedModel(
            version=version, run_id=run_id, uri=join(settings().platform.artifacts_root, MODELS, run_id)
        )
        with retry_transient_errors(), postgres.connect(APPLICATION) as connection:
            save_bundle(bundle, model.uri)
            OutOfFold.of(rows, trained.out_of_fold, schema).save(model.uri)
            model_versions.register(connection, version=version, uri=model.uri, run_id=run_id, metrics=metrics)
            lookups.save_reference(connection, version, reference)
        return dg.MaterializeResult(
            value=model,
            metadata={
                **significant(metrics),
                "version": version,
                "hyperparameters": dg.MetadataValue.json(hyperparameters.as_dict()),
                "hyperparameters_from": source,
                "calibration": trained.calibration.name,
                "training_rows": len(rows),
                **significant({"training_time_seconds": seconds}),
                "mlflow_run": dg.MetadataValue.url(mlflow_registry.run_url(run_id)),
                "bundle": dg.MetadataValue.path(model.uri),
                "data_hash": bundle.data_hash,
                REVISION: bundle.code_version,
                SCHEMA: schema.fingerprint,
                TRAINING_SETTINGS: training_settings(),
                **file_hash(rows),
                **outcomes_hash(rows),
                "feature_importances": evaluation_metadata.importances_table(trained.importances),
                **next_asset("model_evaluation"),
            },
        )

    @dg.asset(
        **TRAINING,
        ins={
            "train_test_split": dg.AssetIn(metadata={OBJECTS: True}, dagster_type=frame),
            "test_features": dg.AssetIn(dagster_type=frame),
        },
        kinds={"xgboost", "mlflow", "postgres"},
    )
    def model_evaluation(
        context: dg.AssetExecutionContext,
        churn_model: TrainedModel,
        train_test_split: Frame,
        test_features: Frame,
        mlflow_registry: MlflowRegistry,
        postgres: PostgresResource,
    ) -> dg.MaterializeResult[Comparison]:
        """The new model's metrics on the test split, and its comparison with the champion.

        The comparison is made on the training split, each row scored by a model that has not seen it. The test split is
        used once, for the metrics, and has no part in the promotion. The bundle scores raw rows, as the stream does;
        the asset fails unless the prepared test_features have the same scores. If the costs of a call have changed
        since the champion was trained, the value of both models' decisions at the current costs is compared as well. A
        run that MLflow has lost is reported as `missing_in_mlflow` and has no other effect.
        """
        from churn_platform.modeling.comparison import compare
        from churn_platform.modeling.evaluation import evaluate
        from churn_platform.modeling.reporting import make_report

        rows = _rows_of(train_test_split, TEST, consume=False)
        train = _rows_of(train_test_split, TRAIN)
        with retry_transient_errors():
            challenger = load_bundle(churn_model.uri)
        require_same_rows(challenger, train, schema)
        probabilities = _scores(challenger, rows)
        _require_same_scores(challenger, probabilities, test_features)
        evaluation = evaluate(rows[schema.target].to_numpy(), probabilities, threshold=challenger.threshold)
        with retry_transient_errors(), postgres.connect(APPLICATION) as connection:
            model_versions.of_run(connection, churn_model.version, churn_model.run_id)
            model_versions.record_metrics(connection, churn_model.version, evaluation.as_dict())
            champion = model_versions.champion(connection)
        report = make_report(challenger, train, rows)
        with retry_transient_errors(), postgres.connect(APPLICATION) as connection:
            model_evaluations.save(connection, churn_model.version, report.as_dict())
        run_id = churn_model.run_id
        missing = _missing_in_mlflow(
            context,
            lambda: mlflow_registry.log_metrics(run_id, evaluation.as_dict()),
            lambda: mlflow_registry.log_evaluation(run_id, evaluation_metadata.charts(report), report.as_dict()),
        )
        comparison = compare(
            train,
            churn_model,
            None if champion is None else TrainedModel(champion.version, champion.run_id, champion.uri),
            promotion_rule(settings(), schema),
        )
        return dg.MaterializeResult(
            value=comparison,
            metadata={
                **significant(evaluation.as_dict()),
                **evaluation_metadata.comparison_metadata(comparison),
                **evaluation_metadata.report_metadata(report),
                "version": churn_model.version,
                "champion_version": "none" if champion is None else champion.version,
                "test_rows": len(rows),
                **significant({"mean_risk_score": float(probabilities.mean())}),
                **(missing or {"mlflow_run": dg.MetadataValue.url(mlflow_registry.run_url(run_id))}),
                **next_asset("champion_model"),
            },
        )

    return [churn_model, model_evaluation, champion_model, registered_model]


@dg.asset(**TRAINING, kinds={"mlflow", "postgres"}, freshness_policy=FRESH)
def champion_model(
    context: dg.AssetExecutionContext,
    model_evaluation: Comparison,
    mlflow_registry: MlflowRegistry,
    postgres: PostgresResource,
) -> dg.MaterializeResult[None]:
    """The version that scores the stream: the new model if it is significantly better, else the current champion.

    Both are evaluated out of fold on the training split, and no slice of the customers may lose much; `reason` explains
    the decision. A first model has to beat the constant prediction and the schema's `least_roc_auc`; otherwise this
    asset fails and there is no champion. The stream changes to a new champion at its next commit, without a restart,
    and each row records the version that scored it. If somebody moved MLflow's alias `champion` by hand, that version
    is adopted instead. The table `model_versions` is authoritative, and the alias follows it: to the version of the
    same MLflow run, never to another one with that number. A version that MLflow has lost is reported as
    `missing_in_mlflow` and does not change the decision. The rule is in `modeling/comparison.py` and
    `modeling/promotion.py`.
    """
    with retry_transient_errors(), postgres.connect(APPLICATION) as connection:
        by_hand = mlflow_registry.champion_set_by_hand()
        former = model_versions.champion(connection)
        decision = _decide(connection, model_evaluation, former, by_hand)
        champion = model_versions.promote(
            connection, decision.version, by="alias" if decision.adopted else "training", reason=decision.reason
        )
    missing = _missing_in_mlflow(
        context,
        lambda: mlflow_registry.follow_champion(champion.version, champion.run_id),
        lambda: mlflow_registry.record_decision(
            model_evaluation.version,
            model_evaluation.run_id,
            promoted=champion.version == model_evaluation.version,
            reason=decision.reason,
        ),
    )
    context.log.info(decision.reason)
    in_mlflow = dg.MetadataValue.url(mlflow_registry.version_url(champion.version))
    context.log_event(
        dg.AssetObservation(
            registered_model.key,
            metadata={
                "champion_version": champion.version,
                "latest_version": model_evaluation.version,
                "mlflow_version": in_mlflow,
            },
        )
    )
    return dg.MaterializeResult(
        metadata={
            "champion_version": champion.version,
            "former_champion_version": "none" if former is None else former.version,
            "challenger_version": model_evaluation.version,
            "promoted": former is None or champion.version != former.version,
            "alias_moved_by_hand": decision.adopted,
            "reason": decision.reason,
            "champion_since": dg.MetadataValue.timestamp(champion.promoted_at or champion.registered_at),
            "mlflow_version": in_mlflow,
            "bundle": dg.MetadataValue.path(champion.uri),
            **missing,
            **next_asset("churn_predictions"),
        }
    )


def _rows_of(customers: Frame, split: str, *, consume: bool = True) -> Frame:
    """Return the rows of a split; see `rows_of`."""
    if isinstance(customers, StoredFrame):
        return customers.only((customers[SPLIT] == split).to_numpy(np.bool_))
    return rows_of(customers, split, consume=consume)


def _features_of(prepared: Frame, schema: CustomerSchema) -> "Features":
    """Return the features of prepared rows, which a frame in memory loses."""
    if isinstance(prepared, StoredFrame):
        return StoredFeatures(prepared, schema.feature_names)
    return take_features(prepared, schema.feature_names)


def _scores(bundle: ModelBundle, rows: Frame) -> NDArray[np.float32]:
    """Return P(churn) of raw rows, shape (n,)."""
    names = bundle.schema.feature_columns
    return np.concatenate([bundle.score(columns_of(block, names)) for block in blocks_of(rows, names)])


def _require_same_scores(bundle: ModelBundle, probabilities: NDArray[np.float32], prepared: Frame) -> None:
    """Check that prepared features have these scores, those of their raw rows.

    Raises:
        SkewError: the number of rows differs, or any score does.
    """
    names = bundle.schema.feature_names
    matrices = (assemble(columns_of(block, names), names) for block in blocks_of(prepared, names))
    require_same_scores(probabilities, np.concatenate([bundle.score_features(each) for each in matrices]))


def _bundle(
    trained: "TrainingResult", transform: FeatureTransform, *, data_hash: str, costs: CallCosts | None
) -> ModelBundle:
    return ModelBundle(
        model=trained.model,
        transform=transform,
        threshold=trained.threshold,
        metrics=trained.evaluation.as_dict(evaluation_metadata.OUT_OF_FOLD),
        code_version=code_version(),
        data_hash=data_hash,
        calibration=trained.calibration.calibration,
        costs=costs,
    )


def _register(
    context: dg.AssetExecutionContext,
    mlflow: ModuleType,
    bundle: ModelBundle,
    rows: Frame,
    mlflow_registry: MlflowRegistry,
    postgres: PostgresResource,
) -> int:
    """Log the bundle and its training rows to the active MLflow run, register it, and return the version."""
    from churn_platform.modeling import tracking

    tags = {"dagster_run_id": context.run.run_id, "git_commit": bundle.code_version, "data_hash": bundle.data_hash}
    mlflow.set_tags(tags)
    tracking.log_dataset(rows, bundle.schema, source=customers_of(settings()))
    with postgres.connect(APPLICATION) as connection:
        newest = model_versions.newest(connection)
    with mlflow_registry.numbered_above(newest, mlflow.active_run().info.run_id):
        return tracking.log_model(bundle, registered_as=settings().mlflow.model, example=rows, tags=tags)


def _decide(
    connection: "psycopg.Connection",
    comparison: Comparison,
    champion: model_versions.ModelVersion | None,
    by_hand: RegisteredVersion | None,
) -> Decision:
    """Return which version becomes champion, after checking that model_versions has the same versions as MLflow.

    Raises:
        ModelVersionError: a version belongs to another run. It is raised before anything changes.
    """
    if by_hand is not None:
        model_versions.of_run(connection, by_hand.version, by_hand.run_id)
    model_versions.of_run(connection, comparison.version, comparison.run_id)
    if champion is not None and champion.version == comparison.champion_version:
        model_versions.of_run(connection, champion.version, comparison.champion_run_id or "")
    return decide(
        comparison,
        champion_version=None if champion is None else champion.version,
        set_by_hand=None if by_hand is None else by_hand.version,
        shadow=shadow_record(connection, comparison.version, required_days=settings().challengers.shadow_days),
    )


def _missing_in_mlflow(context: dg.AssetExecutionContext, *steps: Callable[[], None]) -> dict[str, str]:
    """Run the steps. If MLflow has lost something, log a warning and return it as metadata.

    This is not an error, because MLflow only mirrors what the platform stores elsewhere.
    """
    lost = []
    for step in steps:
        try:
            with retry_transient_errors():
                step()
        except MlflowLostError as error:
            context.log.warning(str(error))
            lost.append(error.problem)
    return {"missing_in_mlflow": " ".join(lost)} if lost else {}


def _hyperparameters(
    context: dg.AssetExecutionContext,
    mlflow: ModuleType,
    features: "Features",
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    data_hash: str,
) -> tuple["Hyperparameters", str]:
    """Return the hyperparameters and where they come from: committed, or a search with TUNING_TRIALS trials."""
    from churn_platform.database.studies import study_storage
    from churn_platform.modeling import training, tuning

    trials = settings().training.tuning_trials
    if not trials or isinstance(features, StoredFeatures):  # the settings allow no search for stored ones
        return training.Hyperparameters(), "committed"
    study = f"churn {data_hash[:16]} {schema.fingerprint[:8]} {tuning.STUDY_VERSION}"

    def report(trial: tuning.Trial) -> None:
        context.log.info(
            f"Trial {trial.number} of {trials}: log loss {trial.log_loss:.5f}, ROC AUC {trial.roc_auc:.4f}"
        )
        with mlflow.start_run(run_name=f"trial {trial.number}", nested=True):
            mlflow.log_params(trial.hyperparameters.as_dict())
            mlflow.log_metrics({"log_loss": trial.log_loss, "oof_roc_auc": trial.roc_auc, "oof_brier": trial.brier})

    with study_storage(settings().postgres_dsn) as storage:
        found = tuning.tune(
            features,
            churned,
            schema,
            trials=trials,
            seconds=settings().training.tuning_seconds,
            study=study,
            storage=storage,
            on_trial=report,
        )
    source = f"trial {found[0].number} of {len(found)} of study {study}"
    context.log.info(f"Hyperparameters of {source}: {found[0].hyperparameters}")
    return found[0].hyperparameters, source
