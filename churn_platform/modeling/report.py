"""The details of an evaluation as plain data: what `reporting.py` measures, and the dashboard shows.

The module imports none of the large libraries, because the dashboard stays small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, str | int | float]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Report:
    """An evaluation as curves and tables.

    Attributes:
        curves: name -> points (x, y), both 0..1: roc, precision_recall, reliability, gain.
        confusion: number of customers by prediction (leaves, stays) and outcome (left, stayed).
        lift: churn rate, and lift over the average, of each tenth of the customers, the riskiest first.
        contributions: column -> mean absolute contribution to the log-odds, greatest first.
        permutation: column -> loss of ROC AUC when its values are shuffled among the customers, greatest first.
        slices: number of customers, churn rate, and ROC AUC with its 95 % interval, by slice.
        baselines: metrics of this model and of simpler ones, fitted and evaluated on the same rows.
    """

    curves: Mapping[str, Points]
    confusion: Sequence[Row]
    lift: Sequence[Row]
    contributions: Mapping[str, float]
    permutation: Mapping[str, float]
    slices: Sequence[Row]
    baselines: Sequence[Row]

    def as_dict(self) -> dict[str, object]:
        """Return all attributes as plain data."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Report":
        """Return the report that `as_dict` wrote, also after a round trip through JSON that keeps no order of keys."""
        return cls(
            curves={name: [(x, y) for x, y in points] for name, points in document["curves"].items()},
            confusion=document["confusion"],
            lift=document["lift"],
            contributions=greatest_first(document["contributions"]),
            permutation=greatest_first(document["permutation"]),
            slices=document["slices"],
            baselines=document["baselines"],
        )


def greatest_first(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values by name, the greatest first."""
    return dict(sorted(values.items(), key=lambda each: -each[1]))
