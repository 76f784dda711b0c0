"""From raw columns to the matrix of features: the one transform for training and scoring. Pure; needs no pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.binning import add_bands
from churn_platform.features.columns import Columns, column, columns_of
from churn_platform.features.dates import add_days
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.exceptions import FeatureError, MetadataError
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.schema.customer_schema import CustomerSchema

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class FeatureTransform:
    """The fitted steps. The assets apply them one by one and `transform` all at once, with the same result.

    Attributes:
        schema: the columns and the features that they become.
        imputer: fitted on the training split, as the encoder and the scaler.

    Raises:
        MetadataError: a step was fitted on other columns or categories than those of the schema.
    """

    schema: CustomerSchema
    imputer: Imputer
    encoder: OneHotEncoder
    scaler: MinMaxScaler

    def __post_init__(self) -> None:
        wanted = OneHotEncoder.of(self.schema)
        imputed = {*self.imputer.medians, *self.imputer.modes, *self.imputer.constants}
        if self.encoder != wanted:
            raise _other_schema("encoder", _categories(self.encoder), _categories(wanted))
        if tuple(self.scaler.ranges) != self.schema.scaled:
            raise _other_schema("scaler", ", ".join(self.scaler.ranges), ", ".join(self.schema.scaled))
        if not imputed <= set(self.schema.feature_columns):
            raise _other_schema("imputer", ", ".join(sorted(imputed)), ", ".join(self.schema.feature_columns))

    def transform(self, columns: Columns) -> NDArray[np.float32]:
        """Return the features of raw rows.

        Args:
            columns: raw column name -> shape (n,), those of `schema.feature_columns`. Numbers of any numeric dtype, NaN
                where missing; dates datetime64, NaT where missing; categories object or str, None where missing. Other
                columns are ignored.

        Returns:
            shape (n, features), in the order of `schema.features`.

        Raises:
            MissingColumnError: a raw column is missing.
            UnknownCategoryError: a category is unknown to the encoder, or is missing and not imputed.
            FeatureError: the columns have different lengths.
        """
        inputs = {name: column(columns, name) for name in self.schema.feature_columns}
        lengths = {name: len(values) for name, values in inputs.items()}
        if len(set(lengths.values())) > 1:
            raise FeatureError(
                f"The columns have different lengths: {lengths}.", remedy="Pass arrays of the same rows."
            )
        encoded = self.encoder.encode(self.imputer.impute(inputs))
        derived = add_days(add_bands(encoded, self.schema), self.schema)
        return assemble(self.scaler.scale(derived), self.schema.feature_names)


def assemble(columns: Columns, names: Sequence[str]) -> NDArray[np.float32]:
    """Return finished feature columns as one matrix, shape (n, features), in the order of the names.

    Raises:
        MissingColumnError: a feature is missing.
    """
    matrix = np.empty((len(column(columns, names[0])), len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        matrix[:, position] = column(columns, name)
    return matrix


def take_features(frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float32]:
    """Return finished feature columns of a frame as one matrix, and remove each from the frame as soon as it is copied.

    So the frame and the matrix together take hardly more memory than the frame.

    Args:
        frame: the prepared features, which lose these columns.
        names: the features, in the order of the matrix.

    Returns:
        shape (n, features).

    Raises:
        MissingColumnError: a feature is missing. The frame is unchanged.
    """
    columns_of(frame, names)  # raises if one is missing
    matrix = np.empty((len(frame), len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        matrix[:, position] = frame.pop(name)
    return matrix


def _categories(encoder: OneHotEncoder) -> str:
    return "; ".join(f"{name}: {', '.join(categories)}" for name, categories in encoder.categories.items()) or "none"


def _other_schema(step: str, found: str, expected: str) -> MetadataError:
    return MetadataError(
        f"The {step} was fitted with another customer schema: it has {found}; the schema has {expected}.",
        remedy=f"Materialize feature_{step} again: run data_preparation_job, then training_job.",
    )
