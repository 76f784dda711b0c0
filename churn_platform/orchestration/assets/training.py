"""From features to the champion: train, judge, and replace the champion only by a model that is better than chance."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from churn_platform.database import model_versions
from churn_platform.features.columns import FEATURES, INPUT_COLUMNS, TARGET, columns_of
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform, assemble
from churn_platform.files.artifacts import MODELS, join
from churn_platform.modeling.candidates import Comparison, TrainedModel, decide
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.out_of_fold import OutOfFold
from churn_platform.modeling.splitting import TEST, TRAIN, rows_of
from churn_platform.monitoring import lookups
from churn_platform.monitoring.drift import SCORE, Reference
from churn_platform.orchestration.assets import evaluation as pictures
from churn_platform.orchestration.assets.training_inputs import (
    FILE_HASH,
    REVISION,
    TRAINING_SETTINGS,
    file_hash,
    training_settings,
)
from churn_platform.orchestration.assets.ui_metadata import next_asset
from churn_platform.orchestration.resources.mlflow import MlflowLostError, MlflowRegistry, code_version, ending_run
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.settings import settings

if TYPE_CHECKING:
    from churn_platform.modeling.training import Hyperparameters

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
    data, no pickle; a stream reads it without MLflow. How it is trained: `modeling/training.py`. The
    training rows are kept in bins, too, for [drift_hourly](/assets/drift_hourly) to compare the stream with.
    """
    import time

    from churn_platform.modeling import tracking, training
    from churn_platform.modeling.comparison import promotion_rule

    rows = rows_of(train_test_split, TRAIN)
    _require_one_file(train_features, train_test_split)
    with ending_run():
        started = time.perf_counter()
        features, churned = assemble(columns_of(train_features, FEATURES)), train_features[TARGET].to_numpy()
        data_hash = training.data_hash(rows[[*INPUT_COLUMNS, TARGET]])
        hyperparameters, source = _hyperparameters(context, mlflow, features, churned, data_hash)
        costs = promotion_rule(settings()).costs
        trained = training.train(features, churned, hyperparameters, costs)
        seconds = time.perf_counter() - started

        bundle = ModelBundle(
            model=trained.model,
            transform=FeatureTransform(feature_imputer, feature_encoder, feature_scaler),
            threshold=trained.threshold,
            metrics=trained.evaluation.as_dict(OUT_OF_FOLD),
            code_version=code_version(),
            data_hash=data_hash,
            calibration=trained.calibration.calibration,
            costs=costs,
        )
        run_id = mlflow.active_run().info.run_id
        mlflow.log_params({"trees": hyperparameters.trees, **hyperparameters.booster_parameters()})
        mlflow.log_param("hyperparameters_from", source)
        figures = {**bundle.metrics, "threshold": bundle.threshold}
        mlflow.log_metrics({**figures, "training_time_seconds": seconds})
        mlflow.log_dict(trained.calibration.tried, "calibration.json")
        mlflow.log_dict(trained.importances, "feature_importances.json")
        reference = Reference.of({**columns_of(rows), SCORE: trained.out_of_fold})
        mlflow.log_dict(reference.to_json(), "reference.json")
        tags = {"dagster_run_id": context.run.run_id, "git_commit": bundle.code_version, "data_hash": bundle.data_hash}
        mlflow.set_tags(tags)
        tracking.log_dataset(rows, source=str(settings().platform.raw_csv))
        with postgres.connect(APPLICATION) as connection:
            newest = model_versions.newest(connection)
        with mlflow_registry.numbered_above(newest, run_id):
            version = tracking.log_model(bundle, registered_as=settings().mlflow.model, example=rows, tags=tags)

    model = TrainedModel(version=version, run_id=run_id, uri=join(settings().platform.artifacts_root, MODELS, run_id))
    bundle.save(model.uri)
    OutOfFold.of(rows, trained.out_of_fold).save(model.uri)
    with postgres.connect(APPLICATION) as connection:
        model_versions.register(connection, version=version, uri=model.uri, run_id=run_id, metrics=figures)
        lookups.save_reference(connection, version, reference)
    return dg.MaterializeResult(
        value=model,
        metadata={
            **figures,
            "version": version,
            "hyperparameters": dg.MetadataValue.json(hyperparameters.as_dict()),
            "hyperparameters_from": source,
            "calibration": trained.calibration.name,
            "training_rows": len(rows),
            "training_time_seconds": seconds,
            "mlflow_run": dg.MetadataValue.url(mlflow_registry.run_url(run_id)),
            "bundle": dg.MetadataValue.path(model.uri),
            "data_hash": bundle.data_hash,
            REVISION: bundle.code_version,
            TRAINING_SETTINGS: training_settings(),
            **file_hash(rows),
            "feature_importances": _importances(trained.importances),
            **next_asset("model_evaluation"),
        },
    )


@dg.asset(**TRAINING, kinds={"xgboost", "mlflow", "postgres"})
def model_evaluation(
    context: dg.AssetExecutionContext,
    churn_model: TrainedModel,
    train_test_split: pd.DataFrame,
    test_features: pd.DataFrame,
    mlflow_registry: MlflowRegistry,
    postgres: PostgresResource,
) -> dg.MaterializeResult[Comparison]:
    """The new model's figures on the test split, once, and its comparison with the champion, which decides.

    They are compared on the training split, each row judged by a model that has not seen it: the test split decides
    nothing. The bundle scores raw rows, as the stream does; this fails unless prepared test_features score alike.
    Where the costs of a call have changed since the champion was trained, what the decisions of both are worth at
    today's costs is compared, too. A run that MLflow has lost is reported as `missing_in_mlflow`, and decides nothing.
    """
    from churn_platform.modeling.comparison import Contender, compare, promotion_rule
    from churn_platform.modeling.evaluation import evaluate
    from churn_platform.modeling.report import make_report

    rows, train = rows_of(train_test_split, TEST), rows_of(train_test_split, TRAIN)
    candidate = ModelBundle.load(churn_model.uri)
    _require_same_rows(candidate, train)
    probabilities = candidate.score(columns_of(rows))
    candidate.require_same_scores(probabilities, assemble(columns_of(test_features, FEATURES)))
    evaluation = evaluate(rows[TARGET].to_numpy(), probabilities, threshold=candidate.threshold)
    with postgres.connect(APPLICATION) as connection:
        model_versions.of_run(connection, churn_model.version, churn_model.run_id)
        model_versions.record_metrics(connection, churn_model.version, evaluation.as_dict())
        champion = model_versions.champion(connection)
    report = make_report(candidate, train, rows)
    run_id = churn_model.run_id
    missing = _missing_in_mlflow(
        context,
        lambda: mlflow_registry.log_metrics(run_id, evaluation.as_dict()),
        lambda: mlflow_registry.log_evaluation(run_id, pictures.drawn(report), report.as_dict()),
    )
    comparison = compare(
        train,
        Contender(churn_model.version, run_id, churn_model.uri),
        None if champion is None else Contender(champion.version, champion.run_id, champion.uri),
        promotion_rule(settings()),
    )
    return dg.MaterializeResult(
        value=comparison,
        metadata={
            **evaluation.as_dict(),
            **comparison.candidate.as_dict(OUT_OF_FOLD),
            **({} if comparison.champion is None else comparison.champion.as_dict(f"champion_{OUT_OF_FOLD}")),
            **_gain(comparison),
            **pictures.shown(report),
            "version": churn_model.version,
            "champion_version": "none" if champion is None else champion.version,
            "test_rows": len(rows),
            "mean_risk_score": float(probabilities.mean()),
            **(missing or {"mlflow_run": dg.MetadataValue.url(mlflow_registry.run_url(run_id))}),
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
    """Who scores the stream: the new model if it beats the champion by more than chance, else that one.

    Both are judged out of fold on the training split, and no slice of the customers may lose much; `reason` says why.
    The stream follows at its next commit: no restart, and each row says which version scored it.
    Where MLflow's alias `champion` was moved by hand, that version is adopted instead. The table `model_versions` is
    the truth, and the alias follows it: to the version of the same MLflow run, never to another one of that number.
    What MLflow has lost is reported as `missing_in_mlflow`, and changes nothing of the decision. The rule is
    `modeling/candidates.py`.
    """
    by_hand = mlflow_registry.champion_set_by_hand()
    with postgres.connect(APPLICATION) as connection:
        former = model_versions.champion(connection)
        if by_hand is not None:  # a version without a bundle cannot score: say so, change nothing
            model_versions.of_run(connection, by_hand.version, by_hand.run_id)
        model_versions.of_run(connection, model_evaluation.version, model_evaluation.run_id)
        if former is not None and former.version == model_evaluation.champion_version:
            model_versions.of_run(connection, former.version, model_evaluation.champion_run_id or "")
        decision = decide(
            model_evaluation,
            champion_version=None if former is None else former.version,
            set_by_hand=None if by_hand is None else by_hand.version,
        )
        champion = model_versions.promote(
            connection, decision.version, by="alias" if decision.adopted else "training", reason=decision.reason
        )
    missing = _missing_in_mlflow(
        context,
        lambda: mlflow_registry.follow_champion(champion.version, champion.run_id),
        lambda: mlflow_registry.note_decision(
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
            "candidate_version": model_evaluation.version,
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


def _require_same_rows(candidate: ModelBundle, train: pd.DataFrame) -> None:
    """Make sure that the model learned from the training split as it is now: from another, it may know the test split.

    Raises:
        TrainingDataError: it learned from other rows.
    """
    from churn_platform.modeling.training import data_hash

    now = data_hash(train[[*INPUT_COLUMNS, TARGET]])
    if candidate.data_hash != now:
        raise TrainingDataError(
            f"churn_model was trained on rows with hash {candidate.data_hash}; the training split has {now}: the data "
            f"was prepared again since.",
            remedy="Materialize churn_model again, then model_evaluation: run training_job.",
        )


def _missing_in_mlflow(context: dg.AssetExecutionContext, *steps: Callable[[], None]) -> dict[str, str]:
    """Take the steps; what MLflow has lost is a warning, and metadata. It mirrors what the platform keeps elsewhere."""
    lost = []
    for step in steps:
        try:
            step()
        except MlflowLostError as error:
            context.log.warning(str(error))
            lost.append(error.problem)
    return {"missing_in_mlflow": " ".join(lost)} if lost else {}


def _require_one_file(train_features: pd.DataFrame, train_test_split: pd.DataFrame) -> None:
    """Make sure that both were made of the same customers file.

    Raises:
        TrainingDataError: one of them was made again since, from another file.
    """
    found = [file_hash(frame).get(FILE_HASH) for frame in (train_features, train_test_split)]
    if None not in found and found[0] != found[1]:
        raise TrainingDataError(
            f"train_features come from the customers file with SHA-256 {found[0]}, train_test_split from the one with "
            f"{found[1]}; a training needs both from one file.",
            remedy="Materialize the preparation group again, whole: run data_preparation_job.",
        )


def _hyperparameters(
    context: dg.AssetExecutionContext,
    mlflow: ModuleType,
    features: NDArray[np.float32],
    churned: NDArray[np.int64],
    data_hash: str,
) -> tuple["Hyperparameters", str]:
    """The committed hyperparameters, or those of a search with TUNING_TRIALS; and where they come from, in words."""
    from churn_platform.database.studies import study_storage
    from churn_platform.modeling import training, tuning

    trials = settings().training.tuning_trials
    if not trials:
        return training.Hyperparameters(), "committed"
    study = f"churn {data_hash[:16]} {tuning.STUDY_VERSION}"

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
            trials=trials,
            seconds=settings().training.tuning_seconds,
            study=study,
            storage=storage,
            on_trial=report,
        )
    source = f"trial {found[0].number} of {len(found)} of study {study}"
    context.log.info(f"Hyperparameters of {source}: {found[0].hyperparameters}")
    return found[0].hyperparameters, source


def _gain(comparison: Comparison) -> dict[str, float | dg.TableMetadataValue]:
    """What the challenger gains over the champion, on all rows and by slice; nothing where there is no champion."""
    gain, worth = comparison.gain, comparison.worth
    if gain is None:
        return {}
    return {
        "gain_roc_auc": gain.auc,
        "gain_at_least": gain.low,
        "gain_at_most": gain.high,
        **({} if worth is None else {"worth_at_todays_costs": worth.challenger, "champion_worth": worth.champion}),
        "gain_by_slice": dg.MetadataValue.table(
            [dg.TableRecord({"slice": name, "gain": round(value, 4)}) for name, value in gain.slices.items()],
            schema=dg.TableSchema(
                [
                    dg.TableColumn("slice", "string", "Customers that are judged by themselves."),
                    dg.TableColumn("gain", "float", "ROC AUC of the new model less the champion's, out of fold."),
                ]
            ),
        ),
    }


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
