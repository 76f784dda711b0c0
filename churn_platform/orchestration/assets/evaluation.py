"""An evaluation in the UI and in MLflow: charts of the curves, and tables."""

from collections.abc import Mapping, Sequence

import dagster as dg

from churn_platform.modeling.report import Report
from churn_platform.orchestration.assets import curves
from churn_platform.orchestration.assets.ui_metadata import Metadata, rows_table

TITLES = {
    "roc": "recall (up) by false positive rate",
    "precision_recall": "precision (up) by recall",
    "reliability": "churn rate (up) by score",
    "gain": "recall (up) by share called",
}
WITH_DIAGONAL = ("roc", "reliability", "gain")  # the diagonal is a random ranking, or a perfectly calibrated score


def report_metadata(report: Report) -> Metadata:
    """Return the report as metadata of a materialization."""
    images = {name: dg.MetadataValue.md(curves.markdown(svg, TITLES[name])) for name, svg in charts(report).items()}
    tables = {
        "confusion": report.confusion,
        "lift": report.lift,
        "slices": report.slices,
        "baselines": report.baselines,
        "contributions": _pairs("mean_contribution", report.contributions),
        "permutation_importance": _pairs("roc_auc_lost", report.permutation),
    }
    metadata: Metadata = {**images}
    for name, rows in tables.items():
        metadata |= rows_table(name, rows)
    return metadata


def charts(report: Report) -> dict[str, str]:
    """Return name -> SVG of each curve."""
    return {
        name: curves.curve(points, title=TITLES[name], diagonal=name in WITH_DIAGONAL)
        for name, points in report.curves.items()
    }


def _pairs(name: str, values: Mapping[str, float]) -> Sequence[Mapping[str, object]]:
    return [{"column": column, name: value} for column, value in values.items()]
