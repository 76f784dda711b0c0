"""Train a model. The same rows always give the same model. Pure; uses only the training split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.calibration_choice import CalibrationChoice, choose_calibration
from churn_platform.modeling.evaluation import Evaluation, evaluate
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.stored_features import StoredFeatures
from churn_platform.modeling.threshold import choose_threshold
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.booster import booster_to_bytes, import_xgboost, predict
from churn_platform.scoring.costs import CallCosts

if TYPE_CHECKING:
    import xgboost

    from churn_platform.files.stored_frame import Frame

FOLDS: Final = 5
SEED: Final = 42
MONOTONE: Final = {"rises": 1, "falls": -1, None: 0}
"""XGBoost's constraint for a column's `risk`. Without it, the model would learn noise that contradicts what is known.
Nobody could explain that to a customer."""
THREADS: Final = 1  # with more threads, sums of gradients differ in their last bits, and so would the bundle's bytes

MAX_PARALLEL_FITS: Final = 3
"""Fits that run at the same time, each in one thread, so that the number of cores changes no byte. Six fits take two
rounds with three. Each adds 0.4 GB for ten million customers, so more of them would cost more memory than time."""

Features: TypeAlias = "NDArray[np.float32] | StoredFeatures"
"""Shape (n, features): in memory, or in a file that may be larger than memory. Both give the same model."""

FoldTrainer: TypeAlias = "Callable[[NDArray[np.intp]], xgboost.Booster]"
"""Trains a model on the rows with these numbers."""


@dataclass(frozen=True)
class Hyperparameters:
    """XGBoost's settings.

    The defaults were found by 124 trials on the training split of the public bank file, by out-of-fold log loss, and
    rounded. A later search (docs/explanation/hyperparameters.md) found no improvement larger than the effect of the
    folds' seed. On that file trees of depth 3 score as well as those of depth 4, and explaining them
    costs a third. The cost of scoring is proportional to trees times depth, which is within TREES_TIMES_DEPTH.
    """

    trees: int = 300
    max_depth: int = 3
    learning_rate: float = 0.036
    subsample: float = 0.79
    colsample_bytree: float = 0.93
    min_child_weight: float = 0.73
    reg_lambda: float = 0.26

    def booster_parameters(self, schema: CustomerSchema) -> dict[str, str | int | float]:
        """Return the parameters of `xgboost.train`, with seed and threads fixed.

        Args:
            schema: states in which direction the risk may move with a column.
        """
        constraints = (MONOTONE[schema.column(feature.column).risk] for feature in schema.features)
        return {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "min_child_weight": self.min_child_weight,
            "reg_lambda": self.reg_lambda,
            "monotone_constraints": f"({','.join(map(str, constraints))})",
            "seed": SEED,
            "nthread": THREADS,
        }

    def as_dict(self) -> dict[str, int | float]:
        """Return name -> value."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and its out-of-fold metrics.

    Attributes:
        model: UBJ bytes of the model, trained on all training rows.
        calibration: how its probabilities are calibrated, and why. `calibration.probabilities` has shape (n,): P(churn)
            of each training row by a model and a calibration that have not seen it.
        threshold: P(churn) from which the prediction is churn, chosen out of fold.
        evaluation: metrics of those probabilities at the threshold.
        importances: feature -> its share of the total gain, 0..1, sum 1; greatest first.
    """

    model: bytes
    calibration: CalibrationChoice
    threshold: float
    evaluation: Evaluation
    importances: dict[str, float]

    @property
    def out_of_fold(self) -> NDArray[np.float32]:
        """P(churn) of each training row by a model and a calibration that have not seen it. Shape (n,)."""
        return self.calibration.probabilities


def train(
    features: Features,
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    hyperparameters: Hyperparameters | None = None,
    costs: CallCosts | None = None,
    *,
    weights: NDArray[np.float64] | None = None,
) -> TrainingResult:
    """Train on all rows; choose calibration and threshold and compute metrics, all out of fold.

    Args:
        features: shape (n, features), in the order of `schema.features`, training split only.
        churned: shape (n,), 0 or 1.
        schema: names the features and states in which direction the risk may move with them.
        hyperparameters: None for the committed ones.
        costs: what the threshold is chosen by; None for F1.
        weights: shape (n,), how many customers each row stands for; None for one each. Model, calibration, threshold
            and metrics are those of these customers.

    Returns:
        The same bytes and metrics for the same arguments, on any number of cores.

    Raises:
        TrainingDataError: a fold would lack one of the outcomes, or no threshold is profitable.
    """
    require_both_outcomes(churned, schema)
    hyperparameters = hyperparameters or Hyperparameters()
    with parallel_fits() as pool:
        model = pool.submit(fit, features, churned, schema, hyperparameters, weights=weights)
        raw = out_of_fold_probabilities(features, churned, schema, hyperparameters, pool=pool, weights=weights)
        booster = model.result()
    calibration = choose_calibration(churned, raw, seed=SEED, weights=weights)
    threshold = choose_threshold(churned, calibration.probabilities, costs, weights=weights)
    return TrainingResult(
        model=booster_to_bytes(booster),
        calibration=calibration,
        threshold=threshold,
        evaluation=evaluate(churned, calibration.probabilities, threshold=threshold, weights=weights),
        importances=_importances(booster, schema),
    )


def require_both_outcomes(churned: NDArray[np.int64], schema: CustomerSchema) -> None:
    """Check that there are enough rows of either outcome for every fold.

    Raises:
        TrainingDataError: there are too few.
    """
    left = int(churned.sum())
    stayed = len(churned) - left
    if min(left, stayed) < FOLDS:
        raise TrainingDataError(
            f"The training split has {left:,} customers who left and {stayed:,} who stayed. {FOLDS} folds need {FOLDS} "
            f"or more of each.",
            remedy=f"Add customers of the rare outcome, or check that {schema.target} is {schema.left} if they left.",
        )


@contextmanager
def parallel_fits() -> Iterator[Executor]:
    """Yield a pool with one thread per fit. XGBoost computes outside Python's lock.

    After an error, fits that have not started never start.
    """
    import_xgboost()  # here, because importing it hides scikit-learn from other threads for a moment
    pool = ThreadPoolExecutor(min(MAX_PARALLEL_FITS, os.cpu_count() or 1), thread_name_prefix="fit")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def out_of_fold_probabilities(
    features: Features,
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    hyperparameters: Hyperparameters,
    *,
    seed: int = SEED,
    pool: Executor | None = None,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Return P(churn) of each row by a model that has not seen it: five stratified folds, shuffled with a fixed seed.

    The number of trees is a hyperparameter, so nothing here depends on the held-out rows.

    Returns:
        shape (n,), 0..1.
    """

    def train_fold(seen: NDArray[np.intp]) -> xgboost.Booster:
        return fit(features, churned, schema, hyperparameters, among=seen, weights=weights)

    return out_of_fold(features, churned, train_fold, seed=seed, pool=pool)


def out_of_fold(
    features: Features,
    churned: NDArray[np.int64],
    train_fold: FoldTrainer,
    *,
    seed: int,
    pool: Executor | None = None,
) -> NDArray[np.float32]:
    """Return P(churn) of each row by the model that `train_fold` trains on the other four folds.

    Args:
        features: shape (n, features).
        churned: shape (n,), 0 or 1.
        train_fold: called in several threads at the same time.
        seed: seed of the folds.
        pool: where the folds are trained; None for a pool of their own.

    Returns:
        shape (n,), 0..1.
    """
    from sklearn.model_selection import StratifiedKFold  # 1 s to import

    if pool is None:
        with parallel_fits() as own:
            return out_of_fold(features, churned, train_fold, seed=seed, pool=own)
    probabilities = np.empty(len(churned), dtype=np.float32)

    fold_of = np.empty(len(churned), dtype=np.int8)  # the row numbers of all folds would take 40 bytes for each row
    splitter = StratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    for fold, (_, unseen) in enumerate(splitter.split(fold_of, churned)):
        fold_of[unseen] = fold

    def score_fold(fold: int) -> None:
        booster = train_fold(np.flatnonzero(fold_of != fold))
        unseen = np.flatnonzero(fold_of == fold)
        if isinstance(features, StoredFeatures):
            for numbers, rows in features.blocks(unseen):
                probabilities[numbers] = predict(booster, rows, threads=THREADS)
        else:
            probabilities[unseen] = predict(booster, features[unseen], threads=THREADS)

    for scored in [pool.submit(score_fold, fold) for fold in range(FOLDS)]:
        scored.result()
    return probabilities


def data_hash(rows: Frame, columns: Sequence[str] | None = None) -> str:
    """Return the SHA-256 of the column names and values, in their order. It is the same in any process.

    Args:
        rows: n rows, in memory or stored.
        columns: the columns that count; None for all.
    """
    import pandas as pd

    from churn_platform.files.stored_frame import blocks_of

    names = [*map(str, rows.columns if columns is None else columns)]
    digest = hashlib.sha256("\n".join(names).encode())
    for block in blocks_of(rows, names):
        digest.update(pd.util.hash_pandas_object(block, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def fit(
    features: Features,
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    hyperparameters: Hyperparameters,
    *,
    among: NDArray[np.intp] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> xgboost.Booster:
    """Return a model trained on these rows, the same for the same arguments.

    Args:
        features: shape (n, features), in the order of `schema.features`.
        churned: shape (n,), 0 or 1.
        schema: names the features and states in which direction the risk may move with them.
        hyperparameters: XGBoost's settings.
        among: the numbers of the rows to learn from; None for all.
        weights: shape (n,), how much each row counts; None for all alike.
    """
    library = import_xgboost()
    # It holds one byte per value, the number of its bin. DMatrix gives the same model, and holds eight bytes more.
    if isinstance(features, StoredFeatures):
        rows = _quantised(features, churned, schema, among=among, weights=weights)
    else:
        rows = library.QuantileDMatrix(
            features if among is None else features[among],
            label=churned if among is None else churned[among],
            weight=weights if weights is None or among is None else weights[among],
            feature_names=list(schema.feature_names),
            nthread=THREADS,
        )
    booster: xgboost.Booster = library.train(
        hyperparameters.booster_parameters(schema), rows, num_boost_round=hyperparameters.trees
    )
    return booster


def _quantised(
    features: StoredFeatures,
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    *,
    among: NDArray[np.intp] | None,
    weights: NDArray[np.float64] | None,
) -> xgboost.QuantileDMatrix:
    """Return the numbers of the bins of stored features, which are read block by block, several times.

    XGBoost finds the same bins whether it gets the rows at once or in blocks.
    """
    library = import_xgboost()

    class Blocks(library.DataIter):  # type: ignore[name-defined,misc]  # the library is imported late
        def __init__(self) -> None:
            self._remaining = features.blocks(among)
            super().__init__()

        def reset(self) -> None:
            self._remaining = features.blocks(among)

        def next(self, input_data: Callable[..., None]) -> bool:
            block = next(self._remaining, None)
            if block is None:
                return False
            numbers, rows = block
            input_data(
                data=rows,
                label=churned[numbers],
                weight=None if weights is None else weights[numbers],
                feature_names=list(schema.feature_names),
            )
            return True

    quantised: xgboost.QuantileDMatrix = library.QuantileDMatrix(Blocks(), nthread=THREADS)
    return quantised


def _importances(booster: xgboost.Booster, schema: CustomerSchema) -> dict[str, float]:
    gains = {name: float(gain) for name, gain in booster.get_score(importance_type="total_gain").items()}  # type: ignore[arg-type]  # lists occur in multi-class models only
    total = sum(gains.values()) or 1.0
    shares = {name: gains.get(name, 0.0) / total for name in schema.feature_names}
    return dict(sorted(shares.items(), key=lambda share: -share[1]))
