"""Events of customers who were erased: they are counted, and nothing of them is stored. Pure; no I/O."""

from collections.abc import Sequence

import numpy as np

from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.decoding.events import DeadLetter, EventColumns
from churn_platform.decoding.named_customers import named_customers
from churn_platform.schema.customer_schema import CustomerSchema


def without_erased(
    schema: CustomerSchema, events: EventColumns, dead_letters: list[DeadLetter], erased: ErasedCustomers
) -> tuple[EventColumns, list[DeadLetter], int]:
    """Return the events and dead letters that are of no erased customer, and how many others there are.

    A dead letter is left out if it may be about an erased customer: see `named_customers`.
    """
    if not erased:
        return events, dead_letters, 0
    kept_letters = other_dead_letters(schema, dead_letters, erased)
    left_out = len(dead_letters) - len(kept_letters)
    are_erased = np.array(erased.among(events.customer_id.tolist()), np.bool_)
    if not are_erased.any():
        return events, kept_letters, left_out
    return events.select(~are_erased), kept_letters, left_out + int(are_erased.sum())


def other_dead_letters(
    schema: CustomerSchema, dead_letters: Sequence[DeadLetter], erased: ErasedCustomers
) -> list[DeadLetter]:
    """Return the dead letters that name no erased customer."""
    return [each for each in dead_letters if not any(map(erased.__contains__, named_customers(each.payload, schema)))]
