"""Names of the raw columns and the features, in their fixed order, and the type of a batch of columns. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.exceptions import MissingColumnError

if TYPE_CHECKING:  # scoring needs no pandas, and importing it takes longer than loading a model
    import pandas as pd

Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""Column name -> values, all arrays of shape (n,). Numbers have a numeric dtype, categories object or str."""

NUMERIC_COLUMNS = (
    "CreditScore",
    "Age",
    "Tenure",
    "Balance",
    "NumOfProducts",
    "HasCrCard",
    "IsActiveMember",
    "EstimatedSalary",
)
CATEGORICAL_COLUMNS = ("Geography", "Gender")
INPUT_COLUMNS = (*NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS)
"""The raw columns that features are made of. Names and ids are not among them."""

BAND_COLUMN = "CreditScoreBins"
TARGET = "Exited"

FEATURES = (
    *NUMERIC_COLUMNS,
    BAND_COLUMN,
    "Geography_France",
    "Geography_Germany",
    "Geography_Spain",
    "Gender_Female",
    "Gender_Male",
)
"""The 14 features, in the order that the model reads them."""


def column(columns: Columns, name: str) -> NDArray[Any]:
    """Return the values of one column.

    Raises:
        MissingColumnError: there is no such column.
    """
    try:
        return columns[name]
    except KeyError:
        raise MissingColumnError(
            f"Column {name!r} is missing: the features need {', '.join(INPUT_COLUMNS)}, but got {', '.join(columns)}.",
            remedy="Add the column. Unknown numbers may be null (NaN).",
        ) from None


def columns_of(frame: pd.DataFrame, names: tuple[str, ...] = INPUT_COLUMNS) -> dict[str, NDArray[Any]]:
    """Return columns of a frame as arrays of shape (n,), by default those that features are made of.

    Raises:
        MissingColumnError: the frame lacks one of them.
    """
    series = {str(label): values.to_numpy() for label, values in frame.items() if label in names}
    return {name: column(series, name) for name in names}


def is_null(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether each value is missing: NaN in numbers, None or NaN in objects. Shape (n,), as `values`."""
    if values.dtype.kind == "O":
        missing: NDArray[np.bool_] = (values == None) | (values != values)  # noqa: E711  elementwise, unlike `is`
    elif values.dtype.kind == "f":
        missing = np.isnan(values)
    else:
        missing = np.zeros(values.shape, dtype=np.bool_)
    return missing
