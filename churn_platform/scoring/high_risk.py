"""Which risk scores are high. Pure; no I/O."""

import numpy as np
from numpy.typing import NDArray


def is_high_risk(scores: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return which risk scores reach the threshold. Shape (n,).

    They are compared in double precision, as PostgreSQL does, because 0.7 in single precision is another number.
    """
    return scores.astype(np.float64) >= threshold
