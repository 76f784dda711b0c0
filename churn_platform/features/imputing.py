"""Values for what is not known, fitted on the training split. Pure."""

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

MODE_COLUMNS = ("Geography",)  # not Gender: cleaning drops a row without one, so that none may be invented in scoring


@dataclass(frozen=True)
class Imputer:
    """Median of each numeric column, mode of each category that may be null.

    Attributes:
        medians: column -> value, in the column's own unit.
        modes: column -> most frequent category; the first in the alphabet of several equally frequent ones.
    """

    medians: Mapping[str, float]
    modes: Mapping[str, str]

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> Imputer:
        """Medians and modes of the rows given, which are to be the training split's and no others.

        Raises:
            MissingColumnError: a column is not there.
            MetadataError: a column holds nothing but nulls.
        """
        columns = columns_of(frame, (*NUMERIC_COLUMNS, *MODE_COLUMNS))
        return cls(
            medians={name: float(np.median(_known(name, columns).astype(np.float64))) for name in NUMERIC_COLUMNS},
            modes={name: _mode(_known(name, columns)) for name in MODE_COLUMNS},
        )

    def impute(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The columns with every null of a fitted one replaced; a column without nulls keeps its array and dtype.

        Raises:
            MissingColumnError: a fitted column is not there.
        """
        imputed = dict(columns)
        values_for_null: dict[str, float | str] = {**self.medians, **self.modes}
        for name, value in values_for_null.items():
            values = column(columns, name)
            missing = is_null(values)
            if missing.any():
                # a copy, in float64 for numbers: a median may be finer than the column's own float32
                imputed[name] = values.astype(np.float64 if values.dtype.kind == "f" else object)
                imputed[name][missing] = value
        return imputed

    def to_json(self) -> str:
        """JSON with `strategy`, `medians` and `modes`."""
        document = {"strategy": "median_and_mode", "medians": dict(self.medians), "modes": dict(self.modes)}
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Imputer:
        """The imputer that `to_json` wrote.

        Raises:
            MetadataError: the JSON is not an imputer's.
        """
        try:
            document = json.loads(text)
            return cls(
                medians={str(name): float(value) for name, value in document["medians"].items()},
                modes={str(name): str(value) for name, value in document["modes"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MetadataError(
                f"This is not an imputer's JSON ({error!r}): expected 'medians' and 'modes', got {text[:200]!r}. "
                f"Materialize feature_imputer again."
            ) from error


def _known(name: str, columns: Columns) -> NDArray[Any]:
    """A column's values that are not null.

    Raises:
        MetadataError: there is none.
    """
    values = columns[name]
    known = values[~is_null(values)]
    if len(known) == 0:
        raise MetadataError(
            f"Column {name!r} is null in all {len(values)} training rows, so it has no median or mode. "
            f"Check the raw file: at least one row needs a value."
        )
    return known


def _mode(values: NDArray[Any]) -> str:
    counts = Counter(str(value) for value in values)
    return min(counts, key=lambda category: (-counts[category], category))
