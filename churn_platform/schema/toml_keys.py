"""The keys of a schema file: their types, ranges, defaults and meanings. Pure; no I/O.

pydantic checks each value by itself. What must hold between several keys is in `rules.py`. The reference page
docs/reference/customer-schema.md is compared with these tables by a test.
"""

import math
from datetime import date
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from churn_platform.schema.columns import MAX_SQL_NAME_BYTES, MAX_TEXT_LENGTH, Direction, Kind, Missing, Transform

MAX_COLUMNS: Final = 500
MAX_CATEGORIES: Final = 100
MAX_NAME_LENGTH: Final = 200
MAX_LABEL_LENGTH: Final = 60
"""Longer ones do not fit into the head of a table or the axis of a chart."""
MAX_BANDS: Final = 100
MAX_NUMBER: Final = 1e30
"""Sums of billions of such numbers are finite, and a column of single precision can hold them."""


def _number(value: object) -> float:
    # bool is a subclass of int, and TOML has infinity and NaN.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        raise PydanticCustomError("number", "Expected a number from -1e30 to 1e30.")
    return int(value) if math.isfinite(value) and value == int(value) else value


def _day(value: object) -> date:
    if type(value) is not date:  # a datetime is a date, too
        raise PydanticCustomError("day", "Expected a date without quotes, such as 2026-11-24.")
    return value


def _bound(value: object) -> float | date:
    try:
        return _day(value) if isinstance(value, date) else _number(value)
    except PydanticCustomError:
        raise PydanticCustomError("bound", "Expected a number, or a date such as 2026-11-24, without quotes.") from None


def _number_or_text(value: object) -> float | str:
    if isinstance(value, str):
        return _printable(value)
    try:
        return _number(value)
    except PydanticCustomError:
        raise PydanticCustomError("value", "Expected a number, or a text in quotes.") from None


def _printable(text: str) -> str:
    if not text.isprintable():  # PostgreSQL refuses U+0000, and line breaks would cut tables of the documentation
        raise PydanticCustomError("printable", "Expected one line without control characters.")
    return text


Number = Annotated[float, PlainValidator(_number)]
Day = Annotated[date, PlainValidator(_day)]
Bound = Annotated[float | date, PlainValidator(_bound)]
NumberOrText = Annotated[float | str, PlainValidator(_number_or_text)]
Line = Annotated[str, Field(max_length=1_000), AfterValidator(_printable)]
Label = Annotated[str, Field(max_length=MAX_LABEL_LENGTH), AfterValidator(_printable)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), AfterValidator(_printable)]
Header = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
"""A name in a file that somebody else writes, so it may hold control characters."""
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH), AfterValidator(_printable)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSetTable(_Table):
    """`[data_set]`."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="Name of the data set: lower case letters, digits and underscores. A database holds one data set.",
    )
    description: Line = Field("", description="What the customers are, in one sentence.")
    id: Name = Field(description="Name of the column that identifies a customer: a whole number or a text.")
    target: Name = Field(description="Name of the column that says who left: a flag, a whole number or a category.")
    left: NumberOrText = Field(
        description="The value of the target that means that the customer left. All other values mean that the "
        "customer stayed."
    )
    currency: str = Field(
        "",
        pattern=r"^([A-Z]{3})?$",
        description="ISO 4217 code of amounts of money, such as EUR; empty if there are none.",
    )
    customers_file: Line = Field(
        "",
        description="The customers to train on: a file, a folder or s3://bucket/key. CHURN_RAW_CSV overrides it. "
        "A relative path starts at the folder of the schema file.",
    )
    delimiter: str = Field(
        "", max_length=1, description="The character between the values of a CSV file; empty to detect it."
    )
    decimal: Literal["", ".", ","] = Field("", description="Decimal separator of numbers in files; empty to detect it.")
    encoding: Line = Field("", description="Encoding of CSV files, such as cp1252; empty to detect it.")
    largest_quarantined_share: float = Field(
        0.01, ge=0, le=1, description="Share of a file's rows that may break a rule. Above it, preparation stops."
    )
    least_roc_auc: float = Field(
        0.5, ge=0.5, lt=1, description="Out-of-fold ROC AUC that a first model must reach to be promoted."
    )


class BandsTable(_Table):
    """`[columns.NAME.bands]`."""

    feature: Name = Field(description="Name of the feature. Its value is the number of the band, from 0.")
    upper_bounds: list[Number] = Field(
        min_length=1,
        max_length=MAX_BANDS,
        description="The largest value of each band but the last, ascending.",
    )
    names: list[Text] = Field(description="Names of the bands: one more than upper bounds.")


class ColumnTable(_Table):
    """`[columns.NAME]`."""

    kind: Kind = Field(
        description="Kind of the values: whole numbers, any numbers, 0 or 1 (flag), one of a few texts (category), any "
        "text, or dates."
    )
    label: Label = Field(
        "",
        description="Name of the column for people: on pages, in Excel files and in reasons. Default: the words of the "
        "name, such as First order for FirstOrder.",
    )
    description: Line = Field("", description="What the column means, in one sentence.")
    unit: Line | None = Field(None, description="Unit of a number, such as years.")
    minimum: Bound | None = Field(None, description="Smallest number or earliest date that is allowed.")
    maximum: Bound | None = Field(None, description="Largest number or latest date that is allowed.")
    categories: list[Text] = Field(
        [], max_length=MAX_CATEGORIES, description="The texts of a category, in the order of their features."
    )
    max_length: int | None = Field(None, ge=1, le=10_000, description="Largest number of characters of a text.")
    headers: list[Header] = Field([], description="Other names that a file's header may give the column.")
    spellings: dict[str, NumberOrText] = Field(
        {},
        description="Text in a file -> flag or category that it means, such as { Yes = 1, No = 0 }. Events do not use "
        "spellings.",
    )
    optional: bool = Field(
        False, description="Whether the column may be absent from files and events. Its values are missing then."
    )
    missing: Missing = Field("refuse", description="What happens if the value is missing: see below.")
    constant: NumberOrText | None = Field(None, description='What replaces a missing value with missing = "constant".')
    unknown: Literal["refuse", "other"] = Field(
        "refuse", description="What happens with a category that is not listed: it is refused, or counts as other."
    )
    features: list[Transform] = Field([], description="How the column becomes features: see below.")
    bands: BandsTable | None = Field(None, description="The bands of the feature bands.")
    days_since: Day | None = Field(None, description="The date from which the feature days_since counts.")
    risk: Direction | None = Field(
        None, description="Whether the risk may only rise, or only fall, as the number or date grows."
    )
    segment: bool = Field(False, description="Whether reports are divided by the column.")
    segment_bounds: list[Number] = Field(
        [], max_length=MAX_BANDS, description="Lower bounds of a number's segments, ascending."
    )
    averaged: bool = Field(False, description="Whether the hourly and daily metrics have the average of the column.")
    money_at_risk: bool = Field(False, description="Whether the column is the money that is lost with a customer.")
    summary: bool = Field(
        False, description="Whether published messages, high_risk_customers and previews show the column."
    )
    sql_name: str = Field(
        "",
        max_length=MAX_SQL_NAME_BYTES,
        description="Name of the column in tables and published messages. Default: the name in snake case.",
    )
    single_precision: bool = Field(
        False, description="Whether tables store a number with 7 significant digits (real), to save space."
    )
    counted: bool = Field(False, description="Whether the reader numbers the rows instead of reading the column.")


class SchemaTable(_Table):
    """A whole schema file."""

    data_set: DataSetTable = Field(description="What the schema states of the data set, in a table [data_set].")
    columns: dict[Name, ColumnTable] = Field(
        min_length=3, max_length=MAX_COLUMNS, description="The columns, each in a table [columns.NAME]."
    )
