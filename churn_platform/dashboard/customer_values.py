"""Ids and values of customers, as people type and read them. The customer schema says what they are. Pure."""

from datetime import date
from typing import Final

from churn_platform.dashboard.formats import day, label
from churn_platform.schema.columns import Column, snake_case
from churn_platform.schema.customer_schema import CustomerSchema

UNKNOWN: Final = "unknown"
WHOLE_FROM: Final = 1_000
"""From this number on, decimals say nothing."""
_LARGEST_ID: Final = 2**63 - 1  # of a PostgreSQL bigint
_MOST_ID_CHARACTERS: Final = 200


def typed_id(schema: CustomerSchema, text: str) -> int | str | None:
    """Return the id that somebody has typed; None if no customer can have it."""
    if schema.id_type == "text":
        return text if 0 < len(text) <= _MOST_ID_CHARACTERS and "\0" not in text else None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(_LARGEST_ID)):
        return None
    value = int(text)
    return value if abs(value) <= _LARGEST_ID else None


def column_label(schema: CustomerSchema, name: str) -> str:
    """Return the name of a column for people; `name` is that of the schema, or of a column that left it."""
    column = schema.by_name.get(name)
    return column.title if column is not None else label(snake_case(name))


def value_text(column: Column | None, value: object) -> str:
    """Return a value with its unit, such as "125,510 euros", "yes" or "24 Nov 2026".

    Args:
        column: of the schema; None if it left the schema.
        value: a number, text or date; None if it is unknown.
    """
    if value is None:
        return UNKNOWN
    if column is not None and column.kind == "flag":
        return "yes" if value == 1 else "no" if value == 0 else str(value)
    if isinstance(value, date):
        return day(value)
    if isinstance(value, int | float):
        number = f"{value:,.0f}" if abs(value) >= WHOLE_FROM else f"{value:.4g}"
        return f"{number} {column.unit}" if column is not None and _needs_unit(column) else number
    return str(value)


def _needs_unit(column: Column) -> bool:
    """Return whether a value needs its unit: not if the name has it already, as "Number of products"."""
    return column.unit is not None and not column.title.lower().endswith(column.unit.lower())
