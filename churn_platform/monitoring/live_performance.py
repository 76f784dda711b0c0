"""Live performance: how well predictions match the outcomes that became known later. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.monitoring.verdicts import is_auc_worse

SCORE_BINS: Final = 1_000
"""Scores are counted in this many bins of equal width, 0..1. The error that this adds to a ROC AUC is below 0.001."""

CALIBRATION_BINS: Final = 10


@dataclass(frozen=True)
class Counts:
    """Labelled predictions of one model version by score. All of shape (SCORE_BINS,).

    Attributes:
        stayed: customers who stayed.
        left: customers who left.
        scores: sum of the scores.
    """

    stayed: NDArray[np.float64]
    left: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """Totals over all bins: predictions of churn, how many of those customers left, and the sum of squared errors."""

    predicted: int
    predicted_and_left: int
    squared_error: float


@dataclass(frozen=True)
class LivePerformance:
    """Metrics of one model version over its labelled predictions. Rates are in 0..1, or None if undefined.

    Attributes:
        labelled: predictions whose outcome is known.
        churned: how many of those customers left.
        roc_auc: None while all left or all stayed.
        roc_auc_error: standard error of the ROC AUC.
        precision: share of predicted churners who left.
        recall: share of customers who left who were predicted to leave.
        brier: mean squared error of the score.
        ece: expected calibration error, over ten bins of about equal count.
        mean_score: mean score, to compare with churn_rate.
        churn_rate: share of customers who left.
    """

    labelled: int
    churned: int
    roc_auc: float | None
    roc_auc_error: float | None
    precision: float | None
    recall: float | None
    brier: float
    ece: float
    mean_score: float
    churn_rate: float

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> LivePerformance:
        """Return the metrics in a row of live_performance. NaN, which a data frame has for null, becomes None."""
        values: dict[str, Any] = {each.name: row[each.name] for each in fields(cls)}
        known: dict[str, Any] = {name: None if value != value else value for name, value in values.items()}
        return cls(**known)

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the metrics by name."""
        return asdict(self)

    def is_worse_than(self, expected_auc: float, *, by: float) -> bool:
        """Return whether the ROC AUC is at least `by` below the expected one, and below it with 95 % confidence."""
        if self.roc_auc is None or self.roc_auc_error is None:
            return False
        return is_auc_worse(self.roc_auc, self.roc_auc_error, expected=expected_auc, by=by)


def live_performance(counts: Counts, tally: Tally) -> LivePerformance:
    """Return the metrics of a model version. At least one labelled prediction is required."""
    stayed, left = float(counts.stayed.sum()), float(counts.left.sum())
    labelled = stayed + left
    auc = _roc_auc(counts) if stayed and left else None
    return LivePerformance(
        labelled=round(labelled),
        churned=round(left),
        roc_auc=auc,
        roc_auc_error=None if auc is None else _standard_error(auc, left, stayed),
        precision=tally.predicted_and_left / tally.predicted if tally.predicted else None,
        recall=tally.predicted_and_left / left if left else None,
        brier=tally.squared_error / labelled,
        ece=float(sum(abs(scores - left) for _, scores, left in _groups(counts)) / labelled),
        mean_score=float(counts.scores.sum() / labelled),
        churn_rate=left / labelled,
    )


def reliability(counts: Counts) -> list[tuple[float, float]]:
    """Return mean score and churn rate of ten groups of about equal count, ordered by score. Each 0..1."""
    return [(float(scores / rows), float(left / rows)) for rows, scores, left in _groups(counts)]


def _groups(counts: Counts) -> list[tuple[float, float, float]]:
    """Return rows, sum of scores and customers who left for each tenth of the rows by score. Bins are not split."""
    rows = counts.stayed + counts.left
    middle = np.cumsum(rows) - rows / 2
    group = np.minimum((middle / rows.sum() * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums = [np.bincount(group, each, minlength=CALIBRATION_BINS) for each in (rows, counts.scores, counts.left)]
    return [(r, s, left) for r, s, left in zip(*(each.tolist() for each in sums), strict=True) if r]


def _roc_auc(counts: Counts) -> float:
    """Return P(a customer who left scored above one who stayed), with ties counted half."""
    below = np.cumsum(counts.stayed) - counts.stayed
    wins = (counts.left * (below + counts.stayed / 2)).sum()
    return float(wins / (counts.left.sum() * counts.stayed.sum()))


def _standard_error(auc: float, left: float, stayed: float) -> float:
    """Return the standard error of a ROC AUC by Hanley and McNeil (1982), from the number of each outcome."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (left - 1) * (q1 - auc**2) + (stayed - 1) * (q2 - auc**2)
    return float(np.sqrt(max(variance, 0.0) / (left * stayed)))
