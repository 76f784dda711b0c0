"""Measures the details of an evaluation: curves, tables and baselines, all on the test split. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import columns_of
from churn_platform.modeling.evaluation import calibration_bins, evaluate
from churn_platform.modeling.report import Points, Report, Row, greatest_first
from churn_platform.modeling.resampling import auc, bootstrapped_aucs
from churn_platform.modeling.slices import slices
from churn_platform.modeling.threshold import f1_maximising_threshold
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.contributions import Explainer

if TYPE_CHECKING:
    import pandas as pd

    from churn_platform.files.stored_frame import Frame

SEED: Final = 42
CURVE_POINTS: Final = 21
TENTHS: Final = 10
SLICE_RESAMPLES: Final = 200
INTERVAL: Final = (0.025, 0.975)
# More rows take longer, without more precise curves or better baselines.
MAX_ROWS: Final = 20_000
EXPLAINED_ROWS: Final = 2_000


def make_report(bundle: ModelBundle, train: Frame, test: Frame) -> Report:
    """Evaluate a bundle in detail. The same arguments always give the same report.

    Args:
        bundle: the model.
        train: its training rows, raw columns and target; the baselines are fitted on them.
        test: rows that it was not trained on.
    """
    limited_train, limited_test = _limited(train), _limited(test)
    schema = bundle.schema
    churned, columns = limited_test[schema.target].to_numpy(), columns_of(limited_test, schema.feature_columns)
    probabilities = bundle.score(columns)
    return Report(
        curves=_curves(churned, probabilities),
        confusion=_confusion(churned, probabilities >= bundle.threshold),
        lift=_lift(churned, probabilities),
        contributions=_contributions(bundle, limited_test),
        permutation=_permutation(bundle, limited_test, auc(churned, probabilities)),
        slices=_slices(limited_test, churned, probabilities, schema),
        baselines=_baselines(bundle, limited_train, limited_test, probabilities),
    )


def _limited(rows: Frame) -> pd.DataFrame:
    from churn_platform.files.stored_frame import StoredFrame

    if isinstance(rows, StoredFrame):
        return rows.rows() if len(rows) <= MAX_ROWS else rows.sample(MAX_ROWS, seed=SEED)
    return rows if len(rows) <= MAX_ROWS else rows.sample(MAX_ROWS, random_state=SEED)


def _curves(churned: NDArray[np.integer], probabilities: NDArray[np.float32]) -> dict[str, Points]:
    ranked = churned[np.argsort(-probabilities, kind="stable")]
    churners, count = int(ranked.sum()), len(ranked)
    called = np.linspace(0, count, 201).round().astype(int)  # a fine grid; thinned below to points even in x
    found = np.append(0, np.cumsum(ranked))[called]
    recall, false_positive_rate = found / churners, (called - found) / (count - churners)
    precision = np.divide(found, called, out=np.ones(len(called)), where=called > 0)
    bins = [rows for rows in calibration_bins(probabilities) if len(rows)]
    return {
        "roc": _thinned(false_positive_rate, recall),
        "precision_recall": _thinned(recall[1:], precision[1:]),
        "reliability": [(float(probabilities[rows].mean()), float(churned[rows].mean())) for rows in bins],
        "gain": _thinned(called / count, recall),
    }


def _thinned(x: NDArray[np.floating], y: NDArray[np.floating]) -> Points:
    """Return CURVE_POINTS of the points, evenly spaced in x."""
    kept = np.searchsorted(x, np.linspace(x[0], x[-1], CURVE_POINTS)).clip(0, len(x) - 1)
    return [(float(x[index]), float(y[index])) for index in kept]


def _confusion(churned: NDArray[np.integer], called: NDArray[np.bool_]) -> list[Row]:
    return [
        {
            "predicted": name,
            "left": int((members & (churned == 1)).sum()),
            "stayed": int((members & (churned == 0)).sum()),
        }
        for name, members in (("leaves", called), ("stays", ~called))
    ]


def _lift(churned: NDArray[np.integer], probabilities: NDArray[np.float32]) -> list[Row]:
    tenths = np.array_split(np.argsort(-probabilities, kind="stable"), TENTHS)
    return [
        {
            "tenth": number,
            "customers": len(rows),
            "churn_rate_percent": 100 * float(churned[rows].mean()),
            "lift": float(churned[rows].mean() / churned.mean()),
        }
        for number, rows in enumerate(tenths, 1)
        if len(rows)
    ]


def _contributions(bundle: ModelBundle, rows: pd.DataFrame) -> dict[str, float]:
    names = bundle.schema.feature_columns
    by_column = Explainer(bundle).by_column(columns_of(rows.head(EXPLAINED_ROWS), names))
    return greatest_first(dict(zip(names, np.abs(by_column).mean(axis=0).tolist(), strict=True)))


def _permutation(bundle: ModelBundle, rows: pd.DataFrame, unshuffled_auc: float) -> dict[str, float]:
    columns, churned = columns_of(rows, bundle.schema.feature_columns), rows[bundle.schema.target].to_numpy()
    order = np.random.default_rng(SEED).permutation(len(rows))
    return greatest_first(
        {
            name: unshuffled_auc - auc(churned, bundle.score({**columns, name: columns[name][order]}))
            for name in bundle.schema.feature_columns
        }
    )


def _slices(
    rows: pd.DataFrame, churned: NDArray[np.integer], probabilities: NDArray[np.float32], schema: CustomerSchema
) -> list[Row]:
    found: list[Row] = []
    for name, members in slices(rows, schema):
        if not 0 < churned[members].sum() < members.sum():  # there is no ROC curve without both outcomes
            continue
        aucs = bootstrapped_aucs(churned[members], probabilities[members], resamples=SLICE_RESAMPLES)
        low, high = np.nanquantile(aucs, INTERVAL)
        found.append(
            {
                "slice": name,
                "customers": int(members.sum()),
                "churn_rate_percent": 100 * float(churned[members].mean()),
                "mean_risk_percent": 100 * float(probabilities[members].mean()),
                "roc_auc": auc(churned[members], probabilities[members]),
                "roc_auc_low": float(low),
                "roc_auc_high": float(high),
            }
        )
    return found


def _baselines(
    bundle: ModelBundle, train: pd.DataFrame, test: pd.DataFrame, probabilities: NDArray[np.float32]
) -> list[Row]:
    from sklearn.ensemble import RandomForestClassifier  # 1 s to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    target, names, transform = bundle.schema.target, bundle.schema.feature_columns, bundle.transform.transform
    matrix, labels = transform(columns_of(train, names)), train[target].to_numpy()
    unseen, churned = transform(columns_of(test, names)), test[target].to_numpy()
    found: list[Row] = [
        {"model": "this model", **evaluate(churned, probabilities, threshold=bundle.threshold).as_dict()}
    ]
    for name, model in {
        "random forest, 100 trees of depth 10": RandomForestClassifier(100, max_depth=10, random_state=SEED),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    }.items():
        model.fit(matrix, labels)
        # Chosen on the training rows themselves, which can only favour the baseline over this model's threshold.
        threshold = f1_maximising_threshold(labels, model.predict_proba(matrix)[:, 1])
        metrics = evaluate(churned, model.predict_proba(unseen)[:, 1], threshold=threshold)
        found.append({"model": name, **metrics.as_dict()})
    return found
