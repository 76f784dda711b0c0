"""From features to the champion: train, judge, and replace the champion only by a model that is at least as good."""

from collections.abc import Mapping
from datetime import timedelta
from types import ModuleType
from typing import TypedDict

import dagster as dg
import pandas as pd

from churn_platform.assets.shown import next_asset
from churn_platform.features.columns import FEATURES, INPUT_COLUMNS, TARGET, columns_of
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform, assemble
from churn_platform.modeling.bundle import ModelBundle
from churn_platform.modeling.candidates import Comparison, TrainedModel, decide
from churn_platform.modeling.splitting import TEST, TRAIN, rows_of
from churn_platform.resources.mlflow import MlflowRegistry, code_version, ending_run
from churn_platform.resources.postgres import PostgresResource
from churn_platform.settings import settings
from churn_platform.storage import model_versions
from churn_platform.storage.artifacts import MODELS, join

APPLICATION = "churn training"
OUT_OF_FOLD = "oof_"  # prefix of figures out of fold on the training split; those without it are the test split's


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

Versions are registered by [churn_model](/assets/churn_model); the alias follows the table `model_versions`, which says
who scores the stream. Move it by hand in MLflow, and the next [champion_model](/assets/champion_model) adopts it.
`mlflow models serve` and `mlflow.pyfunc.load_model` take raw rows: the feature steps are in the bundle.

**Observations** show which version the alias stands at.""",
)


@dg.asset(**TRAINING, kinds={"xgboost", "mlflow", "postgres"})
def churn_model(
    context: dg.AssetExecutionContext,
    train_features: pd.DataFrame,
    train_test_split: pd.DataFrame,
    feature_imputer: Imputer,
    feature_encoder: OneHotEncoder,
    feature_scaler: MinMaxScaler,
    mlflow: dg.ResourceParam[ModuleType],  # dagster-mlflow's resource has all functions of the module mlflow
    mlflow_registry: MlflowRegistry,
    postgres: PostgresResource,
) -> dg.MaterializeResult[TrainedModel]:
    """An XGBoost model of the training split: an MLflow run, a registered version and a bundle, not yet champion.

    Figures that begin with `oof_` are out of fold: each row judged by a model that has not seen it. The threshold, from
    which a risk score counts as churn, is chosen by them, too. The bundle holds the model with its feature steps as
    data, no pickle; a stream reads it without MLflow. How it is trained: `modeling/training.py`.
    """
    import time

    from churn_platform.modeling import tracking, training

    rows = rows_of(train_test_split, TRAIN)
    with ending_run():
        started = time.perf_counter()
        hyperparameters = training.Hyperparameters()
        features, churned = assemble(columns_of(train_features, FEATURES)), train_features[TARGET].to_numpy()
        trained = training.train(features, churned, hyperparameters)
        seconds = time.perf_counter() - started

        bundle = ModelBundle(
            model=trained.model,
            transform=FeatureTransform(feature_imputer, feature_encoder, feature_scaler),
            threshold=trained.threshold,
            metrics=trained.evaluation.as_dict(OUT_OF_FOLD),
            code_version=code_version(),
            data_hash=training.data_hash(rows[[*INPUT_COLUMNS, TARGET]]),
        )
        run_id = mlflow.active_run().info.run_id
        mlflow.log_params({"trees": hyperparameters.trees, **hyperparameters.booster_parameters()})
        mlflow.log_metrics({**bundle.metrics, "threshold": bundle.threshold, "training_time_seconds": seconds})
        mlflow.log_dict(trained.importances, "feature_importances.json")
        tags = {"dagster_run_id": context.run.run_id, "git_commit": bundle.code_version, "data_hash": bundle.data_hash}
        mlflow.set_tags(tags)
        tracking.log_dataset(rows, source=str(settings().churn_raw_csv))
        version = tracking.log_model(bundle, registered_as=settings().mlflow_model, example=rows, tags=tags)

    model = TrainedModel(version=version, run_id=run_id, uri=join(settings().artifacts, MODELS, run_id))
    bundle.save(model.uri)
    with postgres.connect(APPLICATION) as connection:
        model_versions.register(connection, version=version, uri=model.uri, run_id=run_id, metrics=bundle.metrics)
    return dg.MaterializeResult(
        value=model,
        metadata={
            **bundle.metrics,
            "version": version,
            "threshold": bundle.threshold,
            "training_rows": len(rows),
            "training_time_seconds": seconds,
            "mlflow_run": dg.MetadataValue.url(mlflow_registry.run_url(run_id)),
            "bundle": dg.MetadataValue.path(model.uri),
            "data_hash": bundle.data_hash,
            "git_commit": bundle.code_version,
            "feature_importances": _importances(trained.importances),
            **next_asset("model_evaluation"),
        },
    )


@dg.asset(**TRAINING, kinds={"xgboost", "mlflow", "postgres"})
def model_evaluation(
    churn_model: TrainedModel,
    train_test_split: pd.DataFrame,
    test_features: pd.DataFrame,
    mlflow_registry: MlflowRegistry,
    postgres: PostgresResource,
) -> dg.MaterializeResult[Comparison]:
    """The new model's figures on the test split, and the champion's on the same rows, each by its own feature steps.

    Both score raw rows, as the stream does; this fails unless the new one scores the prepared test_features alike.
    """
    from churn_platform.modeling.evaluation import evaluate

    rows = rows_of(train_test_split, TEST)
    raw, churned = columns_of(rows), rows[TARGET].to_numpy()
    candidate = ModelBundle.load(churn_model.uri)
    probabilities = candidate.score(raw)
    candidate.require_same_scores(probabilities, assemble(columns_of(test_features, FEATURES)))
    evaluation = evaluate(churned, probabilities, threshold=candidate.threshold)
    with postgres.connect(APPLICATION) as connection:
        model_versions.record_metrics(connection, churn_model.version, evaluation.as_dict())
        champion = model_versions.champion(connection)
    mlflow_registry.log_metrics(churn_model.run_id, evaluation.as_dict())
    champion_evaluation = None
    if champion is not None:
        bundle = ModelBundle.load(champion.uri)
        champion_evaluation = evaluate(churned, bundle.score(raw), threshold=bundle.threshold)
    return dg.MaterializeResult(
        value=Comparison(
            version=churn_model.version,
            candidate=evaluation,
            champion_version=None if champion is None else champion.version,
            champion=champion_evaluation,
        ),
        metadata={
            **evaluation.as_dict(),
            **({} if champion_evaluation is None else champion_evaluation.as_dict("champion_")),
            "version": churn_model.version,
            "champion_version": "none" if champion is None else champion.version,
            "test_rows": len(rows),
            "mean_risk_score": float(probabilities.mean()),
            "mlflow_run": dg.MetadataValue.url(mlflow_registry.run_url(churn_model.run_id)),
            **next_asset("champion_model"),
        },
    )


@dg.asset(**TRAINING, kinds={"mlflow", "postgres"}, freshness_policy=FRESH)
def champion_model(
    context: dg.AssetExecutionContext,
    model_evaluation: Comparison,
    mlflow_registry: MlflowRegistry,
    postgres: PostgresResource,
) -> dg.MaterializeResult[None]:
    """Who scores the stream: the new model if it is at least as good on the test split as the champion, else that one.

    `reason` says why. The stream follows at its next commit: no restart, and each row says which version scored it.
    Where MLflow's alias `champion` was moved by hand, that version is adopted instead. The table `model_versions` is
    the truth, and the alias follows it. The rule is `modeling/candidates.py`.
    """
    by_hand = mlflow_registry.champion_set_by_hand()
    with postgres.connect(APPLICATION) as connection:
        former = model_versions.champion(connection)
        if by_hand is not None:
            model_versions.get(connection, by_hand)  # a version without a bundle cannot score: say so, change nothing
        decision = decide(
            model_evaluation, champion_version=None if former is None else former.version, set_by_hand=by_hand
        )
        champion = model_versions.promote(connection, decision.version)
    mlflow_registry.follow_champion(champion.version)
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
            "candidate_version": model_evaluation.version,
            "promoted": former is None or champion.version != former.version,
            "alias_moved_by_hand": decision.adopted,
            "reason": decision.reason,
            "champion_since": dg.MetadataValue.timestamp(champion.promoted_at or champion.registered_at),
            "mlflow_version": in_mlflow,
            "bundle": dg.MetadataValue.path(champion.uri),
            **next_asset("churn_predictions"),
        }
    )


def _importances(shares: Mapping[str, float]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[dg.TableRecord({"feature": name, "share_of_gain": round(share, 4)}) for name, share in shares.items()],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("feature", "string", "Name of the feature."),
                dg.TableColumn("share_of_gain", "float", "Its share of what all splits gain, 0..1."),
            ]
        ),
    )
