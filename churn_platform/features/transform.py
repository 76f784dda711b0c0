"""From raw columns to the matrix of features: the one transform for training and scoring. Pure; needs no pandas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.binning import add_credit_score_band
from churn_platform.features.columns import BAND_COLUMN, FEATURES, INPUT_COLUMNS, NUMERIC_COLUMNS, Columns, column
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.exceptions import FeatureError, MetadataError
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler


@dataclass(frozen=True)
class FeatureTransform:
    """The fitted steps. The assets apply them one by one and `transform` all at once, with the same result.

    Raises:
        MetadataError: the encoder's categories do not make the 14 features.
    """

    imputer: Imputer
    encoder: OneHotEncoder
    scaler: MinMaxScaler

    def __post_init__(self) -> None:
        binary_columns = [name for names in self.encoder.binary_columns.values() for name in names]
        made = (*NUMERIC_COLUMNS, BAND_COLUMN, *binary_columns)
        if made != FEATURES:
            raise MetadataError(
                f"The encoder's categories make the features {', '.join(made)}; expected {', '.join(FEATURES)}.",
                remedy="Train on rows that contain every known Geography and Gender, and no other.",
            )

    def transform(self, columns: Columns) -> NDArray[np.float32]:
        """Return the features of raw rows.

        Args:
            columns: raw column name -> shape (n,). Numbers of any numeric dtype, NaN where null; Geography and Gender
                object or str. Other columns are ignored.

        Returns:
            shape (n, 14), in the order of FEATURES.

        Raises:
            MissingColumnError: a raw column is missing.
            UnknownCategoryError: a Geography or Gender is unknown to the encoder, or a Gender is null.
            FeatureError: the columns have different lengths.
        """
        inputs = {name: column(columns, name) for name in INPUT_COLUMNS}
        lengths = {name: len(values) for name, values in inputs.items()}
        if len(set(lengths.values())) > 1:
            raise FeatureError(
                f"The columns have different lengths: {lengths}.", remedy="Pass arrays of the same rows."
            )
        encoded = self.encoder.encode(self.imputer.impute(inputs))
        return assemble(self.scaler.scale(add_credit_score_band(encoded)))


def assemble(columns: Columns) -> NDArray[np.float32]:
    """Return the finished feature columns as one matrix, shape (n, 14), in the order of FEATURES.

    Raises:
        MissingColumnError: a feature is missing.
    """
    matrix = np.empty((len(column(columns, FEATURES[0])), len(FEATURES)), dtype=np.float32)
    for position, name in enumerate(FEATURES):
        matrix[:, position] = column(columns, name)
    return matrix
