"""What counts as good, as a warning and as a failure: verdicts and their bounds. Pure.

Checks, the daily report and the dashboard apply the same rules. The module imports none of the large libraries, because
the dashboard stays small.
"""

from enum import StrEnum
from typing import Final

SCORE: Final = "risk_score"
"""The score is monitored like a feature: it also moves when several features shift a little each."""
NO_REFERENCE: Final = "no reference"

# Rates at which a check warns and at which it fails, as shares of what was read, 0..1.
MISSING_RATE_INCREASE: Final = (0.05, 0.2)  # over the missing rate of the training data
OUT_OF_RANGE_RATE: Final = (0.01, 0.05)
DEAD_LETTER_RATE: Final = (0.02, 0.1)

Z_95: Final = 1.96
MAX_ECE: Final = 0.05  # a score of 50 % for a real rate of 45 % is acceptable; for 40 % it is misleading
MIN_OUTCOMES: Final = 200  # with fewer, the ROC AUC and the calibration error are mostly noise


class Verdict(StrEnum):
    """The result of comparing a feature with its reference."""

    STABLE = "stable"
    SHIFTED = "shifted"
    FAR = "far"
    TOO_FEW = "too few"


def rate_verdict(rate: float, bounds: tuple[float, float]) -> Verdict:
    """Return SHIFTED from the first bound on and FAR from the second on."""
    return Verdict.FAR if rate >= bounds[1] else Verdict.SHIFTED if rate >= bounds[0] else Verdict.STABLE


def is_auc_worse(roc_auc: float, error: float, *, expected: float, by: float) -> bool:
    """Return whether a ROC AUC is at least `by` below the expected one, and below it with 95 % confidence.

    Args:
        roc_auc: 0..1.
        error: its standard error.
        expected: 0..1.
        by: the largest acceptable loss.
    """
    return expected - roc_auc >= by and roc_auc + Z_95 * error < expected
