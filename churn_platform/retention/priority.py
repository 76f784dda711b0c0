"""The priority of a case: the expected value of calling the customer. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CallValue:
    """What a call costs and may bring, all amounts in one currency.

    Attributes:
        cost: of one call, whoever is called.
        success_rate: share of churners whom a call keeps, 0..1.
        customer_value: value of a customer whose money at risk is unknown.
    """

    cost: float = 0.0
    success_rate: float = 1.0
    customer_value: float = 1.0


def priority(risk: float, money_at_risk: float | None, value: CallValue) -> float:
    """Return the expected value of calling a customer: risk x success rate x value of the customer - cost of the call.

    Args:
        risk: probability of churn, 0..1.
        money_at_risk: what is lost with this customer; None if it is unknown, then the value of any customer is used.
        value: of a call.

    Returns:
        An amount of money. Without costs and a success rate it is the expected loss; without any amount, the risk.
    """
    worth = value.customer_value if money_at_risk is None else money_at_risk
    return risk * value.success_rate * worth - value.cost
