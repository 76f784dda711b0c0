"""The curves and tables of an evaluation are correct."""

import json

import pytest

from churn_platform.features.cleaning import clean
from churn_platform.modeling.report import Report
from churn_platform.modeling.reporting import make_report
from churn_platform.orchestration.assets.evaluation_metadata import charts, report_metadata
from churn_platform.orchestration.assets.svg import markdown_image
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned, inputs
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle

TRAIN, TEST = cleaned(), cleaned(1_000, seed=11)


@pytest.fixture(scope="module")
def report() -> Report:
    """The report of the small bundle."""
    return make_report(small_bundle(), TRAIN, TEST)


def test_tables_count_every_customer_once(report: Report) -> None:
    churners, called = int(TEST[BANK.target].sum()), small_bundle().score(inputs(TEST)) >= small_bundle().threshold

    leaves, stays = report.confusion
    assert int(leaves["left"]) + int(stays["left"]) == churners
    assert int(leaves["left"]) + int(leaves["stayed"]) == called.sum()
    assert sum(int(each["customers"]) for each in report.lift) == len(TEST)
    assert sum(int(each["customers"]) for each in report.slices if "Gender" in str(each["slice"])) == len(TEST)
    assert float(report.lift[0]["lift"]) > 1 > float(report.lift[-1]["lift"])


def test_curves_have_the_right_end_points(report: Report) -> None:
    assert (report.curves["roc"][0], report.curves["roc"][-1]) == ((0, 0), (1, 1))
    assert (report.curves["gain"][0], report.curves["gain"][-1]) == ((0, 0), (1, 1))
    found, precision = report.curves["precision_recall"][-1]
    assert found == 1
    assert TEST[BANK.target].mean() <= precision < 0.5, "whoever calls all churners calls many others"
    assert all(0 <= value <= 1 for points in report.curves.values() for point in points for value in point)


def test_both_measures_of_importance_agree_on_the_top_column(report: Report) -> None:
    assert set(report.contributions) == set(report.permutation) == set(BANK.feature_columns)
    assert next(iter(report.contributions)) in list(report.permutation)[:3]
    assert list(report.permutation.values()) == sorted(report.permutation.values(), reverse=True)


def test_slices_have_intervals_that_contain_their_roc_auc(report: Report) -> None:
    for each in report.slices:
        assert float(each["roc_auc_low"]) <= float(each["roc_auc"]) <= float(each["roc_auc_high"])


def test_baselines_have_the_same_metrics(report: Report) -> None:
    ours, forest, line = report.baselines

    assert set(ours) == set(forest) == set(line)
    assert 0.6 < float(line["roc_auc"]) < 1


def test_charts_are_short_enough_to_be_shown_inline(report: Report) -> None:
    for name, svg in charts(report).items():
        assert len(markdown_image(svg, name)) < 1_000
    assert set(report_metadata(report)) >= {
        "roc",
        "reliability",
        "confusion",
        "slices",
        "baselines",
        "permutation_importance",
    }


def test_is_the_same_after_it_was_stored_as_json(report: Report) -> None:
    assert Report.from_dict(json.loads(json.dumps(report.as_dict(), sort_keys=True))) == report


def test_a_report_of_another_schema_has_its_columns_and_segments() -> None:
    train, test = (clean(any_customers(SUBSCRIBERS, 600, seed=seed), SUBSCRIBERS) for seed in (5, 6))

    report = make_report(bundle_of(train, SUBSCRIBERS), train, test)

    assert set(report.contributions) == set(report.permutation) == set(SUBSCRIBERS.feature_columns)
    names = {str(each["slice"]) for each in report.slices}
    assert {"Plan other", "Payment method unknown", "Contract Two years", "MonthlyCharge 90 to 10,000"} <= names
    assert sum(int(each["customers"]) for each in report.slices if "Plan" in str(each["slice"])) == len(test)
