"""Amounts and ages on a scale of 0 to 1. Pure."""

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

COLUMNS_TO_SCALE = ("Balance", "EstimatedSalary", "Age")
SCALING_TYPE = "minmax"
FRAMEWORK = "numpy"


@dataclass(frozen=True)
class MinMaxScaler:
    """Least and greatest value of each scaled column.

    Attributes:
        ranges: column -> (least, greatest), in the column's own unit: Balance and EstimatedSalary euros, Age years.
    """

    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> MinMaxScaler:
        """The ranges of the rows given, which are to be the training split's, imputed, and no others.

        Raises:
            MissingColumnError: a column is not there.
            MetadataError: a column has one value only, so that it has no scale.
        """
        columns = columns_of(frame, COLUMNS_TO_SCALE)
        return cls({name: (float(np.nanmin(values)), float(np.nanmax(values))) for name, values in columns.items()})

    def __post_init__(self) -> None:
        for name, (least, greatest) in self.ranges.items():
            if not least < greatest:
                raise MetadataError(
                    f"{name} lies in {least}..{greatest}, expected a range wider than nothing. "
                    f"Check the column in the raw file: a constant cannot be scaled."
                )

    def scale(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The columns with each fitted one as (value - least) / (greatest - least), float64.

        A value beyond the fitted range lies outside 0..1 and is not clipped: the trees read its order, not its size.

        Raises:
            MissingColumnError: a fitted column is not there.
        """
        scaled = dict(columns)
        for name, (least, greatest) in self.ranges.items():
            scaled[name] = (column(columns, name).astype(np.float64) - least) / (greatest - least)
        return scaled

    def to_json(self) -> str:
        """JSON with `columns_to_scale`, `data_min` and `data_max` (in the same order), `scaling_type`, `framework`."""
        document = {
            "columns_to_scale": list(self.ranges),
            "data_min": [least for least, _ in self.ranges.values()],
            "data_max": [greatest for _, greatest in self.ranges.values()],
            "scaling_type": SCALING_TYPE,
            "framework": FRAMEWORK,
        }
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> MinMaxScaler:
        """The scaler that `to_json` wrote.

        Raises:
            MetadataError: the JSON is not such a scaler's.
        """
        try:
            document = json.loads(text)
            names, least, greatest = document["columns_to_scale"], document["data_min"], document["data_max"]
            readable = document["scaling_type"] == SCALING_TYPE
            ranges = {
                str(name): (float(low), float(high)) for name, low, high in zip(names, least, greatest, strict=True)
            }
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataError(_not_a_scaler(text, repr(error))) from error
        if not readable:
            raise MetadataError(_not_a_scaler(text, "its scaling_type differs"))
        return cls(ranges)


def _not_a_scaler(text: str, reason: str) -> str:
    return (
        f"This is not a min-max scaler's JSON ({reason}): expected 'scaling_type' {SCALING_TYPE!r} and "
        f"'columns_to_scale', 'data_min' and 'data_max' of one length, got {text[:200]!r}. "
        f"Materialize feature_scaler again."
    )
