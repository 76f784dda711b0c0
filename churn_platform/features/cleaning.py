"""From raw customers to typed ones with a known Gender. Nothing is imputed here. Pure; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from churn_platform.features.columns import CATEGORICAL_COLUMNS, NUMERIC_COLUMNS, TARGET, columns_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FRACTIONAL_COLUMNS = ("Age", "Balance", "EstimatedSalary")  # Age is in whole years, but float64 because it can be null


def clean(raw: pd.DataFrame) -> pd.DataFrame:
    """Return the customers whose Gender is known, with the same dtypes whatever the file contained.

    Rows with a null Gender are dropped: the encoder would need a third category, which the stream never sends. All
    other nulls stay, for the imputer.

    Args:
        raw: one row per customer, as `read_customers` returns them.

    Returns:
        The same columns and `attrs`, with a new index 0..n-1. Whole numbers are int64 (float64 if the column has
        nulls), Age, Balance and EstimatedSalary float64, Geography and Gender object (str or None).

    Raises:
        MissingColumnError: a column is missing.
    """
    import pandas as pd

    columns_of(raw, (*NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS, TARGET))  # raises if one is missing
    known = raw["Gender"].notna().to_numpy()
    # Column by column: a frame for each step would take three times the memory for ten million customers.
    cleaned = pd.DataFrame({str(name): _typed(str(name), values[known]) for name, values in raw.items()}, copy=False)
    cleaned.attrs = dict(raw.attrs)
    return cleaned


def _typed(name: str, values: pd.Series) -> NDArray[Any]:
    """Return one column with the dtype that every step expects. Columns that no step reads keep their dtype."""
    if name in CATEGORICAL_COLUMNS:
        return values.astype(object).mask(values.isna(), other=None).to_numpy()
    if name in (*NUMERIC_COLUMNS, TARGET):
        whole = name not in FRACTIONAL_COLUMNS and not values.isna().any()
        return values.to_numpy("int64" if whole else "float64")
    return values.to_numpy()
