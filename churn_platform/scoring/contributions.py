"""Explanations of risk scores: XGBoost's exact contributions (TreeSHAP), by raw column. Pure; no I/O.

Contributions are in log-odds. With the bias they add up to the model's log-odds. The contributions of a column that
becomes several features (Geography, Gender, CreditScore with its band) are summed into one reason: a part of it would
help nobody. Calibration changes probabilities but not their order, so what raises the log-odds raises the risk score.
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
    """One column's contribution to a customer's log-odds of churn. `value` is that of the event, None if unknown."""

    feature: str
    value: str | float | None
    contribution: float


class Explainer:
    """Explains the scores of a bundle. It copies the model, because other threads score with the bundle."""

    def __init__(self, bundle: ModelBundle) -> None:
        self._transform = bundle.transform
        self._booster = booster_from_bytes(bundle.model)
        self._booster.set_param({"nthread": 1})

    def contributions(self, columns: Columns) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what each feature adds to the log-odds, and the bias, which is the log-odds without any feature.

        Args:
            columns: raw column name -> shape (n,), as `FeatureTransform.transform` takes them.

        Returns:
            shape (n, 14) in the order of FEATURES, and the bias, shape (n,).

        Raises:
            FeatureError: a column is missing or a value has no feature.
        """
        matrix = self._transform.transform(columns)
        rows = import_xgboost().DMatrix(matrix, feature_names=list(FEATURES), nthread=1)
        contributions = self._booster.predict(rows, pred_contribs=True)
        return contributions[:, :-1], contributions[:, -1]

    def by_column(self, columns: Columns) -> NDArray[np.float64]:
        """Return what each raw column adds to the log-odds: shape (n, 10), in the order of INPUT_COLUMNS."""
        contributions, _ = self.contributions(columns)
        summed: NDArray[np.float64] = contributions.astype(np.float64) @ _FEATURE_TO_COLUMN
        return summed

    def reasons(self, columns: Columns, limit: int = TOP_REASONS) -> list[list[Reason]]:
        """Return the columns with the greatest effect on each customer's log-odds, up or down, greatest first.

        Args:
            columns: raw column name -> shape (n,).
            limit: number of reasons per customer.

        Returns:
            n lists, one per customer.
        """
        by_column = self.by_column(columns)
        greatest = np.argsort(-np.abs(by_column), axis=1, kind="stable")[:, :limit]
        return [
            [
                Reason(
                    feature=INPUT_COLUMNS[column],
                    value=_json_value(columns[INPUT_COLUMNS[column]][row]),
                    contribution=round(float(by_column[row, column]), 4),
                )
                for column in chosen
            ]
            for row, chosen in enumerate(greatest.tolist())
        ]


def reason_as_text(reason: Reason) -> str:
    """Return a reason as a human-readable phrase, such as "Age 62 raises the risk (+1.20)"."""
    value = "unknown" if reason["value"] is None else reason["value"]
    text = f"{value:,.10g}" if isinstance(value, float) else value
    direction = "raises" if reason["contribution"] > 0 else "lowers"
    return f"{reason['feature']} {text} {direction} the risk ({reason['contribution']:+.2f})"


def _column_of(feature: str) -> str:
    """Return the raw column that a feature is made of."""
    return "CreditScore" if feature == BAND_COLUMN else feature.partition("_")[0]


_FEATURE_TO_COLUMN: Final = np.array(
    [[float(_column_of(feature) == column) for column in INPUT_COLUMNS] for feature in FEATURES]
)


def _json_value(value: object) -> str | float | None:
    """Return a value that JSON can represent."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)  # type: ignore[arg-type]  # a NumPy scalar
    return None if np.isnan(number) else number
