"""Comparison of a shadow with the champion, on the events that both have scored. Pure; no I/O.

Distributions can be compared at once, performance only where outcomes are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.monitoring.verdicts import Z_95
from churn_platform.scoring.high_risk import is_high_risk

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS: Final = 10  # of equal count in the champion's scores; the usual PSI thresholds assume ten bins
SMOOTHING: Final = 0.5  # events added to every bin, because an empty bin would make the PSI infinite
# Equal to scikit-learn's for scores of 32 bits: a logarithm of 0 would be infinite.
SMALLEST: Final = float(np.finfo(np.float64).eps)
# Bars of the charts. They are 0.05 wide.
CHART_BINS: Final = 20


@dataclass(frozen=True)
class ScoreDistribution:
    """The risk scores of one model.

    Attributes:
        mean: of the scores, 0..1.
        quantiles: at QUANTILES.
        high_risk: share of the scores from the high-risk threshold on, 0..1.
        counts: scores in each of CHART_BINS bins of equal width.
    """

    mean: float
    quantiles: tuple[float, ...]
    high_risk: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """Customers by what their latest event would lead to: a score from the high-risk threshold on, or none.

    Attributes:
        both: at high risk for both models.
        only_challenger: at high risk for the challenger only.
        only_champion: at high risk for the champion only.
        neither: at high risk for neither.
    """

    both: int
    only_challenger: int
    only_champion: int
    neither: int


@dataclass(frozen=True)
class Difference:
    """The challenger's metric minus the champion's, with the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """A metric of both models on the same events."""

    challenger: float
    champion: float
    difference: Difference


@dataclass(frozen=True)
class LabelledComparison:
    """Performance on the events whose outcome is known.

    Attributes:
        events: how many there are.
        left: how many of their customers left.
        roc_auc: None while all left or all stayed.
        brier: mean squared error; lower is better.
        log_loss: mean negative log-likelihood; lower is better.
    """

    events: int
    left: int
    roc_auc: Measured | None
    brier: Measured
    log_loss: Measured


@dataclass(frozen=True)
class ShadowComparison:
    """A shadow and the champion on the same events.

    Attributes:
        model_version: of the shadow.
        events: that were compared.
        customers: of these events.
        threshold: the high-risk threshold.
        challenger: the shadow's scores.
        champion: the scores of the predictions.
        psi: population stability index of the shadow's scores against the champion's.
        ks: Kolmogorov-Smirnov statistic: the largest difference of the cumulative distributions, 0..1.
        agreement: whom both would call.
        labelled: None while fewer than two outcomes are known.
    """

    model_version: int
    events: int
    customers: int
    threshold: float
    challenger: ScoreDistribution
    champion: ScoreDistribution
    psi: float
    ks: float
    agreement: Agreement
    labelled: LabelledComparison | None

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        return asdict(self)


def compare(
    pairs: Sequence[tuple[int | str, float, float, bool]],
    labelled: Sequence[tuple[float, float, int]],
    *,
    model_version: int,
    threshold: float,
) -> ShadowComparison | None:
    """Compare a shadow with the champion.

    Args:
        pairs: of each event: customer, score of the shadow, score of the champion, and whether it is the customer's
            latest event.
        labelled: of each event with an outcome: score of the shadow, score of the champion, and 1 if the customer left.
        model_version: of the shadow.
        threshold: risk score from which a customer is at high risk, 0..1.

    Returns:
        The comparison, or None if there is no event.
    """
    if not pairs:
        return None
    challenger, champion = (np.array([each[place] for each in pairs], np.float32) for place in (1, 2))
    latest = np.array([each[3] for each in pairs], np.bool_)
    return ShadowComparison(
        model_version=model_version,
        events=len(pairs),
        customers=int(latest.sum()),
        threshold=threshold,
        challenger=_distribution(challenger, threshold),
        champion=_distribution(champion, threshold),
        psi=psi(challenger, champion),
        ks=ks_statistic(challenger, champion),
        agreement=_agreement(is_high_risk(challenger[latest], threshold), is_high_risk(champion[latest], threshold)),
        labelled=_labelled(labelled) if len(labelled) > 1 else None,
    )


def psi(scores: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the population stability index of scores against the expected ones, in ten bins of equal count.

    Args:
        scores: shape (n,), n > 0.
        expected: shape (m,), m > 0.
    """
    edges = np.unique(np.quantile(expected, np.arange(1, BINS) / BINS))
    shares = []
    for values in (scores, expected):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + SMOOTHING
        shares.append(counts / counts.sum())
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())


def ks_statistic(scores: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Return the largest difference of the cumulative distributions of two samples, 0..1."""
    first, second = np.sort(scores), np.sort(others)
    points = np.concatenate([first, second])
    shares = [np.searchsorted(each, points, side="right") / len(each) for each in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def auc_difference(
    left: NDArray[np.bool_], challenger: NDArray[np.float64], champion: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return the ROC AUC of both models, and the standard error of their difference.

    Args:
        left: whether each customer left, shape (n,), both values present.
        challenger: scores, shape (n,).
        champion: scores of the same events, shape (n,).

    Source: DeLong, DeLong and Clarke-Pearson (1988), with the midranks of Sun and Xu (2014).
    """
    scores = np.stack([challenger, champion])
    leavers, stayers = scores[:, left], scores[:, ~left]
    count_left, count_stayed = leavers.shape[1], stayers.shape[1]
    wins_left = np.stack([_midranks(each)[left] for each in scores]) - np.stack([_midranks(each) for each in leavers])
    wins_stayed = np.stack([_midranks(each)[~left] for each in scores]) - np.stack(
        [_midranks(each) for each in stayers]
    )
    above = wins_left / count_stayed  # of each leaver, the share of stayers with a lower score
    below = 1 - wins_stayed / count_left  # of each stayer, the share of leavers with a higher score
    aucs = above.mean(axis=1)
    variance = 0.0
    for parts, count in ((above, count_left), (below, count_stayed)):
        if count > 1:
            variance += float(np.var(parts[0] - parts[1], ddof=1)) / count
    return float(aucs[0]), float(aucs[1]), float(np.sqrt(variance))


def _midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of values from 1 on; equal values share the mean of their ranks. Shape (n,)."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[places]
    return ranks


def _distribution(scores: NDArray[np.float32], threshold: float) -> ScoreDistribution:
    counts, _ = np.histogram(scores, bins=CHART_BINS, range=(0, 1))
    return ScoreDistribution(
        mean=float(scores.mean(dtype=np.float64)),
        quantiles=tuple(np.quantile(scores.astype(np.float64), QUANTILES).tolist()),
        high_risk=float(is_high_risk(scores, threshold).mean()),
        counts=tuple(counts.tolist()),
    )


def _agreement(challenger: NDArray[np.bool_], champion: NDArray[np.bool_]) -> Agreement:
    return Agreement(
        both=int((challenger & champion).sum()),
        only_challenger=int((challenger & ~champion).sum()),
        only_champion=int((~challenger & champion).sum()),
        neither=int((~challenger & ~champion).sum()),
    )


def _labelled(rows: Sequence[tuple[float, float, int]]) -> LabelledComparison:
    values = np.array(rows, np.float64)
    challenger, champion, left = values[:, 0], values[:, 1], values[:, 2] == 1
    roc_auc = None
    if 0 < left.sum() < len(left):
        of_challenger, of_champion, error = auc_difference(left, challenger, champion)
        roc_auc = Measured(of_challenger, of_champion, _difference(of_challenger - of_champion, error))
    return LabelledComparison(
        events=len(rows),
        left=int(left.sum()),
        roc_auc=roc_auc,
        brier=_mean_of((challenger - left) ** 2, (champion - left) ** 2),
        log_loss=_mean_of(_log_losses(challenger, left), _log_losses(champion, left)),
    )


def _log_losses(scores: NDArray[np.float64], left: NDArray[np.bool_]) -> NDArray[np.float64]:
    clipped = np.clip(scores, SMALLEST, 1 - SMALLEST)
    losses: NDArray[np.float64] = -np.log(np.where(left, clipped, 1 - clipped))
    return losses


def _mean_of(challenger: NDArray[np.float64], champion: NDArray[np.float64]) -> Measured:
    """Return the means of two losses of the same events. The error of their difference is that of a paired mean."""
    differences = challenger - champion
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return Measured(float(challenger.mean()), float(champion.mean()), _difference(float(differences.mean()), error))


def _difference(value: float, error: float) -> Difference:
    return Difference(value, value - Z_95 * error, value + Z_95 * error)
