"""How good a model's probabilities are, and which of two models is better. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.exceptions import TrainingDataError

CALIBRATION_BINS: Final = 10


@dataclass(frozen=True)
class Evaluation:
    """Figures over one set of rows. All lie in 0..1; for brier and ece less is better, for the others more.

    accuracy, precision, recall and f1 are those at the model's threshold; roc_auc, brier and ece (expected calibration
    error) read the probabilities.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    roc_auc: float
    brier: float
    ece: float

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """Name -> value, each name with the prefix, such as "oof_"."""
        return {f"{prefix}{name}": float(value) for name, value in asdict(self).items()}


def evaluate(churned: NDArray[np.integer], probabilities: NDArray[np.floating], *, threshold: float) -> Evaluation:
    """Judge probabilities against what happened.

    Args:
        churned: shape (n,), 0 or 1, both present.
        probabilities: shape (n,), P(churn) 0..1.
        threshold: from this probability on, the prediction is churn.

    Raises:
        TrainingDataError: everybody or nobody churned, so that there is no ROC curve.
    """
    from sklearn import metrics  # type: ignore[import-untyped]  # 1 s to import: only who evaluates pays

    if churned.min() == churned.max():
        raise TrainingDataError(f"All {len(churned)} rows have Exited = {churned[0]}: ROC AUC needs both 0 and 1.")
    predicted = (probabilities >= threshold).astype(np.int8)
    return Evaluation(
        accuracy=float(metrics.accuracy_score(churned, predicted)),
        precision=float(metrics.precision_score(churned, predicted, zero_division=0.0)),
        recall=float(metrics.recall_score(churned, predicted)),
        f1=float(metrics.f1_score(churned, predicted)),
        roc_auc=float(metrics.roc_auc_score(churned, probabilities)),
        brier=brier_score(churned, probabilities),
        ece=expected_calibration_error(churned, probabilities),
    )


def brier_score(churned: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Mean squared difference between P(churn) and what happened, 0..1; less is better."""
    return float(np.mean((probabilities.astype(np.float64) - churned) ** 2))


def expected_calibration_error(churned: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """How far probabilities lie from what happens: 0 when of those called 30 % three in ten churn, and so on.

    Rows are put into ten bins of equal count by their probability; the result is the mean over all rows of
    |mean probability - churn rate| of their bin.
    """
    bins = [rows for rows in calibration_bins(probabilities) if len(rows)]
    return float(
        sum(
            len(rows) * abs(float(probabilities[rows].mean(dtype=np.float64)) - float(churned[rows].mean()))
            for rows in bins
        )
        / len(probabilities)
    )


def calibration_bins(probabilities: NDArray[np.floating]) -> list[NDArray[np.intp]]:
    """Row numbers of CALIBRATION_BINS bins of equal count, from the least probability to the greatest."""
    return np.array_split(np.argsort(probabilities, kind="stable"), CALIBRATION_BINS)
