"""Dates as days since a fixed date. Pure; no I/O."""

from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import Columns, column
from churn_platform.schema.customer_schema import CustomerSchema


def days_since(dates: NDArray[np.datetime64], first: date) -> NDArray[np.int64]:
    """Return the days from a date to each of the dates; negative for dates before it.

    Args:
        dates: shape (n,), without missing values.
        first: day 0.

    Returns:
        shape (n,), days.
    """
    return (dates.astype("datetime64[D]") - np.datetime64(first, "D")).astype(np.int64)


def add_days(columns: Columns, schema: CustomerSchema) -> dict[str, NDArray[Any]]:
    """Return the columns and, in addition, the days feature of each date that has one.

    Args:
        columns: imputed.
        schema: the schema with the first days.

    Raises:
        MissingColumnError: a date is missing.
    """
    days = {
        each.days_feature: days_since(column(columns, each.name), each.since)
        for each in schema.dated
        if each.since is not None
    }
    return {**columns, **days}
