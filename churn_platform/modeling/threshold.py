"""The P(churn) from which a customer is called a churner. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.exceptions import TrainingDataError


@dataclass(frozen=True)
class CallCosts:
    """What calling a customer costs and brings, all in one currency.

    Attributes:
        call: cost of a call, whoever is called.
        customer: value of a customer who is kept.
        success_rate: share of churners that a call keeps, 0..1.
    """

    call: float
    customer: float
    success_rate: float

    def __str__(self) -> str:
        """The costs as text."""
        return f"a call {self.call:g}, a kept customer {self.customer:g}, success rate {self.success_rate:g}"


def worth_of_calls(churned: NDArray[np.integer], called: NDArray[np.bool_], costs: CallCosts | None) -> float:
    """What a choice of customers to call is worth: profit per customer at these costs; without costs, F1.

    Args:
        churned: shape (n,), 0 or 1.
        called: shape (n,).
        costs: None where nobody has stated them.
    """
    reached, calls = int(churned[called].sum()), int(called.sum())
    if costs is None:
        return 2 * reached / max(calls + int(churned.sum()), 1)
    return (reached * costs.success_rate * costs.customer - calls * costs.call) / max(len(churned), 1)


def choose_threshold(
    churned: NDArray[np.integer], probabilities: NDArray[np.floating], costs: CallCosts | None
) -> float:
    """The threshold with the greatest profit at these costs; without costs, with the greatest F1.

    Args:
        churned: shape (n,), 0 or 1.
        probabilities: shape (n,), P(churn) 0..1, of a model that has not seen the row.
        costs: None where nobody has stated them.

    Raises:
        TrainingDataError: nobody churned, or no call pays.
    """
    if costs is None:
        return f1_maximising_threshold(churned, probabilities)
    return profit_maximising_threshold(churned, probabilities, costs)


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
    thresholds, called, true_positives = _by_threshold(churned, probabilities)
    return float(thresholds[np.argmax(2 * true_positives / (called + positives))])


def profit_maximising_threshold(
    churned: NDArray[np.integer], probabilities: NDArray[np.floating], costs: CallCosts
) -> float:
    """The threshold with the greatest profit when everybody from it on is called; of equals, the highest.

    Profit = churners called * success rate * value of a customer - customers called * cost of a call.

    Returns:
        One of the probabilities.

    Raises:
        TrainingDataError: whatever the threshold, calling costs more than it brings.
    """
    thresholds, called, true_positives = _by_threshold(churned, probabilities)
    profit = true_positives * costs.success_rate * costs.customer - called * costs.call
    best = int(np.argmax(profit))
    if profit[best] <= 0:
        raise TrainingDataError(
            f"No threshold pays: a call costs {costs.call:g}, and one that reaches a churner brings "
            f"{costs.success_rate:g} of {costs.customer:g}. Look at CALL_COST, KEPT_CUSTOMER_VALUE and "
            f"CALL_SUCCESS_RATE, or leave them empty: then F1 decides."
        )
    return float(thresholds[best])


def _by_threshold(
    churned: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.integer]]:
    """Each probability that occurs, from high to low, and how many customers and churners are called from it on."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    last_of_its_value = np.append(ranked[1:] != ranked[:-1], True)  # equal probabilities cannot be told apart
    true_positives = np.cumsum(churned[order])
    called = np.arange(1, len(ranked) + 1)
    return ranked[last_of_its_value], called[last_of_its_value], true_positives[last_of_its_value]
