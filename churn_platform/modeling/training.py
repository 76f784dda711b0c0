"""Fitting the model, the same one every time for the same rows. Pure; reads the training split and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import FEATURES
from churn_platform.modeling.calibration_choice import CalibrationChoice, choose_calibration
from churn_platform.modeling.evaluation import Evaluation, evaluate
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.threshold import CallCosts, choose_threshold
from churn_platform.scoring.booster import booster_to_bytes, import_xgboost, predict

if TYPE_CHECKING:
    import pandas as pd
    import xgboost

FOLDS = 5
SEED = 42
# A better credit score, or a customer who becomes active, never raises the risk. The rows do not contradict it, and the
# few of them that chance puts the other way cannot teach a rule that nobody could explain to a customer.
FALLING = ("CreditScore", "CreditScoreBins", "IsActiveMember")
THREADS = 1  # sums of gradients differ in their last bits with the number of threads, and so would the bundle's bytes

Learner: TypeAlias = "Callable[[NDArray[np.float32], NDArray[np.int64]], xgboost.Booster]"


@dataclass(frozen=True)
class Hyperparameters:
    """XGBoost's settings.

    The defaults were found by out-of-fold log loss on the training split of the public bank file, by 124 trials, and
    rounded. A later search (docs/explanation/hyperparameters.md) found none that is better by more than the seed of
    the folds is worth. Trees of depth 3 score as well as depth 4 there, and their reasons cost a third; trees times
    depth, which is what scoring costs, is within TREES_TIMES_DEPTH.
    """

    trees: int = 300
    max_depth: int = 3
    learning_rate: float = 0.036
    subsample: float = 0.79
    colsample_bytree: float = 0.93
    min_child_weight: float = 0.73
    reg_lambda: float = 0.26

    def booster_parameters(self) -> dict[str, str | int | float]:
        """Parameters as `xgboost.train` takes them, seeds and threads fixed."""
        return {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "min_child_weight": self.min_child_weight,
            "reg_lambda": self.reg_lambda,
            "monotone_constraints": f"({','.join(str(-(name in FALLING)) for name in FEATURES)})",
            "seed": SEED,
            "nthread": THREADS,
        }

    def as_dict(self) -> dict[str, int | float]:
        """Name -> value, of what a study varies."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingResult:
    """A fitted model and what its folds say of it.

    Attributes:
        model: XGBoost's UBJ bytes, fitted on all training rows.
        calibration: what is done to its probabilities, and why; `calibration.probabilities` has shape (n,): P(churn)
            of each training row by a model, and a calibration, that have not seen it.
        threshold: P(churn) from which the prediction is churn, chosen out of fold.
        evaluation: figures of those probabilities at the threshold.
        importances: feature -> its share of the total gain, 0..1, sum 1; greatest first.
    """

    model: bytes
    calibration: CalibrationChoice
    threshold: float
    evaluation: Evaluation
    importances: dict[str, float]

    @property
    def out_of_fold(self) -> NDArray[np.float32]:
        """Shape (n,), P(churn) of each training row by a model and a calibration that have not seen it."""
        return self.calibration.probabilities


def train(
    features: NDArray[np.float32],
    churned: NDArray[np.int64],
    hyperparameters: Hyperparameters | None = None,
    costs: CallCosts | None = None,
) -> TrainingResult:
    """Fit on all rows; choose calibration and threshold and measure, all out of fold.

    Args:
        features: shape (n, 14), in the order of FEATURES, training split only.
        churned: shape (n,), 0 or 1.
        hyperparameters: by default the committed ones.
        costs: what the threshold is chosen by; without them by F1.

    Returns:
        The same bytes and figures for the same arguments, on any number of cores.

    Raises:
        TrainingDataError: a fold would lack one of the outcomes, or there is no threshold to choose.
    """
    require_both_outcomes(churned)
    hyperparameters = hyperparameters or Hyperparameters()
    raw = out_of_fold_probabilities(features, churned, hyperparameters)
    calibration = choose_calibration(churned, raw, seed=SEED)
    threshold = choose_threshold(churned, calibration.probabilities, costs)
    booster = fit(features, churned, hyperparameters)
    return TrainingResult(
        model=booster_to_bytes(booster),
        calibration=calibration,
        threshold=threshold,
        evaluation=evaluate(churned, calibration.probabilities, threshold=threshold),
        importances=_importances(booster),
    )


def require_both_outcomes(churned: NDArray[np.int64]) -> None:
    """Make sure that each fold can have rows of either outcome.

    Raises:
        TrainingDataError: it cannot.
    """
    left = int(churned.sum())
    stayed = len(churned) - left
    if min(left, stayed) < FOLDS:
        raise TrainingDataError(
            f"The training split has {left:,} rows with Exited 1 and {stayed:,} with Exited 0; {FOLDS} folds need "
            f"{FOLDS} or more of each.",
            remedy="Add customers of the outcome that is rare, or check that Exited is 1 for those who left.",
        )


def out_of_fold_probabilities(
    features: NDArray[np.float32], churned: NDArray[np.int64], hyperparameters: Hyperparameters, *, seed: int = SEED
) -> NDArray[np.float32]:
    """P(churn) of each row by a model that has not seen it: five stratified folds, shuffled with a fixed seed.

    The number of trees is one of the hyperparameters, so that nothing here looks at the rows that are left out.

    Returns:
        shape (n,), 0..1.
    """
    return out_of_fold(features, churned, lambda rows, labels: fit(rows, labels, hyperparameters), seed=seed)


def out_of_fold(
    features: NDArray[np.float32], churned: NDArray[np.int64], learn: Learner, *, seed: int
) -> NDArray[np.float32]:
    """P(churn) of each row by what `learn` makes of the other four folds: it is given their rows and no others.

    Returns:
        shape (n,), 0..1.
    """
    from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]  # 1 s to import: only who trains pays

    probabilities = np.empty(len(churned), dtype=np.float32)
    folds = StratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    for seen, unseen in folds.split(features, churned):
        booster = learn(features[seen], churned[seen])
        probabilities[unseen] = predict(booster, features[unseen], threads=THREADS)
    return probabilities


def data_hash(rows: pd.DataFrame) -> str:
    """SHA-256 over the values and column names of the rows, in their order: equal data, equal hash, in any process."""
    import pandas as pd

    digest = hashlib.sha256("\n".join(map(str, rows.columns)).encode())
    digest.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def fit(features: NDArray[np.float32], churned: NDArray[np.int64], hyperparameters: Hyperparameters) -> xgboost.Booster:
    """A model of these rows: the same for the same rows and hyperparameters."""
    library = import_xgboost()
    rows = library.DMatrix(features, label=churned, feature_names=list(FEATURES), nthread=THREADS)
    booster: xgboost.Booster = library.train(
        hyperparameters.booster_parameters(), rows, num_boost_round=hyperparameters.trees
    )
    return booster


def _importances(booster: xgboost.Booster) -> dict[str, float]:
    gains = {name: float(gain) for name, gain in booster.get_score(importance_type="total_gain").items()}  # type: ignore[arg-type]
    total = sum(gains.values()) or 1.0
    shares = {name: gains.get(name, 0.0) / total for name in FEATURES}
    return dict(sorted(shares.items(), key=lambda share: -share[1]))
