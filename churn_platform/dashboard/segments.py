"""Segments as people read them: names of columns and values, and the order of the values. Pure.

Tables hold the value of a segment as text: a category, a band, a number, or `missing`.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from churn_platform.schema.columns import MISSING, OTHER, Column, as_words
from churn_platform.schema.customer_schema import CustomerSchema

UNKNOWN: Final = "not recorded"
"""Stands for the value of a segment that was added to the schema after the sums were archived."""
FEW: Final = 30
"""Below this number of predictions or customers a rate says little: its 95 % interval is wider than 30 points."""
_FLAGS: Final = {"0": "no", "1": "yes"}


def segment_name(column: Column) -> str:
    """Return the name of a segment, such as "Number of products"."""
    return column.title


def value_name(column: Column, value: str | None) -> str:
    """Return a value of a segment as people read it, such as "30 to 39 years"; None is one that is not recorded."""
    if value is None:
        return UNKNOWN
    if column.kind == "flag":
        return _FLAGS.get(value, value)
    has_unit = column.unit is not None and value in column.segment_labels
    return f"{value} {column.unit}" if has_unit else value


def value_in_text(column: Column, value: str | None) -> str:
    """Return a value so that it can stand alone: "Germany" says what it is, "3" becomes "Number of products 3"."""
    name = value_name(column, value)
    return name if column.kind == "category" and value in column.categories else f"{segment_name(column)} {name}"


def described(schema: CustomerSchema, segments: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return names and values for people of segments that are stored by their names in tables.

    A segment that left the schema keeps the name that it has in tables.
    """
    known = {column.column: column for column in schema.columns}
    return [
        (segment_name(known[name]), value_name(known[name], value)) if name in known else (as_words(name), value)
        for name, value in segments.items()
    ]


def in_order(column: Column, values: Iterable[str | None]) -> list[str | None]:
    """Return values in the order of the schema: categories as it lists them, bands and numbers ascending.

    `other`, `missing` and values that are not recorded are the last.
    """
    return sorted(values, key=lambda value: _rank(column, value))


def _rank(column: Column, value: str | None) -> tuple[int, float, str]:
    last = {OTHER: 1, MISSING: 2, None: 3}
    listed = column.segment_labels or column.categories
    if value in listed:
        return 0, listed.index(value), ""
    if value is None or value in last:
        return last[value], 0.0, ""
    return 0, _number(value, after=len(listed)), value


def _number(value: str, *, after: int) -> float:
    try:
        return float(value)
    except ValueError:
        return float(after)
