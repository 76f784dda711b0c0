"""Bands: numbers as the number of the range that they are in. Pure; no I/O."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import Columns, column
from churn_platform.schema.columns import Band
from churn_platform.schema.customer_schema import CustomerSchema


def band_numbers(values: NDArray[Any], bands: Sequence[Band]) -> NDArray[np.int8]:
    """Return the number of each value's band, from 0. A band includes its upper bound.

    Args:
        values: shape (n,), numbers without missing values.
        bands: ascending; the last one has no upper bound.

    Returns:
        shape (n,).
    """
    upper_bounds = [band.upper_bound for band in bands if band.upper_bound is not None]
    return np.searchsorted(upper_bounds, values, side="left").astype(np.int8)


def add_bands(columns: Columns, schema: CustomerSchema) -> dict[str, NDArray[Any]]:
    """Return the columns and, in addition, the band feature of each banded column.

    Args:
        columns: imputed and not scaled.
        schema: the schema with the bands.

    Raises:
        MissingColumnError: a banded column is missing.
    """
    bands = {each.bands_feature: band_numbers(column(columns, each.name), each.bands) for each in schema.banded}
    return {**columns, **bands}
