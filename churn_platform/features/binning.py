"""Credit score bands. Pure; no I/O."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import BAND_COLUMN, Columns, column

BAND_UPPER_BOUNDS = (580, 670, 740, 800)  # inclusive upper bounds of Poor, Fair, Good and Very Good; above is Excellent
BAND_NAMES = ("Poor", "Fair", "Good", "Very Good", "Excellent")


def credit_score_band(scores: NDArray[Any]) -> NDArray[np.int8]:
    """Return the ordinal band of each credit score: 0 Poor, 1 Fair, 2 Good, 3 Very Good, 4 Excellent.

    Args:
        scores: shape (n,), points on the 300-900 scale, no nulls.

    Returns:
        shape (n,), values 0..4.

    Source: the bank's scorecard, upper bounds inclusive (580 is Poor, 581 is Fair).
    """
    return np.searchsorted(BAND_UPPER_BOUNDS, scores, side="left").astype(np.int8)


def add_credit_score_band(columns: Columns) -> dict[str, NDArray[Any]]:
    """Return the columns and, in addition, CreditScoreBins.

    Raises:
        MissingColumnError: CreditScore is missing.
    """
    return {**columns, BAND_COLUMN: credit_score_band(column(columns, "CreditScore"))}
