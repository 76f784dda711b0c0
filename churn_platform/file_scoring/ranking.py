"""Ranks and bands of risk scores, and customers that a file has more than once. Pure; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from churn_platform.scoring.high_risk import is_high_risk

if TYPE_CHECKING:
    from numpy.typing import NDArray

BANDS: Final = ("low", "medium", "high")


def ranks(scores: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the rank of each customer: 1 for the greatest risk. Of equal risks, the first in the file ranks first.

    Args:
        scores: shape (n,), risk scores.
        kept: shape (n,), whether the row is ranked.

    Returns:
        shape (n,), 1 to the number of ranked rows; 0 for the others.
    """
    ranked = np.zeros(len(scores), np.int32)
    rows = np.flatnonzero(kept)
    order = np.argsort(-scores[rows], kind="stable")
    ranked[rows[order]] = np.arange(1, len(rows) + 1, dtype=np.int32)
    return ranked


def bands(scores: NDArray[np.float32], *, high: float, churn: float) -> NDArray[np.int8]:
    """Return the band of each risk score as its place in BANDS.

    Args:
        scores: shape (n,), risk scores.
        high: the high-risk threshold, from which the band is "high".
        churn: the model's threshold, from which the prediction is churn and the band at least "medium".

    Returns:
        shape (n,), 0 to 2.
    """
    found = (scores >= churn).astype(np.int8)
    found[is_high_risk(scores, high)] = BANDS.index("high")
    return found


def may_repeat(ids: NDArray[Any]) -> NDArray[np.intp]:
    """Return the rows whose id occurs more than once, in order.

    Args:
        ids: shape (n,): ids that are whole numbers, or hashes of ids that are texts.
    """
    order = np.argsort(ids, kind="stable")
    equal = ids[order][1:] == ids[order][:-1]
    same = np.zeros(len(ids), np.bool_)
    same[order[1:][equal]] = True
    same[order[:-1][equal]] = True
    return np.flatnonzero(same)
