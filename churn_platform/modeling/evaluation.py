"""Metrics of a model's probabilities. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.exceptions import TrainingDataError

CALIBRATION_BINS: Final = 10


@dataclass(frozen=True)
class Evaluation:
    """Metrics over one set of rows. All are in 0..1. For brier and ece lower is better, for the others higher.

    accuracy, precision, recall and f1 depend on the model's threshold. roc_auc, pr_auc (average precision), brier and
    ece (expected calibration error) depend on the probabilities alone.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    roc_auc: float
    pr_auc: float
    brier: float
    ece: float

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """Return name -> value, each name with the prefix, such as "oof_"."""
        return {f"{prefix}{name}": float(value) for name, value in asdict(self).items()}


def evaluate(
    churned: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    *,
    threshold: float,
    weights: NDArray[np.floating] | None = None,
) -> Evaluation:
    """Return the metrics of probabilities against the known outcomes.

    Args:
        churned: shape (n,), 0 or 1, both present.
        probabilities: shape (n,), P(churn) 0..1.
        threshold: the prediction is churn at this probability and above.
        weights: shape (n,), how many customers each row stands for; None for one each.

    Raises:
        TrainingDataError: everybody or nobody churned, so there is no ROC curve.
    """
    from sklearn import metrics  # 1 s to import

    if churned.min() == churned.max():
        outcome = "left" if churned[0] else "stayed"
        raise TrainingDataError(f"All {len(churned)} customers {outcome}: ROC AUC needs both outcomes.")
    predicted = (probabilities >= threshold).astype(np.int8)
    return Evaluation(
        accuracy=float(metrics.accuracy_score(churned, predicted, sample_weight=weights)),
        precision=float(metrics.precision_score(churned, predicted, zero_division=0.0, sample_weight=weights)),
        recall=float(metrics.recall_score(churned, predicted, sample_weight=weights)),
        f1=float(metrics.f1_score(churned, predicted, sample_weight=weights)),
        roc_auc=float(metrics.roc_auc_score(churned, probabilities, sample_weight=weights)),
        pr_auc=float(metrics.average_precision_score(churned, probabilities, sample_weight=weights)),
        brier=brier_score(churned, probabilities, weights),
        ece=expected_calibration_error(churned, probabilities, weights),
    )


def brier_score(
    churned: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    weights: NDArray[np.floating] | None = None,
) -> float:
    """Return the mean squared difference between P(churn) and the outcome, 0..1; lower is better."""
    return float(np.average((probabilities.astype(np.float64) - churned) ** 2, weights=weights))


def expected_calibration_error(
    churned: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    weights: NDArray[np.floating] | None = None,
) -> float:
    """Return the mean distance between probability and churn rate: 0 if 30 % of those scored 30 % churn, and so on.

    Rows are sorted by probability into ten bins of equal count. The result is the mean over all rows of
    |mean probability - churn rate| of their bin. With weights, means are weighted.
    """
    bins = [rows for rows in calibration_bins(probabilities) if len(rows)]
    if weights is not None:
        exact = probabilities.astype(np.float64)
        distances = [
            abs(np.average(exact[rows], weights=weights[rows]) - np.average(churned[rows], weights=weights[rows]))
            for rows in bins
        ]
        return float(np.average(distances, weights=[weights[rows].sum() for rows in bins]))
    return float(
        sum(
            len(rows) * abs(float(probabilities[rows].mean(dtype=np.float64)) - float(churned[rows].mean()))
            for rows in bins
        )
        / len(probabilities)
    )


def calibration_bins(probabilities: NDArray[np.floating]) -> list[NDArray[np.intp]]:
    """Return the row numbers of CALIBRATION_BINS bins of equal count, by ascending probability."""
    return np.array_split(np.argsort(probabilities, kind="stable"), CALIBRATION_BINS)
