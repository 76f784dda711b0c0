"""The page about the model: whether it is still good, how it was measured, and how it became champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from churn_platform.challengers.report import figures, sentences
from churn_platform.dashboard import model_charts
from churn_platform.dashboard.charts import Bound
from churn_platform.dashboard.exceptions import NotFoundError
from churn_platform.dashboard.formats import label, number, percent
from churn_platform.dashboard.model_charts import DAYS, names_of
from churn_platform.dashboard.model_health import assess
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.database import (
    challengers,
    model_evaluations,
    model_references,
    model_versions,
    shadow_predictions,
)
from churn_platform.database.model_versions import ModelVersion
from churn_platform.database.pages import model as reading
from churn_platform.database.pages.model import FeatureDrift
from churn_platform.modeling.report import Report
from churn_platform.monitoring.verdicts import Verdict
from churn_platform.schema.customer_schema import CustomerSchema

MOST_VERSIONS: Final = 50
"""Versions and promotions that the tables list. A training a day makes hundreds."""
MOST_CHALLENGERS: Final = 10
OUT_OF_FOLD: Final = "oof_"
ENDED_BY: Final[Mapping[str, str]] = {
    "hand": "stopped",
    "promotion": "promoted",
    "rollback": "rolled back",
    "failure": "failed",
}
PROMOTED_BY: Final[Mapping[str, str]] = {
    "training": "a training, as the better model",
    "hand": "somebody, with churn model promote",
    "alias": "somebody, by moving the alias in MLflow",
    "rollback": "somebody, with churn model rollback",
}


@dataclass(frozen=True)
class Figure:
    """A metric of the model: its value on the test split, the one out of fold, and what it means, as a sentence."""

    name: str
    value: float | None
    out_of_fold: float | None
    meaning: str


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return the figures of a version: the champion, unless the address names another."""
    versions = model_versions.versions(connection)
    champion = next((each for each in versions if each.promoted_at is not None and each.retired_at is None), None)
    if not versions:
        return View("model.html.j2", "Model", {"version": None})
    version = _chosen(visit, versions, champion)
    document = model_evaluations.find(connection, version.version)
    drift = reading.latest_drift(connection, version.version, no_verdict=Verdict.TOO_FEW)
    live = reading.live_days(connection, version.version, days=DAYS)
    latest = reading.latest_live(connection)
    names = names_of(visit.schema)
    feature = visit.choice("feature", [each.feature for each in drift], drift[0].feature if drift else "")
    of_version = next((each for each in latest if each.model_version == version.version), None)
    return View(
        "model.html.j2",
        "Model",
        {
            "version": version,
            "champion": champion,
            "versions": _listed(versions, version),
            "choices": [(str(each.version), _version_text(each)) for each in _listed(versions, version)],
            "health": assess(version.version, of_version, drift, auc_loss=visit.config.live_auc_loss, names=names),
            "figures": _figures(version.metrics),
            **_evaluation_values(None if document is None else Report.from_dict(document), visit.schema),
            **_drift_values(visit, connection, version.version, drift, feature),
            "live": latest,
            "live_chart": model_charts.live_chart(live),
            **_challenger_values(connection, version.version),
            "promotions": reading.promotions(connection, limit=MOST_VERSIONS),
            "promoted_by": PROMOTED_BY,
            "hidden_versions": len(versions) - len(_listed(versions, version)),
        },
    )


def _challenger_values(connection: psycopg.Connection, version: int) -> dict[str, object]:
    """Return the latest shadows and canaries, and what the version has scored as a shadow."""
    stored = shadow_predictions.comparison_of(connection, version)
    values: dict[str, object] = {
        "challengers": challengers.latest(connection, limit=MOST_CHALLENGERS),
        "ended_by": ENDED_BY,
        "shadow": stored,
    }
    if stored is not None:
        values["shadow_chart"] = model_charts.shadow_chart(stored.comparison, version)
        values["shadow_figures"] = figures(stored.comparison)
        values["shadow_sentences"] = sentences(stored.comparison)
    return values


def _chosen(visit: Visit, versions: Sequence[ModelVersion], champion: ModelVersion | None) -> ModelVersion:
    """Return the version that the address names; else the champion, or the newest if there is none.

    Raises:
        NotFoundError: there is no such version.
    """
    wanted = visit.text("version")
    if not wanted:
        return champion or versions[0]
    found = next((each for each in versions if str(each.version) == wanted), None)
    if found is None:
        raise NotFoundError(f"There is no model version {wanted[:20]}. The newest is {versions[0].version}.")
    return found


def _listed(versions: Sequence[ModelVersion], chosen: ModelVersion) -> list[ModelVersion]:
    """Return the newest versions, the champion and the chosen one."""
    return [
        each
        for number_, each in enumerate(versions)
        if number_ < MOST_VERSIONS
        or each.version == chosen.version
        or (each.promoted_at is not None and each.retired_at is None)
    ]


def _version_text(version: ModelVersion) -> str:
    return f"Version {version.version}, {_state(version)}"


def _state(version: ModelVersion) -> str:
    """Return what a version is now: champion, retired or never promoted."""
    if version.promoted_at is None:
        return "never promoted"
    return "champion" if version.retired_at is None else "retired"


# Figures


def _figures(metrics: Mapping[str, float]) -> list[Figure]:
    def of(name: str) -> tuple[float | None, float | None]:
        return metrics.get(name), metrics.get(f"{OUT_OF_FOLD}{name}")

    def known(name: str) -> float | None:
        return next((each for each in of(name) if each is not None), None)

    return [
        Figure(
            "ROC AUC",
            *of("roc_auc"),
            f"A customer who leaves has a higher score than one who stays in {percent(known('roc_auc'))} of all pairs. "
            f"Chance gives 50 %.",
        ),
        Figure(
            "PR AUC",
            *of("pr_auc"),
            "Mean precision over all thresholds, weighted by the recall that each adds. Chance gives the churn rate.",
        ),
        Figure(
            "Brier score",
            *of("brier"),
            "Mean squared difference between score and outcome: 0 is perfect, and lower is better.",
        ),
        Figure(
            "Calibration error",
            *of("ece"),
            "Mean distance between score and churn rate over ten groups of equal size: 0 if 30 of 100 customers with a "
            "score of 30 % leave.",
        ),
        Figure(
            "Threshold",
            metrics.get("threshold"),
            None,
            "From this score on, the prediction is that the customer leaves.",
        ),
        Figure(
            "Precision",
            *of("precision"),
            f"Of 100 customers who are predicted to leave, {_of_hundred(known('precision'))} leave.",
        ),
        Figure(
            "Recall", *of("recall"), f"Of 100 customers who leave, {_of_hundred(known('recall'))} are predicted to."
        ),
    ]


def _of_hundred(share: float | None) -> str:
    return number(None if share is None else 100 * share)


# The evaluation on the test split


def _evaluation_values(report: Report | None, schema: CustomerSchema) -> dict[str, object]:
    if report is None:
        return {"report": None}
    slices = [model_charts.slice_row(row, schema) for row in report.slices]
    return {
        "report": report,
        "customers": sum(int(row["customers"]) for row in report.lift),
        "curves": [
            model_charts.reliability_chart(report.curves["reliability"]),
            model_charts.gain_chart(report.curves["gain"]),
            model_charts.lift_chart(report.lift),
            model_charts.roc_chart(report.curves["roc"]),
        ],
        "slices": slices,
        "slice_chart": model_charts.slice_chart(slices, report),
        "driver_charts": [
            model_charts.contribution_chart(report, schema),
            model_charts.permutation_chart(report, schema),
        ],
    }


# Drift


def _drift_values(
    visit: Visit, connection: psycopg.Connection, version: int, drift: Sequence[FeatureDrift], feature: str
) -> dict[str, object]:
    names = names_of(visit.schema)
    bounds = [
        Bound(visit.config.drift_shifted, f"shifted from {visit.config.drift_shifted:g}", "third"),
        Bound(visit.config.drift_far, f"far from {visit.config.drift_far:g}", "bad"),
    ]
    chosen = next((each for each in drift if each.feature == feature), None)
    references = model_references.find(connection, [version])
    return {
        "drift": drift,
        "names": names,
        "feature": feature,
        "feature_choices": [(each.feature, names.get(each.feature, label(each.feature))) for each in drift],
        "drift_shifted": visit.config.drift_shifted,
        "drift_far": visit.config.drift_far,
        "drift_chart": model_charts.drift_chart(drift, names, bounds),
        "drift_details": []
        if chosen is None
        else [
            model_charts.distribution_chart(chosen, references.get(version, {}).get(feature), names),
            model_charts.trend_chart(
                reading.psi_by_day(connection, version, [feature], days=DAYS)[feature], names[feature], bounds
            ),
        ],
    }


PAGES: Final[Sequence[Page]] = (Page("/model", read, label="Model"),)
