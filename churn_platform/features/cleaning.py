"""From the raw file to typed customers with a known Gender; nothing is imputed here. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from churn_platform.features.columns import CATEGORICAL_COLUMNS, NUMERIC_COLUMNS, TARGET, columns_of

if TYPE_CHECKING:
    import pandas as pd

FRACTIONAL_COLUMNS = ("Age", "Balance", "EstimatedSalary")  # Age is whole years, but float64 so that it can be null


def clean(raw: pd.DataFrame) -> pd.DataFrame:
    """Customers whose Gender is known, with one dtype per column whatever the file happened to hold.

    A null Gender drops the row: the encoder would otherwise need a third category that the stream never sends.
    Every other null stays null, for the imputer.

    Args:
        raw: one row per customer, as `read_customers` gives it.

    Returns:
        The same columns and a fresh index 0..n-1. Whole numbers are int64 (float64 where a null is among them), Age,
        Balance and EstimatedSalary float64, Geography and Gender object (str or None).

    Raises:
        MissingColumnError: a column is not there.
    """
    columns_of(raw, (*NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS, TARGET))  # raises when one is not there
    cleaned = raw.loc[raw["Gender"].notna()].reset_index(drop=True)
    for name in (*NUMERIC_COLUMNS, TARGET):
        whole = name not in FRACTIONAL_COLUMNS and not cleaned[name].isna().any()
        cleaned[name] = cleaned[name].astype("int64" if whole else "float64")
    for name in CATEGORICAL_COLUMNS:
        cleaned[name] = cleaned[name].astype(object).mask(cleaned[name].isna(), other=None)
    return cleaned
