"""What is done outside of the UI, so that there is something to see in it."""

from pathlib import Path

import pandas as pd


def make_an_age_wrong(customers: Path) -> None:
    """Make one customer of the file 17, which is a number but no age that a customer may have."""
    frame = pd.read_csv(customers)
    frame.loc[7, "Age"] = 17
    frame.to_csv(customers, index=False)
