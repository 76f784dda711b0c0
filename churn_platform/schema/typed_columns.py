"""Columns of text become typed columns; values that break the rules of their column are found. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from churn_platform.schema.columns import MAX_TEXT_LENGTH, MISSING_TEXTS, OTHER, Column
from churn_platform.schema.number_formats import (
    DateOrder,
    Decimal,
    date_order,
    decimal_evidence,
    majority,
    parse_dates,
    plain_numbers,
)
from churn_platform.schema.wrong_values import MISSING, OUT_OF_RANGE, TOO_LONG, UNKNOWN_CATEGORY, Kind, WrongValues

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Checks = list[tuple[NDArray[np.bool_], Kind | None]]

WHOLE = r"^-?[0-9]+(\.0+)?$"  # 619, and 619.0 as pandas writes a column that once had missing values
NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
ZERO_DECIMALS = r"\.0+$"
LEADING_ZEROS = r"^(-?)0+([0-9])"
INT64_SAFE_DIGITS = 18  # of 19 digits only some numbers fit
MAX_INT64_LENGTH = 20  # characters, including the sign
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class TypedColumn:
    """A typed column.

    Attributes:
        values: shape (n,), with the column's dtype; of wrong values some placeholder.
        wrong: the values that break a rule. No value breaks two.
        filled: number of values that are not missing.
        decimal: the decimal separator, if it had to be detected.
    """

    values: NDArray[Any]
    wrong: tuple[WrongValues, ...]
    filled: int
    decimal: Decimal = ""


def decimals(texts: Mapping[str, pa.ChunkedArray], columns: Mapping[str, Column]) -> dict[str, Decimal]:
    """Return the decimal separator of each column of numbers, empty if nothing shows it. See `decimals_of`.

    Args:
        texts: column name -> the values in the file.
        columns: column name -> column.
    """
    return decimals_of([evidence_of(texts, columns)])


def evidence_of(texts: Mapping[str, pa.ChunkedArray], columns: Mapping[str, Column]) -> dict[str, tuple[int, int]]:
    """Return, for each column of numbers, how many of its values show a decimal comma, and how many a point."""
    return {
        name: decimal_evidence(_known(text, columns[name]), whole=columns[name].kind == "whole")
        for name, text in texts.items()
        if columns[name].kind in ("whole", "number")
    }


def decimals_of(evidence: Sequence[Mapping[str, tuple[int, int]]]) -> dict[str, Decimal]:
    """Return the decimal separator of each column by the evidence of all blocks of a file.

    A column's own values decide. If they allow both readings, such as 1,234, the file's other columns decide.
    """
    others = majority([found for block in evidence for found in block.values()])
    return {name: majority([block[name] for block in evidence]) or others for name in evidence[0]}


def order_of(texts: pa.ChunkedArray, column: Column) -> DateOrder:
    """Return what the values of a column of dates show about the order of day and month."""
    return date_order(pc.unique(_known(texts, column)).to_pylist())


def typed(
    texts: pa.ChunkedArray, column: Column, *, decimal: Decimal | None = None, order: DateOrder | None = None
) -> TypedColumn:
    """Return one column with its dtype, and its wrong values.

    Args:
        texts: the values in the file.
        column: the column.
        decimal: the decimal separator, empty if it is not known; None if the numbers are plainly written.
        order: what all dates of the column show, if `texts` are only some of them.
    """
    known = _known(texts, column)
    if column.kind == "category" or column.spellings:
        known = _spelled(known, column)
    if column.is_number:
        return _numbers(texts, known, column, decimal)
    if column.kind == "date":
        return _dates(texts, known, column, order)
    return _categories(texts, known, column) if column.kind == "category" else _texts(texts, known, column)


def missing_column(column: Column, rows: int) -> NDArray[Any]:
    """Return the values of an optional column that the file does not have. Shape (rows,)."""
    if column.dtype == "object":
        return np.full(rows, None, dtype=object)
    return np.full(rows, np.datetime64("NaT") if column.kind == "date" else np.nan, dtype=column.dtype)


def _known(texts: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Return the trimmed texts, null where the value is missing."""
    trimmed = pc.utf8_trim_whitespace(texts)
    spelled = dict(column.spellings)
    blanks = [text for text in MISSING_TEXTS if column.is_missing(text) and text not in spelled]
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(blanks, pa.string())), pa.scalar(None, pa.string()), trimmed)


def _spelled(known: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    for text, value in column.spellings:
        known = pc.if_else(pc.fill_null(pc.equal(known, text), fill_value=False), value, known)
    return known


def _numbers(texts: pa.ChunkedArray, known: pa.ChunkedArray, column: Column, decimal: Decimal | None) -> TypedColumn:
    text = known if decimal is None else plain_numbers(known, decimal)
    whole = column.kind != "number"
    if whole and _all_short_digits(text):  # as nearly all files write them: three regular expressions less per value
        valid = pc.is_valid(text).to_numpy()
    else:
        valid = pc.fill_null(pc.match_substring_regex(text, WHOLE if whole else NUMBER), fill_value=False).to_numpy()
        if whole:
            text, fits = _plain_integers(text, valid)
            valid &= fits
    missing = pc.is_null(text).to_numpy() if text.null_count else None
    if not valid.all():
        text = pc.if_else(pa.array(valid), text, pa.scalar(None, pa.string()))
    values = _cast(text, column)
    checks: _Checks = [(~valid if missing is None else ~valid & ~missing, None)]
    if missing is not None and not column.nullable:
        checks.append((missing, MISSING))
    checks.append((valid & _outside(values, column), OUT_OF_RANGE))
    return TypedColumn(values, _wrong(column, texts, known, checks), _filled(known), decimal or "")


def _cast(text: pa.ChunkedArray, column: Column) -> NDArray[Any]:
    whole = column.dtype == "int64"
    filled = pc.fill_null(text, "0") if whole and text.null_count else text
    values: NDArray[Any] = pc.cast(filled, pa.int64() if whole else pa.float64()).to_numpy()
    return values


def _outside(values: NDArray[Any], column: Column) -> NDArray[np.bool_]:
    """Return which numbers are out of the column's range or not finite. Missing ones are not. Shape (n,)."""
    outside = np.isinf(values) if values.dtype == np.float64 else np.zeros(len(values), np.bool_)
    if column.minimum is not None:
        outside |= values < column.minimum
    if column.maximum is not None:
        outside |= values > column.maximum
    return outside


def _dates(texts: pa.ChunkedArray, known: pa.ChunkedArray, column: Column, order: DateOrder | None) -> TypedColumn:
    encoded = _encoded(known)
    dates: list[date | None] = [*parse_dates(encoded.dictionary.to_pylist(), order), None]
    codes = pc.fill_null(encoded.indices, len(dates) - 1).to_numpy(zero_copy_only=False)
    values = np.array(dates, dtype=column.dtype)[codes]
    missing = codes == len(dates) - 1
    outside = np.array([each is not None and not _in_range(each, column) for each in dates], np.bool_)[codes]
    checks: _Checks = [(np.isnat(values) & ~missing, None), (outside, OUT_OF_RANGE)]
    if not column.nullable:
        checks.append((missing, MISSING))
    return TypedColumn(values, _wrong(column, texts, known, checks), _filled(known))


def _in_range(day: date, column: Column) -> bool:
    low = column.minimum if isinstance(column.minimum, date) else date.min
    high = column.maximum if isinstance(column.maximum, date) else date.max
    return low <= day <= high


def _categories(texts: pa.ChunkedArray, known: pa.ChunkedArray, column: Column) -> TypedColumn:
    encoded = _encoded(known)
    found = encoded.dictionary.to_pylist()
    codes = pc.fill_null(encoded.indices, len(found)).to_numpy(zero_copy_only=False)
    values = np.array([*found, None], dtype=object)[codes]
    allowed = {*column.categories, *((OTHER,) if column.unknown == OTHER else ())}
    unknown = [each not in allowed and (column.unknown != OTHER or len(each) > MAX_TEXT_LENGTH) for each in found]
    checks: _Checks = []
    if any(unknown):
        rule = TOO_LONG if column.unknown == OTHER else UNKNOWN_CATEGORY
        checks.append((np.array([*unknown, False], np.bool_)[codes], rule))
    if known.null_count and not column.nullable:
        checks.append((codes == len(found), MISSING))
    return TypedColumn(values, _wrong(column, texts, known, checks), _filled(known))


def _texts(texts: pa.ChunkedArray, known: pa.ChunkedArray, column: Column) -> TypedColumn:
    values = known.to_pandas().to_numpy(dtype=object)  # equal texts share one object
    checks: _Checks = []
    if column.max_length is not None:
        long = pc.fill_null(pc.greater(pc.utf8_length(known), column.max_length), fill_value=False)
        checks.append((long.to_numpy(), TOO_LONG))
    if known.null_count and not column.nullable:
        checks.append((pc.is_null(known).to_numpy(), MISSING))
    return TypedColumn(values, _wrong(column, texts, known, checks), _filled(known))


def _encoded(known: pa.ChunkedArray) -> pa.DictionaryArray:
    encoded = known.dictionary_encode().combine_chunks()
    return encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded


def _filled(known: pa.ChunkedArray) -> int:
    filled: int = len(known) - known.null_count
    return filled


def _wrong(
    column: Column,
    texts: pa.ChunkedArray,
    known: pa.ChunkedArray,
    checks: _Checks,
) -> tuple[WrongValues, ...]:
    """Return the wrong values of each check that found some."""
    return tuple(
        WrongValues(column, rows, pa.concat_arrays(texts.take(pa.array(rows)).chunks), _filled(known), rule)
        for mask, rule in checks
        if mask.any() and len(rows := np.flatnonzero(mask))
    )


def _all_short_digits(text: pa.ChunkedArray) -> bool:
    """Return whether all known values are digits only, so few that each is a number of 64 bits."""
    digits = pc.all(pc.ascii_is_decimal(text)).as_py() is not False
    return digits and (pc.max(pc.binary_length(text)).as_py() or 0) <= INT64_SAFE_DIGITS


def _plain_integers(text: pa.ChunkedArray, whole: NDArray[np.bool_]) -> tuple[pa.ChunkedArray, NDArray[np.bool_]]:
    """Return whole numbers without decimals and superfluous zeros, and whether each fits into 64 bits."""
    text = pc.replace_substring_regex(text, ZERO_DECIMALS, "")
    if (pc.max(pc.utf8_length(text)).as_py() or 0) > INT64_SAFE_DIGITS:
        text = pc.replace_substring_regex(text, LEADING_ZEROS, r"\1\2")
    return text, _fits_int64(text, whole)


def _fits_int64(digits: pa.ChunkedArray, whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether each whole number, without leading zeros, fits into 64 bits. Shape (n,)."""
    fits: NDArray[np.bool_] = pc.fill_null(
        pc.less_equal(pc.utf8_length(digits), INT64_SAFE_DIGITS), fill_value=True
    ).to_numpy()
    fits |= ~whole
    for row in np.flatnonzero(~fits).tolist():
        number = digits[row].as_py()
        fits[row] = len(number) <= MAX_INT64_LENGTH and int(number) in INT64
    return fits
