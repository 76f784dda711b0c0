"""One-hot encoding: categories as columns of 0 and 1, one per category. Pure; no I/O."""

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
    """The categories of each column, in alphabetical order.

    Attributes:
        categories: column -> its categories, in the order of the binary columns.
    """

    categories: Mapping[str, tuple[str, ...]]

    @property
    def binary_columns(self) -> dict[str, tuple[str, ...]]:
        """Column -> the binary columns that replace it, such as Gender -> Gender_Female, Gender_Male."""
        return {
            name: tuple(f"{name}_{category}" for category in categories) for name, categories in self.categories.items()
        }

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> OneHotEncoder:
        """Return an encoder of the categories in these rows. Nulls are ignored.

        Args:
            frame: rows of the training split only.

        Raises:
            MissingColumnError: a column is missing.
        """
        columns = columns_of(frame, CATEGORICAL_COLUMNS)
        known = {name: values[~is_null(values)] for name, values in columns.items()}
        return cls({name: tuple(sorted({str(value) for value in values})) for name, values in known.items()})

    def encode(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Return the columns with each categorical one replaced by its binary columns (int8, 0 or 1).

        Raises:
            MissingColumnError: a fitted column is missing.
            UnknownCategoryError: a value is not one of the fitted categories.
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
                f"{name} of row {row} is {values[row]!r}, expected one of {', '.join(self.categories[name])}.",
                remedy="Correct the row, or train a model on rows that have this category.",
            ) from None

    def to_json(self) -> str:
        """Return JSON with `encoding_type` ("one_hot"), `categories` and `binary_columns`, the latter two by column."""
        document = {
            "encoding_type": ENCODING_TYPE,
            "categories": dict(self.categories),
            "binary_columns": self.binary_columns,
        }
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> OneHotEncoder:
        """Return the encoder that `to_json` wrote.

        Raises:
            MetadataError: the JSON does not describe a one-hot encoder.
        """
        try:
            document = json.loads(text)
            encoder = cls({str(name): tuple(values) for name, values in document["categories"].items()})
            binary_columns = {name: tuple(values) for name, values in document["binary_columns"].items()}
            expected = document["encoding_type"] == ENCODING_TYPE and binary_columns == encoder.binary_columns
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _not_an_encoder(text, repr(error)) from error
        if not expected:
            raise _not_an_encoder(text, "another encoding_type, or binary_columns of other names")
        return encoder


def _not_an_encoder(text: str, reason: str) -> MetadataError:
    return MetadataError(
        f"This is not the JSON of a one-hot encoder ({reason}): expected 'encoding_type' {ENCODING_TYPE!r}, "
        f"'categories' and 'binary_columns' named column_category, got {text[:200]!r}.",
        remedy="Materialize feature_encoder again.",
    )
