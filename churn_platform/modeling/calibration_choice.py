"""Choose a calibration, or none if it does not help. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.evaluation import brier_score, expected_calibration_error
from churn_platform.scoring.calibration import Calibration, Isotonic, Platt, log_odds, name_of

FOLDS: Final = 5
# One-sided 95 % quantile of the normal distribution, which the mean of thousands of differences follows.
_STANDARD_ERRORS: Final = 1.645


_Weights: TypeAlias = "NDArray[np.float64] | None"


@dataclass(frozen=True)
class CalibrationChoice:
    """The chosen calibration and the alternatives.

    Attributes:
        calibration: fitted on all rows; None if the model's own probabilities are as good or better.
        probabilities: shape (n,), P(churn) to evaluate: calibrated on other folds, or unchanged.
        tried: method, including "none" -> {"brier", "ece"} out of fold.
    """

    calibration: Calibration | None
    probabilities: NDArray[np.float32]
    tried: Mapping[str, Mapping[str, float]]

    @property
    def name(self) -> str:
        """Name of the method: none, platt or isotonic."""
        return "none" if self.calibration is None else name_of(self.calibration)


def choose_calibration(
    churned: NDArray[np.integer],
    out_of_fold: NDArray[np.float32],
    *,
    seed: int,
    weights: NDArray[np.float64] | None = None,
) -> CalibrationChoice:
    """Return the calibration that helps most, or none.

    Each method is fitted on four fifths of the out-of-fold probabilities and evaluated on the remaining fifth, five
    times. It helps if its Brier score is significantly lower (by 1.645 standard errors of the paired differences) and
    its expected calibration error is not higher. Of those that help, the one with the lowest Brier score is chosen.

    Args:
        churned: shape (n,), 0 or 1.
        out_of_fold: shape (n,), P(churn) of each row by a model that has not seen it.
        seed: seed of the folds.
        weights: shape (n,), how many customers each row stands for; None for one each.
    """
    calibrated = {name: _cross_fitted(fit, churned, out_of_fold, seed, weights) for name, fit in _METHODS.items()}
    tried = {
        name: {
            "brier": brier_score(churned, probabilities, weights),
            "ece": expected_calibration_error(churned, probabilities, weights),
        }
        for name, probabilities in {"none": out_of_fold, **calibrated}.items()
    }
    helpful = [
        name
        for name, probabilities in calibrated.items()
        if _significantly_better(churned, out_of_fold, probabilities, weights)
        and tried[name]["ece"] <= tried["none"]["ece"]
    ]
    if not helpful:
        return CalibrationChoice(None, out_of_fold, tried)
    best = min(helpful, key=lambda name: tried[name]["brier"])
    return CalibrationChoice(_METHODS[best](churned, out_of_fold, weights), calibrated[best], tried)


def _fit_platt(churned: NDArray[np.integer], probabilities: NDArray[np.float32], weights: _Weights) -> Platt:
    from sklearn.linear_model import LogisticRegression  # 1 s to import

    line = LogisticRegression(C=np.inf).fit(log_odds(probabilities)[:, None], churned, sample_weight=weights)
    return Platt(slope=float(line.coef_[0, 0]), intercept=float(line.intercept_[0]))


def _fit_isotonic(churned: NDArray[np.integer], probabilities: NDArray[np.float32], weights: _Weights) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression  # 1 s to import

    steps = IsotonicRegression(out_of_bounds="clip").fit(
        probabilities.astype(np.float64), churned, sample_weight=weights
    )
    return Isotonic(scores=tuple(steps.X_thresholds_.tolist()), probabilities=tuple(steps.y_thresholds_.tolist()))


_Fit: TypeAlias = Callable[[NDArray[np.integer], NDArray[np.float32], _Weights], Calibration]
_METHODS: Final[Mapping[str, _Fit]] = {"platt": _fit_platt, "isotonic": _fit_isotonic}


def _cross_fitted(
    fit: _Fit,
    churned: NDArray[np.integer],
    probabilities: NDArray[np.float32],
    seed: int,
    weights: _Weights,
) -> NDArray[np.float32]:
    """Return each fold's probabilities, calibrated by a fit on the other folds. Shape (n,)."""
    from sklearn.model_selection import StratifiedKFold  # 1 s to import

    calibrated = np.empty_like(probabilities)
    for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(probabilities, churned):
        of_seen = None if weights is None else weights[seen]
        calibrated[unseen] = fit(churned[seen], probabilities[seen], of_seen).apply(probabilities[unseen])
    return calibrated


def _significantly_better(
    churned: NDArray[np.integer], before: NDArray[np.float32], after: NDArray[np.float32], weights: _Weights
) -> bool:
    gain = (before.astype(np.float64) - churned) ** 2 - (after.astype(np.float64) - churned) ** 2
    if weights is None:
        return bool(gain.mean() > _STANDARD_ERRORS * gain.std() / np.sqrt(len(gain)))
    mean = np.average(gain, weights=weights)
    error = np.sqrt(np.sum((weights * (gain - mean)) ** 2)) / weights.sum()
    return bool(mean > _STANDARD_ERRORS * error)
