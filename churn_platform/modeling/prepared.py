"""The tables between the split customers and the features, and the steps from one to the next. Pure.

Each step reads rows on their own, so that a table may be made in parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from churn_platform.features.binning import add_bands
from churn_platform.features.columns import Columns, columns_of
from churn_platform.features.dates import add_days
from churn_platform.modeling.splitting import SPLIT
from churn_platform.schema.columns import Transform
from churn_platform.schema.customer_schema import CustomerSchema

if TYPE_CHECKING:
    import pandas as pd

    from churn_platform.features.encoding import OneHotEncoder
    from churn_platform.features.imputing import Imputer
    from churn_platform.features.scaling import MinMaxScaler


@dataclass(frozen=True)
class Tables:
    """The columns of the preparation's tables, in order."""

    schema: CustomerSchema

    @property
    def outcome(self) -> tuple[str, str]:
        """The target and the split, the last columns of each table."""
        return (self.schema.target, SPLIT)

    @property
    def split(self) -> tuple[str, ...]:
        """Columns of train_test_split."""
        return (*self.schema.names, SPLIT)

    @property
    def imputed(self) -> tuple[str, ...]:
        """Columns of imputed_features: the raw columns that features are made of."""
        return (*self.schema.feature_columns, *self.outcome)

    @cached_property
    def unbinned(self) -> tuple[str, ...]:
        """Columns of encoded_features without the outcome: raw numbers and dates, then binary columns."""
        encoded = self.schema.encoded
        raw = (name for name in self.schema.feature_columns if name not in encoded)
        return (*raw, *self.made_by("one_hot"))

    @property
    def encoded(self) -> tuple[str, ...]:
        """Columns of encoded_features."""
        return (*self.unbinned, *self.outcome)

    @property
    def features(self) -> tuple[str, ...]:
        """Columns of binned_features and scaled_features."""
        return (*self.schema.feature_names, *self.outcome)

    def made_by(self, transform: Transform) -> tuple[str, ...]:
        """Return the names of the features that a transform makes."""
        return tuple(feature.name for feature in self.schema.features if feature.transform == transform)

    @property
    def may_be_missing(self) -> tuple[str, ...]:
        """The raw columns that may have no value."""
        return tuple(column.name for column in self.schema.stored if column.nullable)

    @property
    def replaced(self) -> tuple[str, ...]:
        """The columns of imputed_features whose missing values the imputer replaces."""
        columns = (self.schema.column(name) for name in self.schema.feature_columns)
        return tuple(column.name for column in columns if column.scored_if_missing and column.missing != "category")


def imputed_frame(split: pd.DataFrame, imputer: Imputer, tables: Tables) -> pd.DataFrame:
    """Return the raw columns of the features of split customers, with missing values replaced."""
    raw = columns_of(split, tables.schema.feature_columns)
    return _frame(imputer.impute(raw), split, tables, given=raw)


def encoded_frame(imputed: pd.DataFrame, encoder: OneHotEncoder, tables: Tables) -> pd.DataFrame:
    """Return imputed columns with categories as columns of 0 and 1."""
    columns = columns_of(imputed, tables.schema.feature_columns)
    return _frame(encoder.encode(columns), imputed, tables, given=columns)


def binned_frame(encoded: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return encoded columns with bands of numbers and days of dates: the features, of which none is scaled."""
    schema = tables.schema
    given = columns_of(encoded, tables.unbinned)
    columns = add_days(add_bands(given, schema), schema)
    return _frame({name: columns[name] for name in schema.feature_names}, encoded, tables, given=given)


def scaled_frame(binned: pd.DataFrame, scaler: MinMaxScaler, tables: Tables) -> pd.DataFrame:
    """Return the features, scaled."""
    columns = columns_of(binned, tables.schema.feature_names)
    return _frame(scaler.scale(columns), binned, tables, given=columns)


def _frame(columns: Columns, rows: pd.DataFrame, tables: Tables, *, given: Columns) -> pd.DataFrame:
    """Return the columns as a frame, with outcome, split and `attrs` of `rows`. Unchanged arrays are shared.

    Args:
        columns: what a step has made of the given columns.
        rows: the rows that the step has read.
        tables: names outcome and split.
        given: columns of `rows` that the step has read. Those that it has not changed are as in `rows`, such as texts
            that are categories there.
    """
    import pandas as pd

    unchanged = {*tables.outcome, *(name for name, values in columns.items() if values is given.get(name))}
    names = dict.fromkeys((*columns, *tables.outcome))
    frame = pd.DataFrame({name: rows[name].array if name in unchanged else columns[name] for name in names}, copy=False)
    frame.attrs = dict(rows.attrs)
    return frame
