"""The type of a batch of columns, and how to read columns from one. Pure; no I/O.

Which columns there are and which features they become is in the customer schema (`schema/customer_schema.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.exceptions import MissingColumnError

if TYPE_CHECKING:  # scoring needs no pandas, and importing it takes longer than loading a model
    import pandas as pd

    from churn_platform.schema.customer_schema import CustomerSchema

Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""Column name -> values, all arrays of shape (n,). Numbers have a numeric dtype, dates datetime64, categories object or
str. Missing values are NaN, NaT and None."""


def column(columns: Columns, name: str) -> NDArray[Any]:
    """Return the values of one column.

    Raises:
        MissingColumnError: there is no such column.
    """
    try:
        return columns[name]
    except KeyError:
        raise MissingColumnError(
            f"Column {name!r} is missing: the features need it, but got {', '.join(columns) or 'no columns'}.",
            remedy="Add the column, as the customer schema describes it.",
        ) from None


def columns_of(frame: pd.DataFrame, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return columns of a frame as arrays of shape (n,).

    Raises:
        MissingColumnError: the frame lacks one of them.
    """
    wanted = list(names)
    known = set(wanted)
    series = {str(label): values.to_numpy() for label, values in frame.items() if label in known}
    return {name: column(series, name) for name in wanted}


def stored_columns(schema: CustomerSchema, customers: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns that a model reads of n customers as PostgreSQL stores them, each of shape (n,).

    Args:
        schema: of the model.
        customers: column name -> value, at least for each feature column; None for missing values.

    Returns:
        Numbers as float64, with NaN where missing.
    """
    dtypes = {"category": "object", "date": "datetime64[s]"}
    return {
        name: np.array([each[name] for each in customers], dtypes.get(schema.by_name[name].kind, "float64"))
        for name in schema.feature_columns
    }


def is_null(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether each value is missing: NaN in numbers, NaT in dates, None or NaN in objects. Shape (n,)."""
    missing: NDArray[np.bool_]
    if values.dtype.kind == "O":
        missing = (values == None) | (values != values)  # noqa: E711  elementwise, unlike `is`
    elif values.dtype.kind == "f":
        missing = np.isnan(values)
    elif values.dtype.kind == "M":
        missing = np.isnat(values)
    else:
        missing = np.zeros(values.shape, dtype=np.bool_)
    return missing
