"""Replacing missing values, by medians and modes of the training split. Pure; no I/O."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import NUMERIC_COLUMNS, Columns, column, columns_of, is_null
from churn_platform.features.exceptions import MetadataError

if TYPE_CHECKING:
    import pandas as pd

MODE_COLUMNS = ("Geography",)  # not Gender: training drops rows without one, so scoring must not invent one


@dataclass(frozen=True)
class Imputer:
    """The median of each numeric column and the mode of each category that may be null.

    Attributes:
        medians: column -> value, in the column's own unit.
        modes: column -> most frequent category; of equally frequent ones, the first in alphabetical order.
    """

    medians: Mapping[str, float]
    modes: Mapping[str, str]

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> Imputer:
        """Return an imputer with the medians and modes of these rows.

        Args:
            frame: rows of the training split only.

        Raises:
            MissingColumnError: a column is missing.
            MetadataError: a column has only nulls.
        """
        columns = columns_of(frame, (*NUMERIC_COLUMNS, *MODE_COLUMNS))
        return cls(
            medians={name: float(np.median(_known(name, columns).astype(np.float64))) for name in NUMERIC_COLUMNS},
            modes={name: _mode(_known(name, columns)) for name in MODE_COLUMNS},
        )

    def impute(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Return the columns with the nulls of fitted columns replaced. Others keep their array and dtype.

        Raises:
            MissingColumnError: a fitted column is missing.
        """
        imputed = dict(columns)
        values_for_null: dict[str, float | str] = {**self.medians, **self.modes}
        for name, value in values_for_null.items():
            values = column(columns, name)
            missing = is_null(values)
            if missing.any():
                # a copy, numbers in float64: a median may not be exact in the column's float32
                imputed[name] = values.astype(np.float64 if values.dtype.kind == "f" else object)
                imputed[name][missing] = value
        return imputed

    def to_json(self) -> str:
        """Return JSON with `strategy`, `medians` and `modes`."""
        document = {"strategy": "median_and_mode", "medians": dict(self.medians), "modes": dict(self.modes)}
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Imputer:
        """Return the imputer that `to_json` wrote.

        Raises:
            MetadataError: the JSON does not describe an imputer.
        """
        try:
            document = json.loads(text)
            return cls(
                medians={str(name): float(value) for name, value in document["medians"].items()},
                modes={str(name): str(value) for name, value in document["modes"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MetadataError(
                f"This is not the JSON of an imputer ({error!r}): expected 'medians' and 'modes', got {text[:200]!r}.",
                remedy="Materialize feature_imputer again.",
            ) from error


def _known(name: str, columns: Columns) -> NDArray[Any]:
    """Return the values of a column that are not null.

    Raises:
        MetadataError: all of them are null.
    """
    values = columns[name]
    known = values[~is_null(values)]
    if len(known) == 0:
        raise MetadataError(
            f"Column {name!r} is null in all {len(values)} training rows, so it has no median or mode.",
            remedy="Check the customers file: at least one row needs a value.",
        )
    return known


def _mode(values: NDArray[Any]) -> str:
    counts = Counter(str(value) for value in values)
    return min(counts, key=lambda category: (-counts[category], category))
