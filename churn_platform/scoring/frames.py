"""Frames with any common dtypes as the columns that a model scores, validated by the rules that the stream applies.

A dtype depends on how a frame was made, not on the customer: values that can be cast without loss are cast. Ranges,
categories and missing values follow `schema/columns.py`. Values are never changed to make them valid.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import columns_of
from churn_platform.features.exceptions import FeatureError
from churn_platform.schema.columns import MAX_TEXT_LENGTH, Column

if TYPE_CHECKING:
    import pandas as pd

    from churn_platform.schema.customer_schema import CustomerSchema

MAX_EXAMPLES: Final = 3  # values of each column in a message
MAX_VALUE_LENGTH: Final = 40  # characters of a value in a message
MAX_WHOLE: Final = 2.0**62  # files and events have no greater whole numbers either
MAX_SINGLE: Final = float(np.finfo(np.float32).max)


class UnscorableRowsError(FeatureError):
    """Rows have values that the stream would reject as well."""


def scorable_columns(frame: pd.DataFrame, schema: CustomerSchema) -> dict[str, NDArray[Any]]:
    """Return the raw columns of the features, cast without loss.

    Whole numbers and flags become int64 (float64 if they may be missing), other numbers float64, dates datetime64 and
    categories objects.

    Args:
        frame: n rows. Whole numbers may have any integer dtype or be floats without decimals; 0 and 1 may be booleans.
            Dates may be texts (YYYY-MM-DD), dates or times at midnight. Numbers of any kind, nullable dtypes,
            categoricals and objects are accepted. Optional columns may be absent. Other columns are ignored.
        schema: the schema of the model.

    Raises:
        MissingColumnError: a column is missing.
        UnscorableRowsError: values are out of range, not a known category, missing or of another type. The message
            counts them by column and shows the first ones.
    """
    columns = [schema.column(name) for name in schema.feature_columns]
    absent = {each.name for each in columns if each.optional and each.scored_if_missing and each.name not in frame}
    columns_of(frame, [each.name for each in columns if each.name not in absent])  # raises if one is missing
    cast: dict[str, NDArray[Any]] = {}
    problems: list[str] = []
    for column in columns:
        series = _missing(frame) if column.name in absent else frame[column.name]
        values, valid = _cast(series, column)
        cast[column.name] = values
        if not valid.all():
            problems.append(_problem(series, np.flatnonzero(~valid), column))
    if problems:
        raise UnscorableRowsError(
            f"{'; '.join(problems)}.", remedy="Correct or remove these rows: the stream would reject them as well."
        )
    return {column.name: _with_dtype(cast[column.name], column) for column in columns}


def _missing(frame: pd.DataFrame) -> pd.Series:
    """Return a column of missing values for the rows of a frame."""
    import pandas as pd

    return pd.Series([None] * len(frame), dtype=object, index=frame.index)


def _cast(series: pd.Series, column: Column) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the values, and whether each is valid."""
    if column.kind == "category":
        return _categories(series, column)
    return _dates(series, column) if column.kind == "date" else _numbers(series, column)


def _with_dtype(values: NDArray[Any], column: Column) -> NDArray[Any]:
    whole = column.kind in ("whole", "flag") and not column.scored_if_missing
    return values.astype(np.int64) if whole else values


def _categories(series: pd.Series, column: Column) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Return the values as objects, None where missing, and whether each is valid."""
    missing = series.isna().to_numpy(np.bool_)
    values = series.astype(object).to_numpy(copy=True)
    values[missing] = None
    known = series.isin(column.categories).to_numpy(np.bool_)
    if column.unknown == "other":
        known |= np.fromiter(map(_is_text, values), np.bool_, len(values))
    return values, np.where(missing, column.scored_if_missing, known)


def _is_text(value: object) -> bool:
    """Return whether a value can be a category that is not listed. PostgreSQL cannot store U+0000 as text."""
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT_LENGTH and "\0" not in value


def _dates(series: pd.Series, column: Column) -> tuple[NDArray[np.datetime64], NDArray[np.bool_]]:
    """Return the values as dates, NaT where missing, and whether each is valid."""
    missing = series.isna().to_numpy(np.bool_)
    values = np.full(len(series), np.datetime64("NaT", "s"))
    known = missing.copy()
    for row in np.flatnonzero(~missing).tolist():
        found = _date(series.iloc[row])
        if found is not None:
            values[row], known[row] = np.datetime64(found, "s"), _is_inside(found, column)
    return values, known & (column.scored_if_missing | ~missing)


def _date(value: object) -> date | None:
    """Return a value as a date, None if it is none or has a time of day."""
    if isinstance(value, datetime):
        return value.date() if value == datetime.combine(value.date(), datetime.min.time(), value.tzinfo) else None
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value) if isinstance(value, str) and len(value) == len("YYYY-MM-DD") else None
    except ValueError:
        return None


def _is_inside(value: date, column: Column) -> bool:
    first, last = column.minimum, column.maximum
    return (not isinstance(first, date) or value >= first) and (not isinstance(last, date) or value <= last)


def _numbers(series: pd.Series, column: Column) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the values as floats, NaN where missing, and whether each is valid."""
    import pandas as pd

    types = pd.api.types
    if types.is_numeric_dtype(series) and not types.is_bool_dtype(series) and not types.is_complex_dtype(series):
        values, known = series.to_numpy(np.float64, na_value=np.nan), np.ones(len(series), np.bool_)
    else:
        flags = (column.minimum, column.maximum) == (0, 1)
        values, known = _from_objects(series.astype(object).to_numpy(), flags=flags)
    missing = np.isnan(values)
    inside = np.isfinite(values)
    if isinstance(column.minimum, int | float):
        inside &= values >= column.minimum
    if isinstance(column.maximum, int | float):
        inside &= values <= column.maximum
    if column.kind != "number":
        inside &= (np.trunc(values) == values) & (np.abs(values) <= MAX_WHOLE)
    elif column.single_precision:
        inside &= np.abs(values) <= MAX_SINGLE
    return values, known & np.where(missing, column.scored_if_missing, inside)


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
