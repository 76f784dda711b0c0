"""Preparations outside the UI, so that there is something to see in it."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from churn_platform.schema.reader import read_customers
from churn_platform.simulation.producer import customer_event, rows_of


def write_invalid_age(customers: Path) -> None:
    """Change the age of one customer in the file to 17, which is a number but not a valid age."""
    frame = pd.read_csv(customers)
    frame.loc[7, "Age"] = 17
    frame.to_csv(customers, index=False)


def older_customers(customers: Path, *, years: int, count: int, moment: datetime) -> list[dict[str, Any]]:
    """Return events of customers from the file who are older by this many years."""
    rows = rows_of(read_customers(customers).dropna(subset=["Age"]).head(2 * count))[:count]
    return [customer_event({**row, "Age": min(float(row["Age"] or 0) + years, 100)}, moment=moment) for row in rows]
