"""Explanations of risk scores: XGBoost's exact contributions (TreeSHAP), by raw column. Pure; no I/O.

Contributions are in log-odds. With the bias they add up to the model's log-odds. The contributions of a column that
becomes several features (a category, or a number with its band) are summed into one reason: a part of it would help
nobody. Calibration changes probabilities but not their order, so what raises the log-odds raises the risk score.
"""

from __future__ import annotations

from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import Columns
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

    def __init__(self, bundle: ModelBundle, threads: int = 1) -> None:
        """Copy the model.

        Args:
            bundle: the model and its feature steps.
            threads: number of threads that XGBoost uses. The contributions are the same with any number.
        """
        self._transform = bundle.transform
        self._features = list(bundle.schema.feature_names)
        self._columns = bundle.schema.feature_columns
        self._feature_to_column = np.array(
            [[float(feature.column == name) for name in self._columns] for feature in bundle.schema.features]
        )
        self._booster = booster_from_bytes(bundle.model)
        self._threads = threads
        self._booster.set_param({"nthread": threads})

    def contributions(self, columns: Columns) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what each feature adds to the log-odds, and the bias, which is the log-odds without any feature.

        Args:
            columns: raw column name -> shape (n,), as `FeatureTransform.transform` takes them.

        Returns:
            shape (n, features) in the order of the schema's features, and the bias, shape (n,).

        Raises:
            FeatureError: a column is missing or a value has no feature.
        """
        matrix = self._transform.transform(columns)
        rows = import_xgboost().DMatrix(matrix, feature_names=self._features, nthread=self._threads)
        contributions = self._booster.predict(rows, pred_contribs=True)
        return contributions[:, :-1], contributions[:, -1]

    def by_column(self, columns: Columns) -> NDArray[np.float64]:
        """Return what each raw column adds to the log-odds: shape (n, columns), in the order of `feature_columns`."""
        contributions, _ = self.contributions(columns)
        summed: NDArray[np.float64] = contributions.astype(np.float64) @ self._feature_to_column
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
                    feature=self._columns[column],
                    value=_json_value(columns[self._columns[column]][row]),
                    contribution=round(float(by_column[row, column]), 4),
                )
                for column in chosen
            ]
            for row, chosen in enumerate(greatest.tolist())
        ]


def reason_as_text(reason: Reason) -> str:
    """Return a reason as a human-readable phrase, such as "Balance 1,250 raises the risk (+1.20)"."""
    value = "unknown" if reason["value"] is None else reason["value"]
    text = f"{value:,.10g}" if isinstance(value, float) else value
    direction = "raises" if reason["contribution"] > 0 else "lowers"
    return f"{reason['feature']} {text} {direction} the risk ({reason['contribution']:+.2f})"


def _json_value(value: object) -> str | float | None:
    """Return a value that JSON can represent; None for a missing one. A date becomes a text (YYYY-MM-DD)."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value.astype("datetime64[D]"))
    number = float(value)  # type: ignore[arg-type]  # a NumPy scalar
    return None if np.isnan(number) else number
