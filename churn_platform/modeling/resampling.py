"""ROC AUC and its uncertainty, by a bootstrap over the rows. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 1_000
SEED: Final = 42
# A bootstrap of more rows takes longer and is hardly more precise, so at most this many are sampled first.
MAX_ROWS: Final = 100_000


def bootstrapped_aucs(
    churned: NDArray[np.integer], *probabilities: NDArray[np.floating], resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Return the ROC AUC of each model on the same resampled rows, so that their differences are paired.

    Args:
        churned: shape (n,), 0 or 1, both present.
        probabilities: of each of k models, shape (n,).
        resamples: how many times n rows are drawn with replacement.

    Returns:
        shape (k, resamples), the same for the same arguments.
    """
    generator = np.random.default_rng(SEED)
    if len(churned) > MAX_ROWS:
        sample = generator.choice(len(churned), MAX_ROWS, replace=False)
        churned, probabilities = churned[sample], tuple(each[sample] for each in probabilities)
    rankings = [_Ranking(churned, each) for each in probabilities]
    count = len(churned)
    aucs = np.empty((len(rankings), resamples))
    for number in range(resamples):
        weights = np.bincount(generator.integers(0, count, count), minlength=count).astype(np.float64)
        aucs[:, number] = [ranking.auc(weights) for ranking in rankings]
    return aucs


def auc(churned: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Return the ROC AUC. Equal to scikit-learn's, without its import, which takes a second."""
    return _Ranking(churned, probabilities).auc(np.ones(len(churned)))


class _Ranking:
    """Rows in the order of a model's probabilities, sorted once for all resamples."""

    def __init__(self, churned: NDArray[np.integer], probabilities: NDArray[np.floating]) -> None:
        self._order = np.argsort(probabilities, kind="stable")
        ranked = probabilities[self._order]
        self._starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))  # equal probabilities share a rank
        self._churned = churned[self._order].astype(np.float64)

    def auc(self, weights: NDArray[np.float64]) -> float:
        """Return the share of pairs (churner, other) in which the churner ranks higher; a tie is half. NaN if none."""
        weights = weights[self._order]
        churners = np.add.reduceat(weights * self._churned, self._starts)
        others = np.add.reduceat(weights * (1 - self._churned), self._starts)
        pairs = churners.sum() * others.sum()
        below = np.cumsum(others) - others
        return float((churners * (below + others / 2)).sum() / pairs) if pairs else float("nan")
