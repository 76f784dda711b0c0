"""The P(churn) from which a customer is called a churner. Pure."""

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.exceptions import TrainingDataError


def f1_maximising_threshold(churned: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """The threshold with the greatest F1 when "probability >= threshold" means churn; of equals, the highest.

    Args:
        churned: shape (n,), 0 or 1.
        probabilities: shape (n,), P(churn) 0..1, of a model that has not seen the row.

    Returns:
        One of the probabilities.

    Raises:
        TrainingDataError: nobody churned, so that F1 is 0 whatever the threshold.
    """
    positives = int(churned.sum())
    if positives == 0:
        raise TrainingDataError(f"None of {len(churned)} customers churned, so no threshold is better than another.")
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    true_positives = np.cumsum(churned[order])
    called = np.arange(1, len(ranked) + 1)
    f1 = 2 * true_positives / (called + positives)
    last_of_its_value = np.append(ranked[1:] != ranked[:-1], True)  # equal probabilities cannot be told apart
    return float(ranked[np.argmax(np.where(last_of_its_value, f1, -1.0))])
