"""One-hot encoding: categories as columns of 0 and 1, one per category. Pure; no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import Columns, column, columns_of, is_null
from churn_platform.features.exceptions import MetadataError, UnknownCategoryError
from churn_platform.schema.columns import MISSING, OTHER

if TYPE_CHECKING:
    import pandas as pd

    from churn_platform.schema.customer_schema import CustomerSchema

ENCODING_TYPE = "one_hot"
NO_CATEGORY = -1


@dataclass(frozen=True)
class OneHotEncoder:
    """The categories of each column.

    Attributes:
        categories: column -> its categories, in the order of the binary columns.
        unknown: column -> the category of values that are not listed; columns that refuse such values are not in it.
        missing: column -> the category of missing values, for columns where that is one.
    """

    categories: Mapping[str, tuple[str, ...]]
    unknown: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def binary_columns(self) -> dict[str, tuple[str, ...]]:
        """Column -> the binary columns that replace it, such as Plan -> Plan_Basic, Plan_Premium."""
        return {
            name: tuple(f"{name}_{category}" for category in categories) for name, categories in self.categories.items()
        }

    @classmethod
    def of(cls, schema: CustomerSchema) -> OneHotEncoder:
        """Return the encoder of a schema's categories."""
        columns = [schema.column(name) for name in schema.encoded]
        return cls(
            categories={each.name: each.all_categories for each in columns},
            unknown={each.name: OTHER for each in columns if each.unknown == "other"},
            missing={each.name: MISSING for each in columns if each.missing == "category"},
        )

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: CustomerSchema) -> OneHotEncoder:
        """Return the encoder of the schema's categories, found in these rows or not.

        Args:
            frame: rows of the training split only, imputed.
            schema: states the categories.

        Raises:
            MissingColumnError: a column is missing.
        """
        columns_of(frame, schema.encoded)  # raises if one is missing
        return cls.of(schema)

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
        """Return the position of each value's category.

        Raises:
            UnknownCategoryError: a value has none.
        """
        code_of = {category: code for code, category in enumerate(self.categories[name])}
        codes = np.fromiter(map(code_of.get, values.tolist(), repeat(NO_CATEGORY)), dtype=np.int8, count=len(values))
        without = codes == NO_CATEGORY
        if not without.any():
            return codes
        missing = is_null(values)
        if name in self.missing:
            codes[without & missing] = code_of[self.missing[name]]
        if name in self.unknown:
            codes[without & ~missing] = code_of[self.unknown[name]]
        without = codes == NO_CATEGORY
        if without.any():
            row = int(np.flatnonzero(without)[0])
            raise UnknownCategoryError(
                f"{name} of row {row} is {values[row]!r}, expected one of {', '.join(self.categories[name])}.",
                remedy="Correct the row, or add the category to the customer schema and train a model.",
            )
        return codes

    def to_json(self) -> str:
        """Return JSON with `encoding_type` ("one_hot"), `categories` and `binary_columns`, the latter two by column.

        `unknown` and `missing` follow if a column has such a category.
        """
        document: dict[str, object] = {
            "encoding_type": ENCODING_TYPE,
            "categories": dict(self.categories),
            "binary_columns": self.binary_columns,
        }
        for name, category_of in (("unknown", self.unknown), ("missing", self.missing)):
            if category_of:
                document[name] = dict(category_of)
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> OneHotEncoder:
        """Return the encoder that `to_json` wrote.

        Raises:
            MetadataError: the JSON does not describe a one-hot encoder.
        """
        try:
            document = json.loads(text)
            encoder = cls(
                categories={str(name): tuple(values) for name, values in document["categories"].items()},
                unknown=dict(document.get("unknown", {})),
                missing=dict(document.get("missing", {})),
            )
            binary_columns = {name: tuple(values) for name, values in document["binary_columns"].items()}
            expected = (
                document["encoding_type"] == ENCODING_TYPE
                and binary_columns == encoder.binary_columns
                and all(
                    category in encoder.categories[name]
                    for name, category in (*encoder.unknown.items(), *encoder.missing.items())
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _not_an_encoder(text, repr(error)) from error
        if not expected:
            raise _not_an_encoder(text, "another encoding_type, or columns and categories that do not match")
        return encoder


def _not_an_encoder(text: str, reason: str) -> MetadataError:
    return MetadataError(
        f"This is not the JSON of a one-hot encoder ({reason}): expected 'encoding_type' {ENCODING_TYPE!r}, "
        f"'categories' and 'binary_columns' named column_category, got {text[:200]!r}.",
        remedy="Materialize feature_encoder again.",
    )
