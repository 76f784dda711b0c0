"""Live performance: how good scores turned out to be, from counts of what became known. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SCORE_BINS: Final = 1_000
"""Bins of equal width that scores are counted in, 0..1: the error that they bring to a ROC AUC is below 0.001."""

CALIBRATION_BINS: Final = 10
Z_95: Final = 1.96
MOST_ECE: Final = 0.05  # a score of 50 % that means 45 % misleads nobody; twice that does
LEAST_LABELLED: Final = 200  # fewer outcomes say nothing of a model


@dataclass(frozen=True)
class Counts:
    """Labelled predictions of one model version by score. All of shape (SCORE_BINS,).

    Attributes:
        stayed: how many stayed.
        left: how many left.
        scores: sum of the scores.
    """

    stayed: NDArray[np.float64]
    left: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """What is counted beside the bins: predictions of churn and how many of those left, and squared errors."""

    predicted: int
    predicted_and_left: int
    squared_error: float


@dataclass(frozen=True)
class LivePerformance:
    """Figures of one model version over its labelled predictions. Rates lie in 0..1, None where nothing defines them.

    Attributes:
        labelled: predictions whose outcome is known.
        churned: how many of those left.
        roc_auc: None while all left or all stayed.
        roc_auc_error: its standard error.
        precision: of those predicted to leave, the share that left.
        recall: of those that left, the share that was predicted to.
        brier: mean squared error of the score.
        ece: expected calibration error, over ten bins of about equal count.
        mean_score: mean score; churn_rate beside it is the mean of what happened.
        churn_rate: share that left.
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
        """From a row of live_performance; a NaN, as a frame has it, is None."""
        values: dict[str, Any] = {each.name: row[each.name] for each in fields(cls)}
        known: dict[str, Any] = {name: None if value != value else value for name, value in values.items()}
        return cls(**known)

    def as_dict(self) -> dict[str, float | int | None]:
        """Name -> value."""
        return asdict(self)

    def is_worse_than(self, expected_auc: float, *, by: float) -> bool:
        """Whether the ROC AUC is lower than what was expected, by so much, and 95 % sure to be lower at all."""
        if self.roc_auc is None or self.roc_auc_error is None:
            return False
        surely_at_most = self.roc_auc + Z_95 * self.roc_auc_error
        return expected_auc - self.roc_auc >= by and surely_at_most < expected_auc


def live_performance(counts: Counts, tally: Tally) -> LivePerformance:
    """The figures of a version. There has to be at least one labelled prediction."""
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
    """Mean score and churn rate of ten groups of about equal count, by score. Each 0..1."""
    return [(float(scores / rows), float(left / rows)) for rows, scores, left in _groups(counts)]


def _groups(counts: Counts) -> list[tuple[float, float, float]]:
    """Rows, sum of scores and those who left, of each tenth of the rows by score; bins are not divided."""
    rows = counts.stayed + counts.left
    middle = np.cumsum(rows) - rows / 2
    group = np.minimum((middle / rows.sum() * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums = [np.bincount(group, each, minlength=CALIBRATION_BINS) for each in (rows, counts.scores, counts.left)]
    return [(r, s, left) for r, s, left in zip(*(each.tolist() for each in sums), strict=True) if r]


def _roc_auc(counts: Counts) -> float:
    """P(one who left scored above one who stayed), ties counted half."""
    below = np.cumsum(counts.stayed) - counts.stayed
    wins = (counts.left * (below + counts.stayed / 2)).sum()
    return float(wins / (counts.left.sum() * counts.stayed.sum()))


def _standard_error(auc: float, left: float, stayed: float) -> float:
    """Of a ROC AUC, by Hanley and McNeil (1982), from the numbers of either outcome."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (left - 1) * (q1 - auc**2) + (stayed - 1) * (q2 - auc**2)
    return float(np.sqrt(max(variance, 0.0) / (left * stayed)))
