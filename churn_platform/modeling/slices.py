"""Groups of customers that a model is judged on one by one. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

# Fewer of one outcome than this, and a slice's ROC AUC is mostly chance (its standard error is above .04).
LEAST_OF_EACH: Final = 50
AGE_BANDS: Final = ((18, 30), (30, 40), (40, 50), (50, 60), (60, 121))  # years; from the first until before the second


def slices(rows: pd.DataFrame) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Name and rows, shape (n,), of each slice: by Geography, Gender, age band and number of products.

    Args:
        rows: n customers with their raw columns.
    """
    for column in ("Geography", "Gender"):
        for value in sorted(rows[column].dropna().unique()):
            yield f"{column} {value}", (rows[column] == value).to_numpy()
    age = rows["Age"].to_numpy(np.float64)
    for first, end in AGE_BANDS:
        yield f"Age {first} to {end - 1}", (age >= first) & (age < end)
    yield "Age unknown", np.isnan(age)
    for products in sorted(rows["NumOfProducts"].unique().tolist()):
        yield f"NumOfProducts {products}", (rows["NumOfProducts"] == products).to_numpy()


def judgeable_slices(rows: pd.DataFrame, churned: NDArray[np.integer]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The slices with LEAST_OF_EACH customers or more of either outcome."""
    for name, members in slices(rows):
        churners = int(churned[members].sum())
        if min(churners, int(members.sum()) - churners) >= LEAST_OF_EACH:
            yield name, members
