"""Frames of any ordinary dtypes as the columns that a model scores, by the rules that the stream holds events to.

A dtype says how a frame was made and nothing of the customer: what can be cast without loss is cast. Ranges, categories
and missing values are those of `customers/schema.py`. Values are never changed to fit.
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

EXAMPLES: Final = 3  # values that are shown of each column
LONGEST: Final = 40  # characters of a value in a message


class UnscorableRowsError(FeatureError):
    """Rows with values that the stream would refuse, too."""


def scorable_columns(frame: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """The raw columns that features are made of, cast without loss: whole numbers int64, others float64, texts object.

    Args:
        frame: n rows. Whole numbers may be of any integer dtype, or floats without decimals; 0 and 1 may be booleans;
            numbers of any kind, nullable dtypes, categories and objects are taken. Other columns are ignored.

    Raises:
        MissingColumnError: a column is not there.
        UnscorableRowsError: values are out of range, of no known category, missing or of another type. It counts them
            by column and names the first.
    """
    columns_of(frame)  # raises when one is not there
    cast: dict[str, NDArray[Any]] = {}
    problems: list[str] = []
    for name in INPUT_COLUMNS:
        column, series = COLUMNS_BY_NAME[name], frame[name]
        values, right = _categories(series, column) if column.categories else _numbers(series, column)
        cast[name] = values
        if not right.all():
            problems.append(_problem(series, np.flatnonzero(~right), column))
    if problems:
        raise UnscorableRowsError(
            f"{'; '.join(problems)}. Correct or leave out these rows: the stream would refuse them, too."
        )
    return {name: _of_kind(values, COLUMNS_BY_NAME[name]) for name, values in cast.items()}


def _of_kind(values: NDArray[Any], column: Column) -> NDArray[Any]:
    return values.astype(np.int64) if column.kind == "whole" else values


def _categories(series: pd.Series, column: Column) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    values = series.astype(object).to_numpy()
    return values, series.isin(column.categories).to_numpy(np.bool_)


def _numbers(series: pd.Series, column: Column) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values as floats, NaN where there is none, and whether each may be scored."""
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
    """Objects as floats, and which of them are numbers or missing; with `flags` booleans are numbers."""
    import pandas as pd

    values = np.full(len(objects), np.nan)
    known = np.asarray(pd.isna(objects), np.bool_)
    for row in np.flatnonzero(~known).tolist():
        given = objects[row]
        is_flag = isinstance(given, bool | np.bool_)
        if is_flag and not flags:
            continue
        if is_flag or isinstance(given, Real | Decimal):
            try:
                values[row] = float(given)
            except OverflowError:
                continue
            known[row] = True
    return values, known


def _problem(series: pd.Series, wrong: NDArray[np.intp], column: Column) -> str:
    shown = ", ".join(
        f"{_shown(series.iloc[row], column)} in row {series.index[row]}" for row in wrong[:EXAMPLES].tolist()
    )
    more = f" and {len(wrong) - EXAMPLES:,} more" if len(wrong) > EXAMPLES else ""
    return (
        f"{column.name} is wrong in {len(wrong):,} of {len(series):,} rows ({shown}{more}), "
        f"expected {column.allowed_when_scored}"
    )


def _shown(value: object, column: Column) -> str:
    """A value as a message shows it. A text where a number should be may be a customer's name: it is not shown."""
    import pandas as pd

    if pd.api.types.is_scalar(value) and pd.isna(value):  # type: ignore[call-overload]  # a scalar, as was just asked
        return "missing"
    if isinstance(value, str) and not column.categories:
        return "a text"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
