"""Why a customer scores as high as they do: XGBoost's own exact contributions (TreeSHAP), by raw column. Pure.

Contributions are in log-odds, and exact: with the bias they add up to the model's log-odds. Columns that become several
features (Geography, Gender, CreditScore with its band) are one reason, the sum of theirs: nobody can act on half of it.
A calibrated bundle changes probabilities, not their order, so what raises the log-odds raises the risk score.
"""

from __future__ import annotations

from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import BAND_COLUMN, FEATURES, INPUT_COLUMNS, Columns
from churn_platform.scoring.booster import booster_from_bytes, import_xgboost
from churn_platform.scoring.bundle import ModelBundle

TOP_REASONS: Final = 5


class Reason(TypedDict):
    """One column's part in a customer's log-odds of churn; `value` is as the event gave it, None where unknown."""

    feature: str
    value: str | float | None
    contribution: float


class Explainer:
    """Explains what a bundle scores. It reads a copy of the model: other threads score with the bundle meanwhile."""

    def __init__(self, bundle: ModelBundle) -> None:
        self._transform = bundle.transform
        self._booster = booster_from_bytes(bundle.model)
        self._booster.set_param({"nthread": 1})

    def contributions(self, columns: Columns) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What each feature adds to the log-odds, and the log-odds before any of them.

        Args:
            columns: raw column name -> shape (n,), as `FeatureTransform.transform` takes them.

        Returns:
            shape (n, 14) in the order of FEATURES, and the bias, shape (n,).

        Raises:
            FeatureError: a column is missing or a value has no feature.
        """
        matrix = self._transform.transform(columns)
        rows = import_xgboost().DMatrix(matrix, feature_names=list(FEATURES), nthread=1)
        found = self._booster.predict(rows, pred_contribs=True)
        return found[:, :-1], found[:, -1]

    def by_column(self, columns: Columns) -> NDArray[np.float64]:
        """What each raw column adds to the log-odds: shape (n, 10), in the order of INPUT_COLUMNS."""
        contributions, _ = self.contributions(columns)
        summed: NDArray[np.float64] = contributions.astype(np.float64) @ _FEATURE_TO_COLUMN
        return summed

    def reasons(self, columns: Columns, most: int = TOP_REASONS) -> list[list[Reason]]:
        """The columns that move each customer's log-odds most, up or down, greatest first.

        Args:
            columns: raw column name -> shape (n,).
            most: reasons of a customer.

        Returns:
            n lists.
        """
        by_column = self.by_column(columns)
        greatest = np.argsort(-np.abs(by_column), axis=1, kind="stable")[:, :most]
        return [
            [
                Reason(
                    feature=INPUT_COLUMNS[column],
                    value=_plain(columns[INPUT_COLUMNS[column]][row]),
                    contribution=round(float(by_column[row, column]), 4),
                )
                for column in chosen
            ]
            for row, chosen in enumerate(greatest.tolist())
        ]


def in_words(reason: Reason) -> str:
    """A reason as a person would say it."""
    value = "unknown" if reason["value"] is None else reason["value"]
    shown = f"{value:,.10g}" if isinstance(value, float) else value
    direction = "raises" if reason["contribution"] > 0 else "lowers"
    return f"{reason['feature']} {shown} {direction} the risk ({reason['contribution']:+.2f})"


def _column_of(feature: str) -> str:
    """The raw column that a feature is made of."""
    return "CreditScore" if feature == BAND_COLUMN else feature.partition("_")[0]


_FEATURE_TO_COLUMN: Final = np.array(
    [[float(_column_of(feature) == column) for column in INPUT_COLUMNS] for feature in FEATURES]
)


def _plain(value: object) -> str | float | None:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)  # type: ignore[arg-type]  # of numpy
    return None if np.isnan(number) else number
