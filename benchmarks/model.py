"""The model's figures, and what each choice in it is worth, on the customers file that CHURN_RAW_CSV names.

Every figure but the last one is out of fold on the training split. docs/explanation/model.md has the figures of the
public bank file.

Example: CHURN_RAW_CSV=ChurnModelling.csv python -m benchmarks.model --nested
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import StratifiedKFold

from churn_platform.features.cleaning import clean
from churn_platform.features.columns import columns_of
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform
from churn_platform.modeling.calibration_choice import choose_calibration
from churn_platform.modeling.evaluation import evaluate
from churn_platform.modeling.resampling import auc, bootstrapped_aucs
from churn_platform.modeling.splitting import TEST, TRAIN, rows_of, with_split
from churn_platform.modeling.threshold import f1_maximising_threshold
from churn_platform.modeling.training import (
    FOLDS,
    SEED,
    THREADS,
    Hyperparameters,
    fit,
    out_of_fold,
    out_of_fold_probabilities,
    train,
)
from churn_platform.modeling.tuning import COMMITTED, Trial, tune
from churn_platform.schema.current import customers_of, schema_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.reader import load_customers
from churn_platform.scoring.booster import booster_from_bytes, import_xgboost, predict
from churn_platform.settings import settings

if TYPE_CHECKING:
    import xgboost

SEEDS: Final = range(5)
LEARNED_SHARES: Final = (0.25, 0.5, 0.75, 1.0)
SCORED_ROWS: Final = 100_000
EXPLAINED_ROWS: Final = 500
REPEATS: Final = 5

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Variant(Hyperparameters):
    """The committed hyperparameters, with additional ones of XGBoost."""

    others: Mapping[str, str | float] = field(default_factory=dict)

    def booster_parameters(self, schema: CustomerSchema) -> dict[str, str | int | float]:
        """Return the parameters for `xgboost.train`."""
        return {**super().booster_parameters(schema), **self.others}


@dataclass(frozen=True)
class Data:
    """Both splits as the platform creates them. `null_age` marks imputed values of Age in the training split."""

    schema: CustomerSchema
    features: Features
    churned: Labels
    null_age: NDArray[np.bool_]
    test_features: Features
    test_churned: Labels


def read(place: str, schema: CustomerSchema) -> Data:
    """Return the customers, prepared as by the assets."""
    split = with_split(clean(load_customers(place, schema).customers, schema), schema)
    rows, test = rows_of(split, TRAIN), rows_of(split, TEST)
    imputer = Imputer.fit(rows, schema)
    imputed = pd.DataFrame(imputer.impute(columns_of(rows, schema.feature_columns)))
    transform = FeatureTransform(
        schema=schema,
        imputer=imputer,
        encoder=OneHotEncoder.fit(imputed, schema),
        scaler=MinMaxScaler.fit(imputed, schema),
    )
    return Data(
        schema=schema,
        features=transform.transform(columns_of(rows, schema.feature_columns)),
        churned=rows[schema.target].to_numpy(),
        null_age=rows["Age"].isna().to_numpy(),
        test_features=transform.transform(columns_of(test, schema.feature_columns)),
        test_churned=test[schema.target].to_numpy(),
    )


def figures(churned: Labels, probabilities: NDArray[np.float32]) -> dict[str, float]:
    """Return the metrics of out-of-fold probabilities, calibrated if that helps, at the threshold with the highest F1.

    `f1_unseen` evaluates each fifth of the rows at the threshold chosen on the other four. `f1` is optimistic, because
    its threshold is chosen and measured on the same rows.
    """
    choice = choose_calibration(churned, probabilities, seed=SEED)
    threshold = f1_maximising_threshold(churned, choice.probabilities)
    called = np.zeros(len(churned), np.bool_)
    for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(probabilities, churned):
        chosen = f1_maximising_threshold(churned[seen], choice.probabilities[seen])
        called[unseen] = choice.probabilities[unseen] >= chosen
    return {
        **evaluate(churned, choice.probabilities, threshold=threshold).as_dict(),
        "threshold": threshold,
        "f1_unseen": float(2 * (called & (churned == 1)).sum() / (called.sum() + churned.sum())),
        "calibrated": float(choice.calibration is not None),
    }


def mean_figures(
    churned: Labels, score: Callable[[int], NDArray[np.float32]], *, seeds: Sequence[int] = SEEDS
) -> dict[str, float]:
    """Return the mean metrics over seeds of the folds. `score` returns the out-of-fold probabilities for a seed."""
    found = [figures(churned, score(seed)) for seed in seeds]
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


def variants(data: Data, chosen: Hyperparameters = COMMITTED) -> dict[str, tuple[Features, Hyperparameters]]:
    """Return the features and hyperparameters of the committed model, which is first, and of its alternatives."""
    churners = float(data.churned.mean())
    unknown_age = data.features.copy()
    unknown_age[data.null_age, data.schema.feature_names.index("Age")] = np.nan
    return {
        "as committed": (data.features, chosen),
        "balanced class weights": (
            data.features,
            _variant(chosen, scale_pos_weight=(1 - churners) / churners),
        ),
        "null ages not imputed": (unknown_age, chosen),
        "no monotone constraints": (data.features, _variant(chosen, monotone_constraints="()")),
        "depth 4, 250 trees": (
            data.features,
            Hyperparameters(
                trees=250,
                max_depth=4,
                learning_rate=0.032,
                subsample=0.83,
                colsample_bytree=0.72,
                min_child_weight=0.74,
                reg_lambda=0.33,
            ),
        ),
        "half the trees, twice the learning rate": (
            data.features,
            replace(chosen, trees=chosen.trees // 2, learning_rate=2 * chosen.learning_rate),
        ),
        "twice the trees, half the learning rate": (
            data.features,
            replace(chosen, trees=2 * chosen.trees, learning_rate=chosen.learning_rate / 2),
        ),
        "XGBoost's defaults, 100 trees": (
            data.features,
            Hyperparameters(
                trees=100,
                max_depth=6,
                learning_rate=0.3,
                subsample=1.0,
                colsample_bytree=1.0,
                min_child_weight=1.0,
                reg_lambda=1.0,
            ),
        ),
    }


def _variant(chosen: Hyperparameters, **others: str | float) -> Variant:
    return Variant(**asdict(chosen), others=others)


def nested(
    data: Data, *, trials: int, seeds: Sequence[int] = SEEDS, search: Callable[..., list[Trial]] = tune
) -> dict[str, float]:
    """Measure with hyperparameters that are searched per fold without its rows, so that no step has seen them.

    No search begins with the committed ones: they were found on all rows.

    Args:
        data: the customers.
        trials: of each search.
        seeds: of the folds.
        search: searches; called as `tune`.
    """

    def learn(seen: NDArray[np.intp]) -> "xgboost.Booster":
        features, churned = data.features[seen], data.churned[seen]
        found = search(features, churned, data.schema, trials=trials, seconds=3600, study="nested", first=None)
        return fit(features, churned, data.schema, found[0].hyperparameters)

    return mean_figures(
        data.churned, lambda seed: out_of_fold(data.features, data.churned, learn, seed=seed), seeds=seeds
    )


def learning_curve(
    data: Data, chosen: Hyperparameters = COMMITTED, *, seeds: Sequence[int] = SEEDS
) -> dict[str, dict[str, float]]:
    """Measure hyperparameters by the number of training rows per fold, drawn at random."""

    def score(seed: int, share: float) -> NDArray[np.float32]:
        def learn(seen: NDArray[np.intp]) -> "xgboost.Booster":
            drawn = np.random.default_rng(seed).permutation(len(seen))[: round(share * len(seen))]
            drawn.sort()  # in the original order, so that all rows give the same result as elsewhere
            return fit(data.features, data.churned, data.schema, chosen, among=seen[drawn])

        return out_of_fold(data.features, data.churned, learn, seed=seed)

    most = len(data.churned) * (FOLDS - 1) / FOLDS
    return {
        f"learned from {share * most:,.0f} rows, {100 * share:.0f} %": mean_figures(
            data.churned, partial(score, share=share), seeds=seeds
        )
        for share in LEARNED_SHARES
    }


def on_the_test_split(data: Data, chosen: Hyperparameters = COMMITTED) -> dict[str, float]:
    """Return the ROC AUC of a model on the test split, with its 95 % interval. It is informational."""
    trained = train(data.features, data.churned, data.schema, hyperparameters=chosen)
    booster = booster_from_bytes(trained.model)
    probabilities = predict(booster, data.test_features, threads=THREADS)
    if trained.calibration.calibration is not None:
        probabilities = trained.calibration.calibration.apply(probabilities)
    low, high = np.quantile(bootstrapped_aucs(data.test_churned, probabilities), [0.025, 0.975])
    return {"roc_auc": auc(data.test_churned, probabilities), "low": float(low), "high": float(high)}


def costs(data: Data, hyperparameters: Hyperparameters) -> dict[str, float]:
    """Return the milliseconds of one thread for 100,000 scores, and for exact contributions of 1,000 rows."""
    booster = fit(data.features, data.churned, data.schema, hyperparameters)
    names = list(data.schema.feature_names)
    many = np.resize(data.features, (SCORED_ROWS, len(names)))
    library = import_xgboost()
    few = library.DMatrix(data.features[:EXPLAINED_ROWS], feature_names=names, nthread=THREADS)
    return {
        "scores_ms_100k": 1000 * _seconds(lambda: predict(booster, many, threads=THREADS)),
        "reasons_ms_1k": 1000 * _seconds(lambda: booster.predict(few, pred_contribs=True)) * 1000 / EXPLAINED_ROWS,
    }


def _seconds(work: Callable[[], object]) -> float:
    """Return the minimum over some runs, because the machine is shared."""
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def main(
    trials: Annotated[int, typer.Option(min=0, help="Trials of a search on the training split.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Seeds of the folds to evaluate each trial with.")] = 3,
    nest: Annotated[bool, typer.Option("--nested", help="Also search within each fold, which takes long.")] = False,
    nested_seeds: Annotated[int, typer.Option(min=1, help="Seeds of the folds for the nested search.")] = 5,
    nested_trials: Annotated[int, typer.Option(min=1, help="Trials of each nested search.")] = 30,
    curve: Annotated[bool, typer.Option("--learning-curve", help="Also train with fewer rows.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure the model on the customers file."""
    console, data = Console(width=160), read(customers_of(settings()), schema_of(settings()))
    found: dict[str, object] = {"rows": len(data.churned)}
    table = _table(f"Out of fold on {len(data.churned):,} training rows, mean of {len(SEEDS)} seeds of the folds")
    rows: dict[str, dict[str, float]] = {}
    for name, (features, chosen) in variants(data).items():

        def score(seed: int, features: Features = features, chosen: Hyperparameters = chosen) -> NDArray[np.float32]:
            return out_of_fold_probabilities(features, data.churned, data.schema, chosen, seed=seed)

        rows[name] = {**mean_figures(data.churned, score), **costs(data, chosen)}
    if nest:
        rows[f"searched within each fold ({nested_trials} trials)"] = nested(
            data, trials=nested_trials, seeds=range(nested_seeds)
        )
    if curve:
        rows |= learning_curve(data)
    for name, each in rows.items():
        table.add_row(name, *(_shown(each.get(column)) for column in COLUMNS))
    console.print(table)
    found["out_of_fold"] = rows
    if trials:
        began, worked = time.perf_counter(), time.process_time()
        best = tune(
            data.features, data.churned, data.schema, trials=trials, seconds=3600, study="benchmark", repeats=repeats
        )[:5]
        took = {"seconds": time.perf_counter() - began, "core_seconds": time.process_time() - worked}
        found["search"] = {**took, "best": [asdict(trial) for trial in best]}
        console.print(
            f"{trials} trials in {took['seconds']:.0f} s, {took['core_seconds']:.0f} s of a core; the best:",
            *best,
            sep="\n",
        )
    found["test"] = on_the_test_split(data)
    console.print("On the test split:", found["test"])
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n")


COLUMNS: Final = (
    "roc_auc",
    "brier",
    "f1",
    "f1_unseen",
    "precision",
    "recall",
    "threshold",
    "ece",
    "calibrated",
    "scores_ms_100k",
    "reasons_ms_1k",
)


def _table(title: str) -> Table:
    table = Table("", title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    return table


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if value < 1 else f"{value:.0f}"


if __name__ == "__main__":
    typer.run(main)
