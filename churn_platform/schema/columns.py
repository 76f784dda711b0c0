"""One column of a customer: kind, unit, allowed values, missing values, features and meaning. Pure; no I/O.

A customer schema is made of these columns. The file reader, the asset checks, the decoder of events, the tables and the
features all derive from them, so that they accept and reject the same values.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import pairwise
from typing import Final, Literal

Kind = Literal["whole", "number", "flag", "category", "text", "date"]
Missing = Literal["refuse", "drop", "median", "mode", "constant", "category", "ignore"]
"""How a missing value is handled.

refuse: a row of a file is quarantined, and an event becomes a dead letter. drop: the row is not used for training, and
an event becomes a dead letter. median, mode, constant: it is replaced, in training and in scoring. category: it is a
category of its own. ignore: nothing reads the column.
"""
REPLACED: Final[tuple[Missing, ...]] = ("median", "mode", "constant", "category")
"""A missing value of these is scored, so events may have null there."""

Transform = Literal["value", "min_max", "bands", "days_since", "one_hot"]
"""How a column becomes features.

value: the number as it is. min_max: scaled to 0..1 by the range of the training split. bands: the number of the band.
days_since: days from a fixed date to the column's date. one_hot: a column of 0 and 1 for each category.
"""
Direction = Literal["rises", "falls"]
"""Whether the risk may only rise, or only fall, with the column (a monotone constraint of the model)."""

MISSING_TEXTS: Final = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts that stand for a missing number or date. In other columns only the empty value is missing."""
OTHER: Final = "other"
"""Category of a value that is in no category, for columns with `unknown = "other"`."""
MISSING: Final = "missing"
"""Category of a missing value, for columns with `missing = "category"`."""
MAX_TEXT_LENGTH: Final = 200
"""Longest category that is not listed, and longest text of a column without a `max_length`."""
MAX_WHOLE: Final = 2**62
"""Half of a PostgreSQL bigint's range stays free."""
MAX_SQL_NAME_BYTES: Final = 52
"""PostgreSQL cuts names after 63 bytes. The metrics add up to 11, as in `avg_..._count`."""

_DTYPES: Final[dict[Kind, str]] = {
    "whole": "int64",
    "flag": "int64",
    "number": "float64",
    "category": "object",
    "text": "object",
    "date": "datetime64[s]",
}
_SMALLINT, _INTEGER = 2**15, 2**31


@dataclass(frozen=True, slots=True)
class Band:
    """A range of a number: `upper_bound` is its largest value; None in the last band."""

    name: str
    upper_bound: float | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a customer.

    Attributes:
        name: name in the file's header and in events.
        kind: "whole" for whole numbers, "number" for any number, "flag" for 0 and 1, "category" for one of a few texts,
            "text" for any text, "date" for a day.
        label: its name for people, such as "Number of products"; empty for one that follows from the name.
        description: its meaning, in one sentence.
        unit: unit of a number, or None.
        minimum: smallest allowed number or earliest allowed date, or None for no bound.
        maximum: largest allowed number or latest allowed date, or None for no bound.
        categories: the allowed texts of a category, in the order of their features.
        max_length: characters of a text.
        headers: other names that a file's header may give the column.
        spellings: text in a file -> value, such as "Yes" -> "1". Events do not use them.
        optional: whether the column may be absent from files and events; it is missing then.
        missing: how a missing value is handled.
        constant: the value that replaces a missing one with missing="constant".
        unknown: what happens to a category that is not listed.
        transforms: how the column becomes features; empty if it becomes none.
        bands: the bands of the transform "bands", ascending.
        bands_feature: name of their feature.
        since: the date that "days_since" counts from.
        risk: the direction in which the risk may move as the column grows; None allows both.
        segment: whether reports are divided by this column.
        segment_bounds: lower bounds of a number's segments; empty for one segment per value.
        averaged: whether the hourly and daily metrics have its average.
        money_at_risk: whether it is the money that is lost with the customer.
        summary: whether published messages, high_risk_customers and previews show it.
        sql_name: name in tables.
        single_precision: whether a number is stored with 7 significant digits instead of 15.
        unique: whether all rows of a file must have different values.
        counted: whether the reader numbers the rows instead of reading the column.
    """

    name: str
    kind: Kind
    label: str = ""
    description: str = ""
    unit: str | None = None
    minimum: float | date | None = None
    maximum: float | date | None = None
    categories: tuple[str, ...] = ()
    max_length: int | None = None
    headers: tuple[str, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    optional: bool = False
    missing: Missing = "refuse"
    constant: str | float | None = None
    unknown: Literal["refuse", "other"] = "refuse"
    transforms: tuple[Transform, ...] = ()
    bands: tuple[Band, ...] = ()
    bands_feature: str = ""
    since: date | None = None
    risk: Direction | None = None
    segment: bool = False
    segment_bounds: tuple[float, ...] = ()
    averaged: bool = False
    money_at_risk: bool = False
    summary: bool = False
    sql_name: str = ""
    single_precision: bool = False
    unique: bool = False
    counted: bool = False

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers, 0 and 1 included."""
        return self.kind in ("whole", "number", "flag")

    @property
    def dtype(self) -> str:
        """pandas dtype: int64, float64 (NaN if missing), datetime64[s] (NaT) or object (None if missing)."""
        return "float64" if self.kind in ("whole", "flag") and self.nullable else _DTYPES[self.kind]

    @property
    def nullable(self) -> bool:
        """Whether the value may be missing from a row of a file."""
        return self.missing != "refuse"

    @property
    def scored_if_missing(self) -> bool:
        """Whether a customer without the value is scored, so that an event may have null there."""
        return self.missing in REPLACED

    @cached_property
    def column(self) -> str:
        """The name in tables and published messages: `sql_name`, else the name in snake case."""
        return self.sql_name or snake_case(self.name)

    @property
    def title(self) -> str:
        """The name for people: the label, else the words of the name, as in "First order" for FirstOrder."""
        return self.label or as_words(snake_case(self.name))

    @property
    def days_feature(self) -> str:
        """Name of the feature of the transform "days_since"."""
        return f"{self.name}Days"

    @property
    def sql_type(self) -> str:
        """PostgreSQL type of the column in churn_predictions."""
        if self.kind == "whole" or self.kind == "flag":
            bound = max(abs(_number(self.minimum, _INTEGER)), abs(_number(self.maximum, _INTEGER)))
            return "smallint" if bound < _SMALLINT else "integer" if bound < _INTEGER else "bigint"
        if self.kind == "number":
            return "real" if self.single_precision else "double precision"
        return "date" if self.kind == "date" else "text"

    @cached_property
    def all_categories(self) -> tuple[str, ...]:
        """The categories that have a feature: the listed ones, then `other` and `missing` where the schema has them."""
        other = (OTHER,) if self.unknown == "other" and OTHER not in self.categories else ()
        missing = (MISSING,) if self.missing == "category" and MISSING not in self.categories else ()
        return (*self.categories, *other, *missing)

    @cached_property
    def segment_labels(self) -> tuple[str, ...]:
        """The names of a number's segments: below the first bound, from each bound to the next, and from the last on.

        Bounds that are whole numbers give "18 to 29", others "0.5 to below 1.5".
        """
        bounds = self.segment_bounds
        if not bounds:
            return ()
        whole = all(float(bound).is_integer() for bound in bounds)
        between = [
            f"{_digits(low)} to {_digits(high - 1) if whole else f'below {_digits(high)}'}"
            for low, high in pairwise(bounds)
        ]
        end = "and more" if self.maximum is None else f"to {_digits(self.maximum)}"
        return (f"below {_digits(bounds[0])}", *between, f"{_digits(bounds[-1])} {end}")

    def is_missing(self, text: str) -> bool:
        """Return whether a text of the file, stripped of spaces, stands for a missing value."""
        return text in (MISSING_TEXTS if self.is_number or self.kind == "date" else MISSING_TEXTS[:1])

    @property
    def allowed(self) -> str:
        """The values allowed in a file, as text, such as "300 to 900 points" or "Female or Male, or empty"."""
        return f"{self._values()}, or empty" if self.nullable else self._values()

    @property
    def allowed_when_scored(self) -> str:
        """The values allowed in scoring, as text."""
        return f"{self._values()}, or null" if self.scored_if_missing else self._values()

    @property
    def meaning(self) -> str:
        """The description, and the values allowed in scoring."""
        return f"{self.description} Values: {self.allowed_when_scored}.".lstrip()

    def _values(self) -> str:
        if self.kind == "category":
            if self.unknown == "other":
                return f"{', '.join(self.categories)} or another text of at most {MAX_TEXT_LENGTH} characters"
            return " or ".join(filter(None, (", ".join(self.categories[:-1]), self.categories[-1])))
        if self.kind == "text":
            return "any text" if self.max_length is None else f"a text of at most {self.max_length} characters"
        return self._allowed_dates() if self.kind == "date" else self._allowed_numbers()

    def _allowed_dates(self) -> str:
        bounds = (f" from {self.minimum}" if self.minimum else "") + (f" to {self.maximum}" if self.maximum else "")
        return f"a date (YYYY-MM-DD){bounds}"

    def _allowed_numbers(self) -> str:
        if self.kind == "flag" or (self.minimum, self.maximum) == (0, 1):
            return "0 or 1"
        number = "a whole number" if self.kind == "whole" else "a number"
        unit = f" {self.unit}" if self.unit else ""
        lower = "" if self.minimum is None else f" from {_digits(self.minimum)}"
        upper = "" if self.maximum is None else f" to {_digits(self.maximum)}"
        return f"{number}{lower}{upper}{unit}"


def snake_case(name: str) -> str:
    """Return a name in lower case with underscores: CreditScore -> credit_score, "Monthly charges" -> monthly_charges.

    Letters of other alphabets stay, in their composed form (NFC).
    """
    words = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", unicodedata.normalize("NFC", name))
    return re.sub(r"\W+|_+", "_", words).strip("_").lower()


def as_words(name: str) -> str:
    """Return a name in snake case for people: num_of_products -> Num of products."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def _number(bound: float | date | None, default: int) -> float:
    return default if bound is None or isinstance(bound, date) else bound


def _digits(number: float | date) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.10g}" if isinstance(number, float) else str(number)
