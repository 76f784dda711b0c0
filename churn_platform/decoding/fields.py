"""Fields of JSON messages: the types that msgspec checks, and what the fields may hold, as text. Pure; no I/O.

A customer's fields follow from the customer schema. A field has the name of its column, which may be any text, so a
decoded message has it under another name: `attribute`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from churn_platform.schema.columns import MAX_TEXT_LENGTH, MAX_WHOLE, Column

MAX_EVENT_ID_LENGTH: Final = 200
LONGEST_CATEGORIES: Final = 250
"""Characters of the categories that a text lists. A reason has 500, of which the value that was sent needs some."""

Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]
EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_EVENT_ID_LENGTH)]

FLAG_TEXT: Final = "0 or 1"
TIMESTAMP_TEXT: Final = (
    "a time as in RFC 3339 with a time zone, such as 2026-11-24T09:15:30Z (no hour 24, no leap second)"
)
EVENT_ID_TEXT: Final = f"text of 1 to {MAX_EVENT_ID_LENGTH} characters"
DATE_TEXT: Final = "a date such as 2026-11-24"

_SINGLE_PRECISION: Final = float(np.finfo(np.float32).max)
_WHOLE_TYPES: Final = {"smallint": np.int16, "integer": np.int32, "bigint": np.int64}


@dataclass(frozen=True)
class CustomerField:
    """The field of a customer's column.

    Attributes:
        column: the column, whose name is that of the field.
        attribute: name of the field in the decoded message.
        may_be_null: whether null is a valid value.
        may_be_absent: whether a message may do without the field; its value is null then.
    """

    column: Column
    attribute: str
    may_be_null: bool
    may_be_absent: bool

    @property
    def definition(self) -> tuple[str, Any] | tuple[str, Any, None]:
        """What msgspec.defstruct() takes: attribute, type, and the default if the field may be absent."""
        kind = _type(self.column)
        if self.may_be_null:
            kind = kind | None
        return (self.attribute, kind, None) if self.may_be_absent else (self.attribute, kind)

    @property
    def allowed(self) -> str:
        """What the field may hold, as text."""
        return f"{_allowed(self.column)} or null" if self.may_be_null else _allowed(self.column)

    def to_array(self, values: Iterable[Any], count: int) -> NDArray[Any]:
        """Return decoded values as an array of shape (count,).

        Whole numbers and flags become integers of the size that the table has, or float64 where null is valid. Numbers
        become float64, or float32 in a column of single precision, with NaN for null. Dates become datetime64[s], with
        NaT for null. Texts become objects, with None for null.
        """
        # np.fromiter() is faster, but converts neither null nor dates.
        if self.may_be_null or self._dtype.kind in "OM":
            return np.array(list(values), self._dtype)
        return np.fromiter(values, self._dtype, count)

    def cast(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values of a file's column as `to_array` returns those of events: shape (n,).

        Args:
            values: shape (n,), with the column's `dtype` and within its bounds.
        """
        return values.astype(self._dtype, copy=False)

    @cached_property
    def _dtype(self) -> np.dtype[Any]:
        match self.column.kind:
            case "whole" | "flag" if not self.may_be_null:
                return np.dtype(_WHOLE_TYPES[self.column.sql_type])
            case "number" if self.column.single_precision:
                return np.dtype(np.float32)
            case "whole" | "flag" | "number":
                return np.dtype(np.float64)
            case "date":
                return np.dtype("datetime64[s]")
            case _:
                return np.dtype(object)

    def wrong_values(self, values: NDArray[Any]) -> Iterator[tuple[int, str]]:
        """Yield indices of values that are not valid although their type is, each with the reason.

        msgspec has no bounds for dates. Its pattern for texts without U+0000 would take longer than this check.

        Args:
            values: shape (n,), as `to_array` returns them.
        """
        column = self.column
        if column.kind == "date":
            # NaT, a missing value or bound, is neither less nor greater than any date.
            wrong = (values < _bound(column.minimum)) | (values > _bound(column.maximum))
            for index in np.flatnonzero(wrong).tolist():
                day = np.datetime_as_string(values[index], unit="D")
                yield index, f"{column.name}: expected {self.allowed}, got {day}."
        elif _is_free_text(column) and "\0" in "".join([value for value in values.tolist() if value]):
            for index in [index for index, value in enumerate(values.tolist()) if value and "\0" in value]:
                yield index, f"{column.name} holds U+0000, which PostgreSQL cannot store as text."


def customer_fields(columns: Sequence[Column]) -> tuple[CustomerField, ...]:
    """Return the fields of columns in a message that carries all of them."""
    return tuple(
        CustomerField(
            column,
            f"column_{number}",
            may_be_null=column.scored_if_missing,
            may_be_absent=column.optional and column.scored_if_missing,
        )
        for number, column in enumerate(columns)
    )


def define_message(name: str, fields: Sequence[CustomerField], base: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a message type with the fields of `base` and a customer's."""
    return msgspec.defstruct(
        name,
        [field.definition for field in fields],
        bases=(base,),
        rename={field.attribute: field.column.name for field in fields},
        gc=False,
        kw_only=True,
    )


def _is_free_text(column: Column) -> bool:
    return column.kind == "text" or (column.kind == "category" and column.unknown == "other")


def _type(column: Column) -> Any:
    """Return the type of a value that is not null."""
    low, high = column.minimum, column.maximum
    match column.kind:
        case "flag":
            return Flag
        case "whole":
            # Any whole number that the table can hold: it stores those without bounds as bigint.
            return Annotated[int, msgspec.Meta(ge=_or(low, -MAX_WHOLE), le=_or(high, MAX_WHOLE))]
        case "number" if column.single_precision:
            return Annotated[float, msgspec.Meta(ge=_or(low, -_SINGLE_PRECISION), le=_or(high, _SINGLE_PRECISION))]
        case "number":
            return Annotated[float, msgspec.Meta(ge=_or(low, None), le=_or(high, None))]
        case "date":
            return date
        case "category" if column.unknown == "refuse":
            literal: Any = Literal  # its values come from the column: too late for a type checker
            return literal[column.categories]
        case _:
            return Annotated[str, msgspec.Meta(min_length=1, max_length=_max_length(column))]


def _or(bound: float | date | None, default: float | None) -> Any:
    return default if bound is None else bound


def _bound(bound: float | date | None) -> np.datetime64:
    return np.datetime64(bound if isinstance(bound, date) else "NaT", "s")


def _max_length(column: Column) -> int:
    return column.max_length or MAX_TEXT_LENGTH


def _allowed(column: Column) -> str:
    match column.kind:
        case "flag":
            return FLAG_TEXT
        case "whole" if (column.minimum, column.maximum) == (0, 1):
            return FLAG_TEXT
        case "whole":
            return f"a whole number{_range(column)} (without a decimal point)"
        case "number":
            return f"a number{_range(column)}"
        case "date":
            return f"{DATE_TEXT}{_range(column)}"
        case "category" if column.unknown == "refuse":
            return _alternatives([f'"{category}"' for category in column.categories])
        case _:
            return f"text of 1 to {_max_length(column)} characters"


def _range(column: Column) -> str:
    start = "" if column.minimum is None else f" from {_digits(column.minimum)}"
    end = "" if column.maximum is None else f" to {_digits(column.maximum)}"
    return start + end


def _digits(bound: float | date) -> str:
    return f"{bound:.0f}" if isinstance(bound, float) and bound.is_integer() else str(bound)


def _alternatives(texts: Sequence[str]) -> str:
    """Return the texts with commas and "or", without those that would make it too long."""
    shown = [text for number, text in enumerate(texts) if len(", ".join(texts[: number + 1])) <= LONGEST_CATEGORIES]
    if len(shown) < len(texts):
        return f"{', '.join(shown or ['one of the categories'])} or another of the schema's {len(texts)} categories"
    return " or ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
