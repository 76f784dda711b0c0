"""An evaluation and a comparison in the UI and in MLflow: metrics, charts of the curves, and tables."""

from collections.abc import Mapping, Sequence

import dagster as dg

from churn_platform.modeling.comparison import Comparison
from churn_platform.modeling.report import Report
from churn_platform.orchestration.assets import curves
from churn_platform.orchestration.assets.svg import markdown_image
from churn_platform.orchestration.assets.ui_metadata import Metadata, rows_table, significant

OUT_OF_FOLD = "oof_"  # prefix of out-of-fold metrics of the training split; metrics of the test split have no prefix
TITLES = {
    "roc": "recall (up) by false positive rate",
    "precision_recall": "precision (up) by recall",
    "reliability": "churn rate (up) by score",
    "gain": "recall (up) by share called",
}
WITH_DIAGONAL = ("roc", "reliability", "gain")  # the diagonal is a random ranking, or a perfectly calibrated score


def report_metadata(report: Report) -> Metadata:
    """Return the report as metadata of a materialization."""
    images = {name: dg.MetadataValue.md(markdown_image(svg, TITLES[name])) for name, svg in charts(report).items()}
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


def comparison_metadata(comparison: Comparison) -> dict[str, float | dg.TableMetadataValue]:
    """Return the out-of-fold metrics of both models and, if there is a champion, the gain over it."""
    gain, value = comparison.gain, comparison.decision_value
    challenger = significant(comparison.challenger.as_dict(OUT_OF_FOLD))
    if gain is None or comparison.champion is None:
        return {**challenger}
    numbers = {
        **comparison.champion.as_dict(f"champion_{OUT_OF_FOLD}"),
        "gain_roc_auc": gain.auc,
        "gain_low": gain.low,
        "gain_high": gain.high,
        **({} if value is None else {"decision_value": value.challenger, "champion_decision_value": value.champion}),
    }
    return {
        **challenger,
        **significant(numbers),
        "gain_by_slice": dg.MetadataValue.table(
            [dg.TableRecord({"slice": name, **significant({"gain": gain})}) for name, gain in gain.slices.items()],
            schema=dg.TableSchema(
                [
                    dg.TableColumn("slice", "string", "Group of customers that is evaluated separately."),
                    dg.TableColumn("gain", "float", "ROC AUC of the new model minus the champion's, out of fold."),
                ]
            ),
        ),
    }


def importances_table(shares: Mapping[str, float]) -> dg.TableMetadataValue:
    """Return the importances of features as a table."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"feature": name, **significant({"share_of_gain": share})}) for name, share in shares.items()
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("feature", "string", "Name of the feature."),
                dg.TableColumn("share_of_gain", "float", "Its share of the total gain of all splits, 0..1."),
            ]
        ),
    )


def charts(report: Report) -> dict[str, str]:
    """Return name -> SVG of each curve."""
    return {
        name: curves.curve(points, title=TITLES[name], diagonal=name in WITH_DIAGONAL)
        for name, points in report.curves.items()
    }


def _pairs(name: str, values: Mapping[str, float]) -> Sequence[Mapping[str, object]]:
    return [{"column": column, name: value} for column, value in values.items()]
