"""Mending probabilities that are systematically too high or too low: what is applied when a score is made. Pure.

Needs numpy alone, so that a process that scores starts fast; how one is fitted and chosen is in calibrating.py.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Log-odds of 0 and 1 are infinite; a model of a few hundred trees comes nowhere near these.
_LEAST: Final = 1e-7


@dataclass(frozen=True)
class Platt:
    """A line through the log-odds: P = 1 / (1 + exp(-(slope * log-odds + intercept)))."""

    slope: float
    intercept: float

    def apply(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated P(churn), each number by itself: how many are passed at once changes none of them."""
        line = self.slope * log_odds(probabilities) + self.intercept
        calibrated: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-line))).astype(np.float32)
        return calibrated


@dataclass(frozen=True)
class Isotonic:
    """A line through points that never falls: between two points straight, beyond the outer ones level.

    Attributes:
        scores: P(churn) as the model gives it, rising.
        probabilities: what each becomes, never falling.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def apply(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated P(churn), each number by itself."""
        return np.interp(probabilities.astype(np.float64), self.scores, self.probabilities).astype(np.float32)


Calibration: TypeAlias = Platt | Isotonic


def calibration_to_json(calibration: Calibration) -> str:
    """JSON with `method` and its numbers."""
    return json.dumps({"method": name_of(calibration), **asdict(calibration)}, indent=2)


def calibration_from_json(text: str) -> Calibration:
    """The calibration that `calibration_to_json` wrote.

    Raises:
        ValueError, KeyError, TypeError: the text is not one.
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
    """platt or isotonic."""
    return "platt" if isinstance(calibration, Platt) else "isotonic"


def log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-odds of probabilities, finite also for 0 and 1."""
    inside = np.clip(probabilities.astype(np.float64), _LEAST, 1 - _LEAST)
    odds: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return odds
