"""Categories as columns of 0 and 1, one per category. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import CATEGORICAL_COLUMNS, Columns, column, columns_of, is_null
from churn_platform.features.exceptions import MetadataError, UnknownCategoryError

if TYPE_CHECKING:
    import pandas as pd

ENCODING_TYPE = "one_hot"


@dataclass(frozen=True)
class OneHotEncoder:
    """The categories of each column, alphabetical.

    Attributes:
        categories: column -> its categories, in the order of the binary columns.
    """

    categories: Mapping[str, tuple[str, ...]]

    @property
    def binary_columns(self) -> dict[str, tuple[str, ...]]:
        """Column -> the columns that replace it, such as Geography -> Geography_France, Geography_Germany, ..."""
        return {
            name: tuple(f"{name}_{category}" for category in categories) for name, categories in self.categories.items()
        }

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> OneHotEncoder:
        """The categories found in the rows given, which are to be the training split's, nulls aside.

        Raises:
            MissingColumnError: a column is not there.
        """
        columns = columns_of(frame, CATEGORICAL_COLUMNS)
        known = {name: values[~is_null(values)] for name, values in columns.items()}
        return cls({name: tuple(sorted({str(value) for value in values})) for name, values in known.items()})

    def encode(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The columns with each categorical one replaced by its binary columns (int8, 0 or 1).

        Raises:
            MissingColumnError: a fitted column is not there.
            UnknownCategoryError: a value is none of the fitted categories.
        """
        encoded = {name: values for name, values in columns.items() if name not in self.categories}
        for name, binary_columns in self.binary_columns.items():
            codes = self._codes(name, column(columns, name))
            for code, binary_column in enumerate(binary_columns):
                encoded[binary_column] = (codes == code).astype(np.int8)
        return encoded

    def _codes(self, name: str, values: NDArray[Any]) -> NDArray[np.int8]:
        code_of = {category: code for code, category in enumerate(self.categories[name])}
        try:
            return np.fromiter(map(code_of.__getitem__, values.tolist()), dtype=np.int8, count=len(values))
        except KeyError:
            row = next(row for row, value in enumerate(values.tolist()) if value not in code_of)
            raise UnknownCategoryError(
                f"{name} of row {row} is {values[row]!r}, expected one of {', '.join(self.categories[name])}. "
                f"Correct the row, or train a model on rows that have this category."
            ) from None

    def to_json(self) -> str:
        """JSON with `encoding_type` ("one_hot"), `categories` and `binary_columns`, the latter two by column."""
        document = {
            "encoding_type": ENCODING_TYPE,
            "categories": dict(self.categories),
            "binary_columns": self.binary_columns,
        }
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> OneHotEncoder:
        """The encoder that `to_json` wrote.

        Raises:
            MetadataError: the JSON is not such an encoder's.
        """
        try:
            document = json.loads(text)
            encoder = cls({str(name): tuple(values) for name, values in document["categories"].items()})
            binary_columns = {name: tuple(values) for name, values in document["binary_columns"].items()}
            readable = document["encoding_type"] == ENCODING_TYPE and binary_columns == encoder.binary_columns
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MetadataError(_not_an_encoder(text, repr(error))) from error
        if not readable:
            raise MetadataError(_not_an_encoder(text, "its encoding_type or binary_columns differ"))
        return encoder


def _not_an_encoder(text: str, reason: str) -> str:
    return (
        f"This is not a one-hot encoder's JSON ({reason}): expected 'encoding_type' {ENCODING_TYPE!r}, 'categories' "
        f"and 'binary_columns' named column_category, got {text[:200]!r}. Materialize feature_encoder again."
    )
