"""The charts of a model version: its curves, groups of customers, drivers, drift and live performance. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from churn_platform.dashboard.charts import (
    Axis,
    Bound,
    Chart,
    Color,
    Heading,
    Series,
    bar_chart,
    interval_chart,
    line_chart,
)
from churn_platform.dashboard.formats import day, label, number, percent
from churn_platform.dashboard.segments import value_name
from churn_platform.database.model_references import StoredFeature
from churn_platform.database.pages.model import FeatureDrift, LiveDay
from churn_platform.modeling.report import Points, Report, Row
from churn_platform.monitoring.bins import bin_labels
from churn_platform.monitoring.verdicts import NO_REFERENCE, SCORE, Z_95, Verdict
from churn_platform.schema.customer_schema import CustomerSchema

DAYS: Final = 90
"""Days that the charts over time show."""
SMALL_GROUP: Final = 30
"""With fewer customers, figures are mostly chance."""
UNIT: Final = (0.0, 1.0)
ROOM: Final = 1.15
"""How much higher a chart is than its greatest value, so that the text of a bound has room."""


@dataclass(frozen=True)
class SliceRow:
    """A group of customers on which the model was measured. Rates are in 0..1."""

    name: str
    customers: int
    churn_rate: float
    mean_risk: float
    roc_auc: float
    low: float
    high: float

    @property
    def is_small(self) -> bool:
        """Whether its figures are mostly chance."""
        return self.customers < SMALL_GROUP


def names_of(schema: CustomerSchema) -> dict[str, str]:
    """Return the name for people of each feature that is monitored, by its name in the tables."""
    return {SCORE: label(SCORE), **{name: column.title for name, column in schema.by_name.items()}}


def _with_diagonal(heading: Heading, points: Points, name: str, diagonal: str, *, x_title: str, y: str) -> Chart:
    x = [place for place, _ in points]
    series = [Series(name, [value for _, value in points]), Series(diagonal, x, "muted", is_dashed=True)]
    return line_chart(
        heading, x, series, x_title=x_title, y=Axis(y, ticks=".0%", range=UNIT, digits=3), x_range=UNIT, x_ticks=".0%"
    )


def reliability_chart(points: Points) -> Chart:
    """Return the churn rate by mean score."""
    worst = max(points, key=lambda each: abs(each[1] - each[0]), default=(0.0, 0.0))
    summary = (
        "Customers by score, in ten groups of equal size: on the diagonal as many left as predicted. Farthest from it "
        f"is the group with a mean score of {percent(worst[0])}, of whom {percent(worst[1])} left."
    )
    heading = Heading("reliability", "Reliability", summary)
    return _with_diagonal(
        heading, points, "Customers who left", "As predicted", x_title="Mean score", y="Churn rate of the group"
    )


def gain_chart(points: Points) -> Chart:
    """Return the share of the leavers by the share of the customers who are called."""
    found = next((recall for called, recall in points if called >= 0.2), None)
    summary = (
        f"Whoever calls the fifth of the customers with the highest scores reaches {percent(found, 0)} of those who "
        f"leave."
    )
    heading = Heading("gain", "Gain", summary)
    return _with_diagonal(
        heading, points, "By score", "At random", x_title="Share of customers called", y="Leavers reached"
    )


def roc_chart(points: Points) -> Chart:
    """Return recall by false positive rate."""
    _, found = min(points, key=lambda each: abs(each[0] - 0.1))
    summary = f"With one false alarm for each ten customers who stay, {percent(found, 0)} of those who leave are found."
    heading = Heading("roc", "ROC curve", summary)
    return _with_diagonal(
        heading, points, "By score", "At random", x_title="False positive rate", y="Recall (true positive rate)"
    )


def lift_chart(rows: Sequence[Row]) -> Chart:
    """Return how much more often than the average each tenth of the customers leaves."""
    first = float(rows[0]["lift"]) if rows else None
    summary = (
        f"The tenth of the customers with the highest scores leaves {number(first, 1)} times as often as the average."
    )
    return bar_chart(
        Heading("lift", "Lift", summary),
        [str(row["tenth"]) for row in rows],
        [Series("Lift", [float(row["lift"]) for row in rows])],
        x_title="Tenth, the highest scores first",
        y=Axis("times the average churn rate", digits=2),
        bounds=[Bound(1, "average")],
    )


def slice_row(row: Row, schema: CustomerSchema) -> SliceRow:
    """Return a slice of a report."""
    return SliceRow(
        name=_slice_name(str(row["slice"]), schema),
        customers=int(row["customers"]),
        churn_rate=float(row["churn_rate_percent"]) / 100,
        mean_risk=float(row["mean_risk_percent"]) / 100,
        roc_auc=float(row["roc_auc"]),
        low=float(row["roc_auc_low"]),
        high=float(row["roc_auc_high"]),
    )


def _slice_name(name: str, schema: CustomerSchema) -> str:
    """Return the name of a slice with its column as people write it. It begins with the column, then the value."""
    columns = [column for column in schema.segments if name.startswith(f"{column.name} ")]
    column = max(columns, key=lambda each: len(each.name), default=None)
    if column is None:
        return name
    return f"{column.title}: {value_name(column, name.removeprefix(column.name).strip())}"


def slice_chart(slices: Sequence[SliceRow], report: Report) -> Chart:
    """Return the ROC AUC of each group that is large enough, with its interval."""
    large = [each for each in slices if not each.is_small]
    worst = min(large, key=lambda each: each.roc_auc, default=None)
    overall = next((float(row["roc_auc"]) for row in report.baselines if row["model"] == "this model"), None)
    summary = (
        "No group has enough customers."
        if worst is None
        else f"Customers are ranked worst in {worst.name}: {number(worst.roc_auc, 3)}, with a 95 % interval of "
        f"{number(worst.low, 3)} to {number(worst.high, 3)}."
    )
    return interval_chart(
        Heading("slices", "ROC AUC by group of customers", summary),
        [each.name for each in large],
        Series("ROC AUC", [each.roc_auc for each in large]),
        lows=[each.low for each in large],
        highs=[each.high for each in large],
        x_title="Group",
        y=Axis("ROC AUC", digits=3),
        bounds=[] if overall is None else [Bound(overall, "all customers")],
    )


def contribution_chart(report: Report, schema: CustomerSchema) -> Chart:
    """Return how far each column moves the score."""
    names = names_of(schema)
    first = next(iter(report.contributions), None)
    summary = "How far each column moves the score of a customer, up or down, on average." + (
        "" if first is None else f" {names.get(first, label(first))} moves it most."
    )
    return _driver_chart(
        Heading("contributions", "Mean contribution", summary),
        report.contributions,
        names,
        Axis("contribution to the log-odds", digits=3),
    )


def permutation_chart(report: Report, schema: CustomerSchema) -> Chart:
    """Return how much worse the ranking is without each column."""
    summary = "How much worse the ranking becomes if the values of a column are exchanged among the customers."
    return _driver_chart(
        Heading("permutation", "Loss without the column", summary),
        report.permutation,
        names_of(schema),
        Axis("ROC AUC lost", digits=4),
    )


def _driver_chart(heading: Heading, values: Mapping[str, float], names: Mapping[str, str], y: Axis) -> Chart:
    return bar_chart(
        heading,
        [names.get(name, label(name)) for name in values],
        [Series(y.title, [*values.values()])],
        x_title="Column",
        y=y,
        is_flat=True,
    )


def drift_chart(drift: Sequence[FeatureDrift], names: Mapping[str, str], bounds: Sequence[Bound]) -> Chart:
    """Return the distance of each feature from the training data, with the bounds of the verdicts."""
    known = [each for each in drift if each.psi is not None and each.verdict != NO_REFERENCE]
    verdicts: tuple[tuple[str, str, Color], ...] = (
        (Verdict.STABLE, "Stable", "good"),
        (Verdict.SHIFTED, "Shifted", "third"),
        (Verdict.FAR, "Far", "bad"),
        (Verdict.TOO_FEW, "Too few predictions", "muted"),
    )
    summary = (
        f"Distance of each distribution from the training data on {day(known[0].date)} (UTC). {_drift_counts(known)}"
        if known
        else "No drift is known."
    )
    return bar_chart(
        Heading("drift", "Population stability index", summary),
        [names.get(each.feature, label(each.feature)) for each in known],
        [
            Series(text, [each.psi if each.verdict == verdict else None for each in known], color)
            for verdict, text, color in verdicts
            if any(each.verdict == verdict for each in known)
        ],
        x_title="Feature",
        y=Axis("PSI", digits=3),
        bounds=bounds,
        is_flat=True,
        is_stacked=True,
    )


def _drift_counts(known: Sequence[FeatureDrift]) -> str:
    far = sum(each.verdict == Verdict.FAR for each in known)
    shifted = sum(each.verdict == Verdict.SHIFTED for each in known)
    return f"Far from it: {far} of {len(known)}; shifted: {shifted}."


def distribution_chart(drift: FeatureDrift, reference: StoredFeature | None, names: Mapping[str, str]) -> Chart:
    """Return the share of the customers in each bin, in the training data and on the day of the drift.

    Args:
        drift: of a feature.
        reference: of the feature in the training data; None if it was not recorded.
        names: feature -> its name for people.
    """
    name = names.get(drift.feature, label(drift.feature))
    heading = f"{name}: in training and now"
    if reference is None:
        return bar_chart(
            Heading("distribution", heading, "The training data of this version was not recorded."),
            [],
            [],
            x_title="Values",
            y=Axis(),
        )
    labels = bin_labels(
        edges=reference["edges"],
        categories=reference["categories"],
        dates=reference["dates"],
    )
    training, now = sum(reference["counts"]) or 1, sum(drift.counts) or 1
    rows = [
        (text, before / training, after / now)
        for text, before, after in zip(labels, reference["counts"], drift.counts, strict=True)
        if before or after
    ]
    text, before, after = max(rows, key=lambda each: abs(each[2] - each[1]), default=("", 0.0, 0.0))
    summary = (
        f"The largest difference is at {text}: {percent(before)} in training, {percent(after)} on {day(drift.date)}."
    )
    return bar_chart(
        Heading("distribution", heading, summary),
        [each[0] for each in rows],
        [Series("In training", [each[1] for each in rows], "muted"), Series("Now", [each[2] for each in rows])],
        x_title="Values",
        y=Axis("share of customers", ticks=".0%", digits=3),
    )


def shadow_chart(comparison: Mapping[str, Any], version: int) -> Chart:
    """Return the distribution of the risk scores of a shadow and of the champion on the same events.

    Args:
        comparison: as shadow_comparisons stores it.
        version: of the shadow.
    """
    challenger, champion = (comparison[model]["counts"] for model in ("challenger", "champion"))
    width, events = 1 / len(champion), comparison["events"] or 1
    return bar_chart(
        Heading(
            "shadow",
            f"Risk scores of version {version} and of the champion",
            f"The mean is {percent(comparison['challenger']['mean'])} for version {version} and "
            f"{percent(comparison['champion']['mean'])} for the champion.",
        ),
        [f"{place * width:.2f} to {(place + 1) * width:.2f}" for place in range(len(champion))],
        [
            Series("Champion", [count / events for count in champion], "muted"),
            Series(f"Version {version}", [count / events for count in challenger]),
        ],
        x_title="Risk score",
        y=Axis("share of events", ticks=".0%", digits=3),
    )


def trend_chart(psi: Mapping[date, float], name: str, bounds: Sequence[Bound]) -> Chart:
    """Return the distance of a feature from the training data by day."""
    days = [*psi]
    summary = (
        f"{number(max(psi.values()), 2)} at most, and {number([*psi.values()][-1], 2)} on the latest day."
        if psi
        else f"Nothing was measured in the last {DAYS} days."
    )
    return line_chart(
        Heading("trend", f"{name}: PSI by day", summary),
        days,
        [Series("PSI", [*psi.values()])],
        x_title="Day (UTC)",
        y=Axis("PSI", digits=3, range=(0, ROOM * max([*psi.values(), *(each.value for each in bounds)]))),
        bounds=bounds,
    )


def live_chart(live: Sequence[LiveDay]) -> Chart:
    """Return the ROC AUC of a version by day, with its 95 % interval and the expected one."""
    known = [each for each in live if each.roc_auc is not None]
    latest = known[-1] if known else None
    summary = (
        f"No outcome became known in the last {DAYS} days."
        if latest is None
        else f"{number(latest.roc_auc, 3)} over the {latest.window_days} days to {day(latest.date)}; "
        f"{number(latest.expected_roc_auc, 3)} was expected."
    )

    def bound(sign: int) -> list[float | None]:
        return [
            None
            if each.roc_auc is None or each.roc_auc_error is None
            else min(1.0, max(0.0, each.roc_auc + sign * Z_95 * each.roc_auc_error))
            for each in known
        ]

    return line_chart(
        Heading("live", "Live ROC AUC by day", summary),
        [each.date for each in known],
        [
            Series("Live", [each.roc_auc for each in known]),
            Series("Expected from training", [each.expected_roc_auc for each in known], "second", is_dashed=True),
            Series("95 % interval from", bound(-1), "muted", is_dashed=True),
            Series("95 % interval to", bound(1), "muted", is_dashed=True),
        ],
        x_title="Last day of the window (UTC)",
        y=Axis("ROC AUC", digits=3),
    )
