"""Groups of customers on which a model is evaluated separately. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

# With fewer churners, or fewer others, the ROC AUC of a slice is mostly chance: its standard error is above 0.04.
MIN_ROWS_OF_EACH_OUTCOME: Final = 50
AGE_BANDS: Final = ((18, 30), (30, 40), (40, 50), (50, 60), (60, 121))  # years, the first included, the second not


def slices(rows: pd.DataFrame) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the name and the members, shape (n,), of each slice: by Geography, Gender, age band and NumOfProducts.

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


def slices_large_enough(rows: pd.DataFrame, churned: NDArray[np.integer]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the slices that have at least MIN_ROWS_OF_EACH_OUTCOME customers of either outcome."""
    for name, members in slices(rows):
        churners = int(churned[members].sum())
        if min(churners, int(members.sum()) - churners) >= MIN_ROWS_OF_EACH_OUTCOME:
            yield name, members
