"""Frames with any common dtypes as the columns that a model scores, validated by the rules that the stream applies.

A dtype depends on how a frame was made, not on the customer: values that can be cast without loss are cast. Ranges,
categories and missing values follow `schema/columns.py`. Values are never changed to make them valid.
"""

from __future__ import annotations

from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import INPUT_COLUMNS, columns_of
from churn_platform.features.exceptions import FeatureError
from churn_platform.schema.columns import COLUMNS_BY_NAME, Column

if TYPE_CHECKING:
    import pandas as pd

MAX_EXAMPLES: Final = 3  # values of each column in a message
MAX_VALUE_LENGTH: Final = 40  # characters of a value in a message


class UnscorableRowsError(FeatureError):
    """Rows have values that the stream would reject as well."""


def scorable_columns(frame: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Return the raw columns of the features, cast without loss: whole numbers int64, others float64, texts object.

    Args:
        frame: n rows. Whole numbers may have any integer dtype or be floats without decimals; 0 and 1 may be booleans.
            Numbers of any kind, nullable dtypes, categoricals and objects are accepted. Other columns are ignored.

    Raises:
        MissingColumnError: a column is missing.
        UnscorableRowsError: values are out of range, not a known category, missing or of another type. The message
            counts them by column and shows the first ones.
    """
    columns_of(frame)  # raises if one is missing
    cast: dict[str, NDArray[Any]] = {}
    problems: list[str] = []
    for name in INPUT_COLUMNS:
        column, series = COLUMNS_BY_NAME[name], frame[name]
        values, valid = _categories(series, column) if column.categories else _numbers(series, column)
        cast[name] = values
        if not valid.all():
            problems.append(_problem(series, np.flatnonzero(~valid), column))
    if problems:
        raise UnscorableRowsError(
            f"{'; '.join(problems)}.", remedy="Correct or remove these rows: the stream would reject them as well."
        )
    return {name: _with_dtype(values, COLUMNS_BY_NAME[name]) for name, values in cast.items()}


def _with_dtype(values: NDArray[Any], column: Column) -> NDArray[Any]:
    return values.astype(np.int64) if column.kind == "whole" else values


def _categories(series: pd.Series, column: Column) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    values = series.astype(object).to_numpy()
    return values, series.isin(column.categories).to_numpy(np.bool_)


def _numbers(series: pd.Series, column: Column) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the values as floats, NaN where missing, and whether each is valid."""
    import pandas as pd

    types = pd.api.types
    if types.is_numeric_dtype(series) and not types.is_bool_dtype(series) and not types.is_complex_dtype(series):
        values, known = series.to_numpy(np.float64, na_value=np.nan), np.ones(len(series), np.bool_)
    else:
        values, known = _from_objects(
            series.astype(object).to_numpy(), flags=(column.minimum, column.maximum) == (0, 1)
        )
    missing = np.isnan(values)
    inside = (values >= column.minimum) & (values <= column.maximum)
    if column.kind == "whole":
        inside &= np.trunc(values) == values
    return values, known & np.where(missing, column.missing == "imputed", inside)


def _from_objects(objects: NDArray[np.object_], *, flags: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return objects as floats, and whether each is a number or missing. With `flags`, booleans are numbers."""
    import pandas as pd

    values = np.full(len(objects), np.nan)
    known = np.asarray(pd.isna(objects), np.bool_)
    for row in np.flatnonzero(~known).tolist():
        value = objects[row]
        is_flag = isinstance(value, bool | np.bool_)
        if is_flag and not flags:
            continue
        if is_flag or isinstance(value, Real | Decimal):
            try:
                values[row] = float(value)
            except OverflowError:
                continue
            known[row] = True
    return values, known


def _problem(series: pd.Series, wrong: NDArray[np.intp], column: Column) -> str:
    """Return a message about the wrong rows of one column."""
    examples = ", ".join(
        f"{_example(series.iloc[row], column)} in row {series.index[row]}" for row in wrong[:MAX_EXAMPLES].tolist()
    )
    more = f" and {len(wrong) - MAX_EXAMPLES:,} more" if len(wrong) > MAX_EXAMPLES else ""
    return (
        f"{column.name} is wrong in {len(wrong):,} of {len(series):,} rows ({examples}{more}), "
        f"expected {column.allowed_when_scored}"
    )


def _example(value: object, column: Column) -> str:
    """Return a value for a message. A text instead of a number may be a customer's name, so it is not shown."""
    import pandas as pd

    if pd.api.types.is_scalar(value) and pd.isna(value):  # type: ignore[call-overload]  # is_scalar has narrowed it, which the stubs do not know
        return "missing"
    if isinstance(value, str) and not column.categories:
        return "a text"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."
