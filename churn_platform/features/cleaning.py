"""From raw customers to typed ones, without rows that training cannot use. Nothing is imputed here. Pure; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from churn_platform.features.columns import columns_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from pandas.api.extensions import ExtensionArray

    from churn_platform.schema.customer_schema import CustomerSchema


def clean(raw: pd.DataFrame, schema: CustomerSchema, *, consume: bool = False) -> pd.DataFrame:
    """Return the customers that training uses, with the same dtypes whatever the file contained.

    Rows with a missing value in a column with `missing = "drop"` are dropped. All other missing values stay, for the
    imputer and the encoder.

    Args:
        raw: one row per customer, as `load_customers` returns them.
        schema: the schema of the customers.
        consume: whether to remove each column from `raw` as soon as it is typed, so that both frames together take
            hardly more memory than one.

    Returns:
        The same columns and `attrs`, with a new index 0..n-1. The columns that events carry have the schema's dtype
        (whole numbers with missing values are float64, texts may be categorical), and the target is int64.

    Raises:
        MissingColumnError: a column that events carry, or the target, is missing.
    """
    import pandas as pd

    columns_of(raw, (*schema.inputs, schema.target))  # raises if one is missing
    used = np.ones(len(raw), dtype=np.bool_)
    for name in schema.dropped:
        if name in raw:
            used &= raw[name].notna().to_numpy()
    # Column by column: a frame for each step would take three times the memory for ten million customers.
    columns = {}
    for name in map(str, list(raw)):
        values = raw.pop(name) if consume else raw[name]
        columns[name] = _typed(name, values[used], schema)
    cleaned = pd.DataFrame(columns, copy=False)
    cleaned.attrs = dict(raw.attrs)
    return cleaned


def _typed(name: str, values: pd.Series, schema: CustomerSchema) -> NDArray[Any] | ExtensionArray:
    """Return one column with the dtype that every step expects.

    Columns that no step reads, and categorical ones, keep their dtype.
    """
    import pandas as pd

    if isinstance(values.dtype, pd.CategoricalDtype):
        categorical: ExtensionArray = values.array
        return categorical
    if name != schema.target and name not in schema.inputs:
        return values.to_numpy()
    dtype = "int64" if name == schema.target else schema.column(name).dtype
    if dtype == "object":
        return values.astype(object).mask(values.isna(), other=None).to_numpy()
    if dtype == "int64" and values.isna().any():
        dtype = "float64"
    return values.to_numpy(dtype)
