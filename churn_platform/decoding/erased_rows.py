"""The rows of a customers file without those of erased customers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from churn_platform.decoding.named_customers import named_customers

if TYPE_CHECKING:
    import pandas as pd

    from churn_platform.database.erased_customers import ErasedCustomers
    from churn_platform.schema.customer_schema import CustomerSchema


def without_erased(
    customers: pd.DataFrame, quarantined: pd.DataFrame, schema: CustomerSchema, erased: ErasedCustomers
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the customers and the quarantined rows of a file that are of no erased customer."""
    import pandas as pd

    if not erased:
        return customers, quarantined
    are_erased = erased.among(customers[schema.id].tolist())
    name_erased = [
        any(map(erased.__contains__, named_customers(values.encode(), schema)))
        for values in quarantined["values"].tolist()
    ]
    return (
        customers.loc[~pd.Series(are_erased, customers.index, dtype=bool)].reset_index(drop=True),
        quarantined.loc[~pd.Series(name_erased, quarantined.index, dtype=bool)].reset_index(drop=True),
    )
