"""Strategies for customer schemas of any columns, and for events of their customers."""

from datetime import date
from typing import Any

from hypothesis import strategies as st

from churn_platform.schema.columns import MAX_TEXT_LENGTH, MAX_WHOLE, Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.rules import PLATFORM_FIELDS

NAMES = (
    st.sampled_from(["class", "Größe", "a.b", "data.a", "Monthly charges", "column_0", "customer_id", "`", "select"])
    | st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters='"\\'), min_size=1, max_size=20)
).filter(lambda name: name not in PLATFORM_FIELDS)
WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
LARGEST_SINGLE = 3.0e38
NULL = object()
"""Stands for a field that an event does not have."""


@st.composite
def columns(draw: st.DrawFn, name: str, sql_name: str) -> Column:
    """Draw an input of any kind. Tables have it as `sql_name`."""
    kind = draw(st.sampled_from(["whole", "number", "flag", "category", "date"]))
    missing = draw(st.sampled_from(["refuse", "drop", "constant"] + (["category"] if kind == "category" else [])))
    given: dict[str, Any] = {"name": name, "sql_name": sql_name, "kind": kind, "missing": missing, "averaged": True}
    given["summary"] = draw(st.booleans())
    given["optional"] = missing in ("constant", "category") and draw(st.booleans())
    if kind == "category":
        given["categories"] = tuple(draw(st.lists(WORDS, min_size=1, max_size=5, unique=True)))
        given["unknown"] = draw(st.sampled_from(["refuse", "other"]))
    elif kind == "number":
        given["single_precision"] = draw(st.booleans())
        given |= draw(_bounds(st.floats(-1e9, 1e9)))
    elif kind == "whole":
        given |= draw(_bounds(st.integers(-(2**53), 2**53)))
    elif kind == "date":
        given |= draw(_bounds(st.dates()))
    else:
        given |= {"minimum": 0, "maximum": 1}
    return Column(**given)


def _bounds(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a minimum, a maximum, both or neither."""
    pairs = st.tuples(values, values).filter(lambda pair: pair[0] != pair[1]).map(sorted)
    both = pairs.map(lambda pair: {"minimum": pair[0], "maximum": pair[1]})
    return st.just({}) | values.map(lambda low: {"minimum": low}) | values.map(lambda high: {"maximum": high}) | both


@st.composite
def schemas(draw: st.DrawFn) -> CustomerSchema:
    """Draw a schema of one to six inputs, with a whole number or a text as id."""
    names = draw(st.lists(NAMES, min_size=3, max_size=8, unique=True))
    identity = draw(
        st.sampled_from([Column(name=names[0], kind="whole"), Column(name=names[0], kind="text", max_length=12)])
    )
    inputs = [draw(columns(name, f"input_{number}")) for number, name in enumerate(names[2:])]
    return CustomerSchema(
        name="generated",
        id=names[0],
        target=names[1],
        columns=(identity, Column(name=names[1], kind="flag"), *inputs),
    )


def valid_values(column: Column) -> st.SearchStrategy[Any]:
    """Values that an event may have; dates as date."""
    low: Any = column.minimum
    high: Any = column.maximum
    match column.kind:
        case "flag":
            values: st.SearchStrategy[Any] = st.integers(0, 1)
        case "whole":
            values = st.integers(-MAX_WHOLE if low is None else low, MAX_WHOLE if high is None else high)
        case "number":
            limit = LARGEST_SINGLE if column.single_precision else None
            smallest = low if low is not None else None if limit is None else -limit
            values = st.floats(smallest, high if high is not None else limit, allow_nan=False, allow_infinity=False)
        case "date":
            values = st.dates(low or date.min, high or date.max)
        case "category":
            values = st.sampled_from(column.categories)
            if column.unknown == "other":
                values |= st.text(st.characters(categories=["L", "N", "Z"]), min_size=1, max_size=MAX_TEXT_LENGTH)
        case _:
            values = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=column.max_length)
    if column.scored_if_missing:
        values |= st.none()
    if column.optional:
        values |= st.just(NULL)
    return values


@st.composite
def wrong_values(draw: st.DrawFn, column: Column) -> Any:
    """Draw a value that makes an event a dead letter."""
    found: list[Any] = [True, [], {}]
    if not column.scored_if_missing:
        found.append(None)
    if not column.optional:
        found.append(NULL)
    low: Any = column.minimum
    high: Any = column.maximum
    match column.kind:
        case "flag":
            found += [2, -1, "1", 0.5]
        case "whole":
            found += [(MAX_WHOLE if high is None else high) + 1, (-MAX_WHOLE if low is None else low) - 1, "1", 0.5]
        case "number":
            found += ["1"]
            found += [] if low is None else [low - 1 - abs(low)]
            found += [] if high is None else [high + 1 + abs(high)]
        case "date":
            found += ["yesterday", "2026-02-30", 20_260_101, "2026-11-24T00:00:00Z"]
            found += [date.min] if low not in (None, date.min) else []
            found += [date.max] if high not in (None, date.max) else []
        case "category":
            found += ["", 1]
            found += ["x" * (MAX_TEXT_LENGTH + 1), "a\0"] if column.unknown == "other" else ["no such category"]
        case _:
            found += ["", 1, "x" * 13, "a\0"]
    return draw(st.sampled_from(found))
