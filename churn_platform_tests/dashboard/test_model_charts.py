"""The charts of a model say the same in their sentence, in their table and in what is drawn."""

import json
from datetime import date
from typing import Any

import pytest

from churn_platform.dashboard import model_charts
from churn_platform.dashboard.charts import Bound, Chart
from churn_platform.database.model_references import StoredFeature
from churn_platform.database.pages.model import FeatureDrift
from churn_platform.monitoring.bins import bin_labels
from churn_platform_tests.dashboard import models
from churn_platform_tests.features.customers import BANK

DAY = date(2026, 11, 28)


def drawn(chart: Chart) -> Any:
    """Return what the browser gets."""
    return json.loads(chart.json)


def test_a_slice_has_the_name_of_its_column_as_people_write_it() -> None:
    names = [model_charts.slice_row(row, BANK).name for row in models.small_report().slices]
    assert {"Country: Germany", "Age: 18 to 29 years", "Number of products: 1"} <= set(names)


def test_intervals_are_drawn_from_each_value_to_its_ends() -> None:
    report = models.small_report()
    slices = [model_charts.slice_row(row, BANK) for row in report.slices]
    chart = model_charts.slice_chart(slices, report)
    (trace,) = drawn(chart)["data"]
    large = [each for each in slices if not each.is_small]
    assert trace["y"] == [each.name for each in large]
    for number, each in enumerate(large):
        value, errors = trace["x"][number], trace["error_x"]
        assert value - errors["arrayminus"][number] == pytest.approx(each.low)
        assert value + errors["array"][number] == pytest.approx(each.high)
        assert chart.rows[number] == [each.name, f"{each.roc_auc:.3f}", f"{each.low:.3f}", f"{each.high:.3f}"]
    worst = min(large, key=lambda each: each.roc_auc)
    assert f"worst in {worst.name}: {worst.roc_auc:.3f}" in chart.summary


def test_each_verdict_has_a_name_and_a_color_and_the_bounds_are_named() -> None:
    drift = [
        FeatureDrift(DAY, name, 2_000, 1.0, [1, 1], psi, 0.0, verdict, 0.0, 0.0)
        for name, psi, verdict in (("Balance", 0.4, "far"), ("Age", 0.2, "shifted"), ("Tenure", 0.01, "stable"))
    ]
    bounds = [Bound(0.1, "shifted from 0.1"), Bound(0.25, "far from 0.25")]
    chart = model_charts.drift_chart(drift, model_charts.names_of(BANK), bounds)
    figure = drawn(chart)
    colors = {trace["name"]: trace["marker"]["color"] for trace in figure["data"]}
    assert colors == {"Stable": "good", "Shifted": "third", "Far": "bad"}
    assert [(each["x0"], each["label"]["text"]) for each in figure["layout"]["shapes"]] == [
        (0.1, "shifted from 0.1"),
        (0.25, "far from 0.25"),
    ]
    assert "Far from it: 1 of 3; shifted: 1." in chart.summary


def test_a_distribution_names_its_largest_difference() -> None:
    reference: StoredFeature = {
        "counts": [50, 50, 0],
        "edges": [40.0],
        "categories": [],
        "span": [18.0, 92.0],
        "dates": False,
    }
    drift = FeatureDrift(DAY, "Age", 100, 1.0, [20, 70, 10], 0.3, 0.0, "far", 0.1, 0.0)
    chart = model_charts.distribution_chart(drift, reference, {})
    assert chart.header == ["Values", "In training", "Now"]
    assert chart.rows == [["below 40", "0.500", "0.200"], ["from 40", "0.500", "0.700"], ["missing", "0.000", "0.100"]]
    assert "The largest difference is at below 40: 50.0 % in training, 20.0 % on 28 Nov 2026." in chart.summary


def test_bins_have_as_few_digits_as_tell_them_apart() -> None:
    edges = [0.0178831, 0.0306168, 97_198.5, 97_231.5, 2_026_000.0]
    assert bin_labels(edges=edges, categories=[], dates=False)[:5] == [
        "below 0.01788",
        "0.01788 to 0.03062",
        "0.03062 to 97,200",
        "97,200 to 97,230",
        "97,230 to 2,026,000",
    ]
    assert bin_labels(edges=[0.0178831, 0.5], categories=[], dates=False)[0] == "below 0.0179"


def test_a_version_without_data_has_empty_charts() -> None:
    assert model_charts.live_chart([]).is_empty
    assert model_charts.trend_chart({}, "Age", [Bound(0.1, "shifted")]).is_empty
    assert model_charts.drift_chart([], {}, []).is_empty
    drift = FeatureDrift(DAY, "Age", 100, 1.0, [20, 70, 10], None, None, "no reference", 0.1, 0.0)
    assert model_charts.distribution_chart(drift, None, {}).is_empty
