"""The customer schema: the columns of a data set, and what follows from them for features, tables and reports. Pure.

A schema is plain data. `toml_file.py` reads it from TOML and validates it. A model bundle, a batch and an archive file
know the fingerprint of the schema that they were made with, and a bundle contains the schema itself, as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields
from datetime import date
from functools import cached_property
from typing import Any, Final, Literal

from churn_platform.schema.columns import Band, Column, Transform

_NUMERIC: Final[tuple[Transform, ...]] = ("value", "min_max")


@dataclass(frozen=True)
class Feature:
    """One feature: a column of the matrix that the model reads.

    Attributes:
        name: its name in the model.
        column: name of the customer's column that it is made of.
        transform: how it is made.
        category: the category that it is 1 for, if transform is "one_hot".
    """

    name: str
    column: str
    transform: Transform
    category: str = ""


@dataclass(frozen=True, kw_only=True)
class CustomerSchema:
    """The customers of one data set.

    Attributes:
        name: of the data set. A database holds one data set.
        description: what the customers are, in one sentence.
        id: name of the column that identifies a customer.
        target: name of the column that says whether a customer left.
        left: the text or number of that column which means that the customer left.
        currency: ISO 4217 code of the amounts of money; empty if there are none.
        delimiter: the character between the values of a CSV file; empty to detect it.
        decimal: the decimal separator of numbers in files, "." or ","; empty to detect it.
        encoding: the encoding of CSV files, as Python names it; empty to detect it.
        columns: in the order of the tables.
        largest_quarantined_share: share of a file's rows that may break a rule, 0..1.
        least_roc_auc: out-of-fold ROC AUC that a first model needs to be promoted, 0.5..1.
    """

    name: str
    description: str = ""
    id: str
    target: str
    left: str | float = 1
    currency: str = ""
    delimiter: str = ""
    decimal: Literal["", ".", ","] = ""
    encoding: str = ""
    columns: tuple[Column, ...]
    largest_quarantined_share: float = 0.01
    least_roc_auc: float = 0.5

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        """Name -> column."""
        return {column.name: column for column in self.columns}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all columns, in order."""
        return tuple(self.by_name)

    @cached_property
    def id_column(self) -> Column:
        """The column that identifies a customer: a whole number or a text."""
        return self.by_name[self.id]

    @cached_property
    def id_type(self) -> str:
        """PostgreSQL type of customer_id: bigint or text."""
        return "bigint" if self.id_column.kind == "whole" else "text"

    @cached_property
    def target_column(self) -> Column:
        """The column that the model predicts."""
        return self.by_name[self.target]

    def column(self, name: str) -> Column:
        """Return the column with this name, which must be one of the schema's."""
        return self.by_name[name]

    @cached_property
    def numeric_inputs(self) -> tuple[str, ...]:
        """The numbers and flags that events carry, in order."""
        return self._names(column for column in self._inputs if column.is_number)

    @cached_property
    def date_inputs(self) -> tuple[str, ...]:
        """The dates that events carry, in order."""
        return self._names(column for column in self._inputs if column.kind == "date")

    @cached_property
    def categorical_inputs(self) -> tuple[str, ...]:
        """The categories that events carry, in order."""
        return self._names(column for column in self._inputs if column.kind == "category")

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The columns that events carry besides the id: numbers, then dates, then categories. All are stored."""
        return (*self.numeric_inputs, *self.date_inputs, *self.categorical_inputs)

    @cached_property
    def event_fields(self) -> tuple[str, ...]:
        """The customer's fields of an event: the id, then `inputs`."""
        return (self.id, *self.inputs)

    @cached_property
    def stored(self) -> tuple[Column, ...]:
        """The columns that churn_predictions has, in the order of the schema."""
        return tuple(self._inputs)

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The features in the order in which the model reads them: numbers, bands, days, then categories."""
        columns = [self.by_name[name] for name in self.inputs]
        numbers = [
            Feature(column.name, column.name, transform)
            for column in columns
            for transform in column.transforms
            if transform in _NUMERIC
        ]
        bands = [
            Feature(column.bands_feature, column.name, "bands") for column in columns if "bands" in column.transforms
        ]
        days = [
            Feature(column.days_feature, column.name, "days_since")
            for column in columns
            if "days_since" in column.transforms
        ]
        categories = [
            Feature(f"{column.name}_{category}", column.name, "one_hot", category)
            for column in columns
            if "one_hot" in column.transforms
            for category in column.all_categories
        ]
        return (*numbers, *bands, *days, *categories)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of `features`."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def feature_columns(self) -> tuple[str, ...]:
        """The inputs that have a feature, in the order of `inputs`."""
        return tuple(name for name in self.inputs if self.by_name[name].transforms)

    @cached_property
    def encoded(self) -> tuple[str, ...]:
        """The one-hot encoded columns, in the order of `inputs`."""
        return self._with("one_hot")

    @cached_property
    def scaled(self) -> tuple[str, ...]:
        """The min-max scaled columns, those with the widest allowed range first."""
        columns = (self.by_name[name] for name in self._with("min_max"))
        return self._names(sorted(columns, key=_range, reverse=True))  # sorted() keeps the order of equal ranges

    @cached_property
    def banded(self) -> tuple[Column, ...]:
        """The columns that have bands, in the order of `inputs`."""
        return tuple(self.by_name[name] for name in self._with("bands"))

    @cached_property
    def dated(self) -> tuple[Column, ...]:
        """The dates that become days, in the order of `inputs`."""
        return tuple(self.by_name[name] for name in self._with("days_since"))

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """The columns without which a row is not used for training, in the order of the schema."""
        return self._names(column for column in self.columns if column.missing == "drop")

    @cached_property
    def summary(self) -> tuple[Column, ...]:
        """The columns that published messages, high_risk_customers and previews show."""
        return tuple(column for column in self._inputs if column.summary)

    @cached_property
    def averaged(self) -> tuple[Column, ...]:
        """The columns that the hourly and daily metrics average, in alphabetical order of their names in tables."""
        return tuple(sorted((column for column in self._inputs if column.averaged), key=lambda each: each.column))

    @cached_property
    def segments(self) -> tuple[Column, ...]:
        """The columns that reports are divided by."""
        return tuple(column for column in self._inputs if column.segment)

    @cached_property
    def money_at_risk(self) -> Column | None:
        """The column with the money that is lost with the customer, if there is one."""
        return next((column for column in self._inputs if column.money_at_risk), None)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the schema as JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the schema as JSON: equal schemas give equal texts. Attributes with default values are left out."""
        return json.dumps(_document(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> CustomerSchema:
        """Return the schema that `to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: it is not the JSON of a schema.
        """
        document = json.loads(text)
        columns = tuple(_column(each) for each in document.pop("columns"))
        return cls(**document, columns=columns)

    @cached_property
    def _inputs(self) -> tuple[Column, ...]:
        return tuple(
            column
            for column in self.columns
            if column.name not in (self.id, self.target)
            and (column.transforms or column.segment or column.averaged or column.money_at_risk or column.summary)
        )

    def _with(self, transform: Transform) -> tuple[str, ...]:
        return tuple(name for name in self.inputs if transform in self.by_name[name].transforms)

    @staticmethod
    def _names(columns: Iterable[Column]) -> tuple[str, ...]:
        return tuple(column.name for column in columns)


def _range(column: Column) -> float:
    """Return the width of the allowed range, infinite without bounds."""
    if isinstance(column.minimum, int | float) and isinstance(column.maximum, int | float):
        return column.maximum - column.minimum
    return float("inf")


def _document(value: object) -> Any:
    """Return what JSON can represent of a schema, a column or a band, without attributes that have default values."""
    if isinstance(value, CustomerSchema | Column):
        return {
            field.name: _document(content)
            for field in fields(value)
            if (content := getattr(value, field.name)) != field.default or field.default is NO_DEFAULT
        }
    if isinstance(value, Band):
        return [value.name, value.upper_bound]
    if isinstance(value, tuple):
        return [_document(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1.0 == 1, and equal schemas have equal JSON
    return value.isoformat() if isinstance(value, date) else value


def _column(document: dict[str, Any]) -> Column:
    """Return a column of its JSON."""
    given = {name: _tuples(content) for name, content in document.items()}
    if "bands" in given:
        given["bands"] = tuple(Band(*each) for each in given["bands"])
    for name in ("minimum", "maximum", "since"):
        if isinstance(given.get(name), str):
            given[name] = date.fromisoformat(given[name])
    return Column(**given)


def _tuples(content: Any) -> Any:
    return tuple(_tuples(each) for each in content) if isinstance(content, list) else content
