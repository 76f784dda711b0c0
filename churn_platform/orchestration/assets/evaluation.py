"""An evaluation in the UI and in MLflow: pictures of curves, tables, and what simpler models reach."""

from collections.abc import Mapping, Sequence

import dagster as dg

from churn_platform.modeling.report import Report
from churn_platform.orchestration.assets import curves

TITLES = {
    "roc": "found (up) of churners by false alarms",
    "precision_recall": "precision (up) by recall",
    "reliability": "churn rate (up) by score",
    "gain": "found (up) of churners by called",
}
CHANCE = ("roc", "reliability", "gain")  # where the diagonal is what chance, or an honest score, looks like
DECIMALS = 4


def shown(report: Report) -> dict[str, dg.MetadataValue]:
    """The report as metadata of a materialization."""
    pictures = {name: dg.MetadataValue.md(curves.markdown(svg, TITLES[name])) for name, svg in drawn(report).items()}
    tables = {
        "confusion": report.confusion,
        "lift": report.lift,
        "slices": report.slices,
        "baselines": report.baselines,
        "contributions": _pairs("mean_contribution", report.contributions),
        "permutation_importance": _pairs("roc_auc_lost", report.permutation),
    }
    return {**pictures, **{name: _table(rows) for name, rows in tables.items()}}


def drawn(report: Report) -> dict[str, str]:
    """Name -> SVG of each curve."""
    return {
        name: curves.curve(points, title=TITLES[name], diagonal=name in CHANCE)
        for name, points in report.curves.items()
    }


def _pairs(name: str, values: Mapping[str, float]) -> list[dict[str, str | int | float]]:
    return [{"column": column, name: value} for column, value in values.items()]


def _table(rows: Sequence[Mapping[str, str | int | float]]) -> dg.TableMetadataValue:
    kinds = {str: "string", int: "int", float: "float"}
    columns = [dg.TableColumn(name, kinds[type(value)]) for name, value in rows[0].items()]
    records = [
        dg.TableRecord(
            {name: round(value, DECIMALS) if isinstance(value, float) else value for name, value in row.items()}
        )
        for row in rows
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))
