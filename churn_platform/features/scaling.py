"""Min-max scaling of numbers to 0..1. Pure; no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import Columns, column, columns_of
from churn_platform.features.exceptions import MetadataError

if TYPE_CHECKING:
    import pandas as pd

    from churn_platform.schema.customer_schema import CustomerSchema

SCALING_TYPE = "minmax"
FRAMEWORK = "numpy"


@dataclass(frozen=True)
class MinMaxScaler:
    """The minimum and maximum of each scaled column.

    Attributes:
        ranges: column -> (minimum, maximum), in the column's own unit.
    """

    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: CustomerSchema) -> MinMaxScaler:
        """Return a scaler with the ranges of these rows.

        Args:
            frame: imputed rows of the training split only.
            schema: says which columns are scaled.

        Raises:
            MissingColumnError: a column is missing.
            MetadataError: a column has only one value, so it cannot be scaled.
        """
        return cls(cls.fit_ranges(frame, schema))

    @classmethod
    def fit_ranges(cls, frame: pd.DataFrame, schema: CustomerSchema) -> dict[str, tuple[float, float]]:
        """Return the ranges of these rows, which may be some of those that a scaler is fitted on.

        Args:
            frame: imputed rows of the training split only, at least one.
            schema: says which columns are scaled.

        Raises:
            MissingColumnError: a column is missing.
        """
        columns = columns_of(frame, schema.scaled)
        return {name: (float(np.nanmin(values)), float(np.nanmax(values))) for name, values in columns.items()}

    def __post_init__(self) -> None:
        for name, (minimum, maximum) in self.ranges.items():
            if not minimum < maximum:
                raise MetadataError(
                    f"{name} has the range {minimum}..{maximum}, expected two different values.",
                    remedy="Check the column in the customers file: a constant cannot be scaled. Or remove "
                    "'min_max' from its features in the customer schema.",
                )

    def scale(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Return the columns with each fitted one as (value - minimum) / (maximum - minimum), float64.

        Values beyond the fitted range are outside 0..1 and are not clipped: trees depend on order, not on size.

        Raises:
            MissingColumnError: a fitted column is missing.
        """
        scaled = dict(columns)
        for name, (minimum, maximum) in self.ranges.items():
            scaled[name] = (column(columns, name).astype(np.float64) - minimum) / (maximum - minimum)
        return scaled

    def to_json(self) -> str:
        """Return JSON with `columns_to_scale`, `data_min`, `data_max`, `scaling_type` and `framework`."""
        document = {
            "columns_to_scale": list(self.ranges),
            "data_min": [minimum for minimum, _ in self.ranges.values()],
            "data_max": [maximum for _, maximum in self.ranges.values()],
            "scaling_type": SCALING_TYPE,
            "framework": FRAMEWORK,
        }
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> MinMaxScaler:
        """Return the scaler that `to_json` wrote.

        Raises:
            MetadataError: the JSON does not describe a min-max scaler.
        """
        try:
            document = json.loads(text)
            names, minima, maxima = document["columns_to_scale"], document["data_min"], document["data_max"]
            expected = document["scaling_type"] == SCALING_TYPE
            ranges = {
                str(name): (float(low), float(high)) for name, low, high in zip(names, minima, maxima, strict=True)
            }
        except (ValueError, KeyError, TypeError) as error:
            raise _not_a_scaler(text, repr(error)) from error
        if not expected:
            raise _not_a_scaler(text, "another scaling_type")
        return cls(ranges)


def _not_a_scaler(text: str, reason: str) -> MetadataError:
    return MetadataError(
        f"This is not the JSON of a min-max scaler ({reason}): expected 'scaling_type' {SCALING_TYPE!r} and "
        f"'columns_to_scale', 'data_min' and 'data_max' of one length, got {text[:200]!r}.",
        remedy="Materialize feature_scaler again.",
    )
