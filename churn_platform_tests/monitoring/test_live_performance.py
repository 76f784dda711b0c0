"""Live performance computed from counts, compared with scikit-learn's metrics of the rows."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from churn_platform.modeling.evaluation import expected_calibration_error
from churn_platform.monitoring.live_performance import (
    SCORE_BINS,
    Counts,
    LivePerformance,
    Tally,
    live_performance,
    reliability,
)

THRESHOLD = 0.4


def rows(count: int = 20_000, *, too_high: float = 0.0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Outcomes, and calibrated scores that are then raised by `too_high`."""
    generator = np.random.default_rng(5)
    chance = generator.beta(1, 4, count)
    return (generator.random(count) < chance).astype(np.int64), np.minimum(chance + too_high, 0.999)


def counted(churned: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[Counts, Tally]:
    """Count the rows as the database does."""
    bins = np.minimum((scores * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)

    def total(weights: NDArray[np.generic]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(bins, weights.astype(np.float64), minlength=SCORE_BINS), np.float64)

    predicted = scores >= THRESHOLD
    tally = Tally(int(predicted.sum()), int((predicted & (churned == 1)).sum()), float(((scores - churned) ** 2).sum()))
    return Counts(stayed=total(1 - churned), left=total(churned), scores=total(scores)), tally


def test_the_metrics_are_those_of_the_rows() -> None:
    churned, scores = rows()

    found = live_performance(*counted(churned, scores))

    predicted = scores >= THRESHOLD
    assert (found.labelled, found.churned) == (len(churned), churned.sum())
    assert found.roc_auc == pytest.approx(metrics.roc_auc_score(churned, scores), abs=0.001)
    assert found.precision == pytest.approx(metrics.precision_score(churned, predicted))
    assert found.recall == pytest.approx(metrics.recall_score(churned, predicted))
    assert found.brier == pytest.approx(metrics.brier_score_loss(churned, scores))
    assert found.ece == pytest.approx(expected_calibration_error(churned, scores), abs=0.003)
    assert found.mean_score == pytest.approx(scores.mean())
    assert found.churn_rate == pytest.approx(churned.mean())


def test_the_standard_error_of_the_roc_auc_matches_resampling() -> None:
    churned, scores = rows(2_000)
    generator = np.random.default_rng(1)
    drawn = [generator.integers(0, 2_000, 2_000) for _ in range(300)]
    spread = np.std([metrics.roc_auc_score(churned[each], scores[each]) for each in drawn])

    assert live_performance(*counted(churned, scores)).roc_auc_error == pytest.approx(spread, rel=0.25)


def test_scores_that_are_too_high_raise_the_calibration_error() -> None:
    found = live_performance(*counted(*rows(too_high=0.2)))

    assert found.ece == pytest.approx(0.2, abs=0.02)
    assert all(score > rate for score, rate in reliability(counted(*rows(too_high=0.2))[0]))


@pytest.mark.parametrize("outcome", [0, 1])
def test_there_is_no_roc_auc_if_all_left_or_all_stayed(outcome: int) -> None:
    scores = rows(100)[1]

    found = live_performance(*counted(np.full(100, outcome), scores))

    assert found.roc_auc is None
    assert not found.is_worse_than(0.9, by=0.05)
    assert (found.recall is None) == (outcome == 0)


@pytest.mark.parametrize(
    ("auc", "error", "worse"),
    [
        (0.70, 0.01, True),
        (0.83, 0.01, False),  # lower, but not by enough
        (0.70, 0.10, False),  # low enough, but perhaps by chance
    ],
)
def test_worse_means_by_at_least_the_threshold_and_not_by_chance(auc: float, error: float, *, worse: bool) -> None:
    found = LivePerformance(1_000, 200, auc, error, None, None, 0.1, 0.0, 0.2, 0.2)

    assert found.is_worse_than(0.86, by=0.05) == worse
