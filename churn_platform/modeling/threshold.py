"""Choose the P(churn) from which a customer counts as a churner. Pure."""

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.scoring.costs import CallCosts


def value_of_calls(churned: NDArray[np.integer], called: NDArray[np.bool_], costs: CallCosts | None) -> float:
    """Return the value of calling these customers: profit per customer at these costs; without costs, F1.

    Args:
        churned: shape (n,), 0 or 1.
        called: shape (n,).
        costs: None if not configured.
    """
    reached, calls = int(churned[called].sum()), int(called.sum())
    if costs is None:
        return 2 * reached / max(calls + int(churned.sum()), 1)
    return (reached * costs.success_rate * costs.customer - calls * costs.call) / max(len(churned), 1)


def choose_threshold(
    churned: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    costs: CallCosts | None,
    *,
    weights: NDArray[np.floating] | None = None,
) -> float:
    """Return the threshold with the greatest profit at these costs; without costs, with the greatest F1.

    Args:
        churned: shape (n,), 0 or 1.
        probabilities: shape (n,), P(churn) 0..1, of a model that has not seen the row.
        costs: None if not configured.
        weights: shape (n,), how many customers each row stands for; None for one each.

    Raises:
        TrainingDataError: nobody churned, or no call is profitable.
    """
    if costs is None:
        return f1_maximising_threshold(churned, probabilities, weights=weights)
    return profit_maximising_threshold(churned, probabilities, costs, weights=weights)


def f1_maximising_threshold(
    churned: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    *,
    weights: NDArray[np.floating] | None = None,
) -> float:
    """Return the threshold with the greatest F1 when "probability >= threshold" means churn; if several, the highest.

    Args:
        churned: shape (n,), 0 or 1.
        probabilities: shape (n,), P(churn) 0..1, of a model that has not seen the row.
        weights: shape (n,), how many customers each row stands for; None for one each.

    Returns:
        One of the probabilities.

    Raises:
        TrainingDataError: nobody churned, so F1 is 0 at every threshold.
    """
    positives = int(churned.sum()) if weights is None else float(churned @ weights)
    if positives == 0:
        raise TrainingDataError(f"None of {len(churned)} customers churned, so no threshold is better than another.")
    thresholds, called, true_positives = _counts_by_threshold(churned, probabilities, weights)
    return float(thresholds[np.argmax(2 * true_positives / (called + positives))])


def profit_maximising_threshold(
    churned: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    costs: CallCosts,
    *,
    weights: NDArray[np.floating] | None = None,
) -> float:
    """Return the threshold with the greatest profit when everybody at or above it is called; if several, the highest.

    Profit = churners called * success rate * value of a customer - customers called * cost of a call.

    Returns:
        One of the probabilities.

    Raises:
        TrainingDataError: at every threshold, calling costs more than it brings.
    """
    thresholds, called, true_positives = _counts_by_threshold(churned, probabilities, weights)
    profit = true_positives * costs.success_rate * costs.customer - called * costs.call
    best = int(np.argmax(profit))
    if profit[best] <= 0:
        raise TrainingDataError(
            f"No threshold is profitable: a call costs {costs.call:g}, and a call to a churner brings "
            f"{costs.success_rate:g} of {costs.customer:g}.",
            remedy="Correct CALL_COST, KEPT_CUSTOMER_VALUE and CALL_SUCCESS_RATE, or leave them empty to use F1.",
        )
    return float(thresholds[best])


def _counts_by_threshold(
    churned: NDArray[np.integer], probabilities: NDArray[np.floating], weights: NDArray[np.floating] | None
) -> tuple[NDArray[np.floating], NDArray[np.floating | np.integer], NDArray[np.floating | np.integer]]:
    """Return each distinct probability, descending, and the customers and churners at or above it."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    last_of_its_value = np.append(ranked[1:] != ranked[:-1], True)  # equal probabilities cannot be told apart
    if weights is None:
        true_positives, called = np.cumsum(churned[order]), np.arange(1, len(ranked) + 1)
    else:
        true_positives, called = np.cumsum((churned * weights)[order]), np.cumsum(weights[order])
    return ranked[last_of_its_value], called[last_of_its_value], true_positives[last_of_its_value]
