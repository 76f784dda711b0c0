"""Groups of customers on which a model is evaluated separately: the segments of the customer schema. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from churn_platform.schema.columns import OTHER, Column

if TYPE_CHECKING:
    import pandas as pd

    from churn_platform.files.stored_frame import Frame
    from churn_platform.schema.customer_schema import CustomerSchema

# With fewer churners, or fewer others, the ROC AUC of a slice is mostly chance: its standard error is above 0.04.
MIN_ROWS_OF_EACH_OUTCOME: Final = 50

Slice: TypeAlias = tuple[str, NDArray[np.bool_]]
"""Name, and whether each of the n customers is a member."""


def slices(rows: Frame, schema: CustomerSchema) -> Iterator[Slice]:
    """Yield each slice: by every value of a segment column, or by its bands, and one of the missing values.

    Args:
        rows: n customers with their raw columns.
        schema: says which columns are segments.
    """
    for column in schema.segments:
        values = rows[column.name]
        if column.segment_bounds:
            yield from _bands(values.to_numpy(np.float64), column)
        elif column.kind == "category":
            yield from _categories(values, column)
        else:
            numbers = values.to_numpy(np.float64)
            for number in np.unique(numbers[~np.isnan(numbers)]).tolist():
                yield f"{column.name} {number:.15g}", numbers == number
        if column.scored_if_missing:
            yield f"{column.name} unknown", values.isna().to_numpy(np.bool_)


def slices_large_enough(rows: Frame, churned: NDArray[np.integer], schema: CustomerSchema) -> Iterator[Slice]:
    """Yield the slices that have at least MIN_ROWS_OF_EACH_OUTCOME customers of either outcome."""
    for name, members in slices(rows, schema):
        churners = int(churned[members].sum())
        if min(churners, int(members.sum()) - churners) >= MIN_ROWS_OF_EACH_OUTCOME:
            yield name, members


def _categories(values: pd.Series, column: Column) -> Iterator[Slice]:
    """Yield a slice for each category that occurs, in alphabetical order. Values that are not listed are one slice."""
    found = values.dropna()
    if column.unknown == "other":
        values = values.where(values.isna() | values.isin(column.categories), OTHER)
        found = values.dropna()
    for category in sorted(found.unique()):
        yield f"{column.name} {category}", (values == category).to_numpy(np.bool_)


def _bands(numbers: NDArray[np.float64], column: Column) -> Iterator[Slice]:
    """Yield a slice for each band that the column's range allows. A band includes its lower bound."""
    bands = np.searchsorted(column.segment_bounds, numbers, side="right")
    known = ~np.isnan(numbers)
    from_first = isinstance(column.minimum, int | float) and column.minimum >= column.segment_bounds[0]
    for band, label in enumerate(column.segment_labels):
        if band or not from_first:
            yield f"{column.name} {label}", known & (bands == band)
