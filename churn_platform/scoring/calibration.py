"""Calibrations: corrections of probabilities that are systematically too high or too low. Pure; no I/O.

Only what scoring applies, which needs only numpy. modeling/calibration_choice.py fits and chooses calibrations.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

# The log-odds of 0 and 1 are infinite. Models of a few hundred trees do not come near these bounds.
_MIN_PROBABILITY: Final = 1e-7


@dataclass(frozen=True)
class Platt:
    """A linear function of the log-odds: P = 1 / (1 + exp(-(slope * log-odds + intercept)))."""

    slope: float
    intercept: float

    def apply(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated P(churn). The result for one number does not depend on the others."""
        line = self.slope * log_odds(probabilities) + self.intercept
        calibrated: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-line))).astype(np.float32)
        return calibrated


@dataclass(frozen=True)
class Isotonic:
    """A non-decreasing function, linear between given points and constant beyond the outer ones.

    Attributes:
        scores: P(churn) of the model at each point, increasing.
        probabilities: calibrated P(churn) at each point, non-decreasing.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def apply(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated P(churn). The result for one number does not depend on the others."""
        return np.interp(probabilities.astype(np.float64), self.scores, self.probabilities).astype(np.float32)


Calibration: TypeAlias = Platt | Isotonic


def calibration_to_json(calibration: Calibration) -> str:
    """Return JSON with `method` and its parameters."""
    return json.dumps({"method": name_of(calibration), **asdict(calibration)}, indent=2)


def calibration_from_json(text: str) -> Calibration:
    """Return the calibration that `calibration_to_json` wrote.

    Raises:
        ValueError, KeyError, TypeError: the text does not describe a calibration.
    """
    document = json.loads(text)
    method = document["method"]
    if method == "platt":
        return Platt(slope=float(document["slope"]), intercept=float(document["intercept"]))
    if method == "isotonic":
        return Isotonic(
            scores=tuple(map(float, document["scores"])), probabilities=tuple(map(float, document["probabilities"]))
        )
    raise ValueError(f"calibration method {method!r}, expected platt or isotonic")


def name_of(calibration: Calibration) -> str:
    """Return the name of the method: platt or isotonic."""
    return "platt" if isinstance(calibration, Platt) else "isotonic"


def log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-odds of probabilities, finite even for 0 and 1."""
    inside = np.clip(probabilities.astype(np.float64), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    odds: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return odds
