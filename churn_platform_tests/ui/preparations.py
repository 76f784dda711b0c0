"""Preparations outside the UI, so that there is something to see in it."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from churn_platform.schema.reader import read_customers
from churn_platform.simulation.producer import customer_event, rows_of
from churn_platform_tests.features.customers import BANK


def write_invalid_ages(customers: Path) -> int:
    """Change the age of one customer in forty to 17, which is a number but not a valid age. Return how many they are.

    That is more than the share of quarantined rows that the schema allows.
    """
    frame = pd.read_csv(customers)
    frame.loc[::40, "Age"] = 17
    frame.to_csv(customers, index=False)
    return len(frame.loc[::40])


def older_customers(customers: Path, *, years: int, count: int, moment: datetime) -> list[dict[str, Any]]:
    """Return events of customers from the file who are older by this many years."""
    known = read_customers(customers, BANK).dropna(subset=["Age"])
    rows = rows_of(known.head(2 * count), BANK)[:count]
    return [
        customer_event({**row, "Age": min(float(row["Age"] or 0) + years, 100)}, BANK, moment=moment) for row in rows
    ]
