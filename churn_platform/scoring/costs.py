"""What calling a customer costs. A bundle records it, because the threshold depends on it. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CallCosts:
    """Cost and benefit of calling customers, all amounts in one currency.

    Attributes:
        call: cost of one call, whoever is called.
        customer: value of a customer who is kept.
        success_rate: share of churners whom a call keeps, 0..1.
    """

    call: float
    customer: float
    success_rate: float

    def __str__(self) -> str:
        """Return the costs as text."""
        return f"a call {self.call:g}, a kept customer {self.customer:g}, success rate {self.success_rate:g}"
