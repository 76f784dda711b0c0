"""The page about the model."""

import re
from dataclasses import replace
from typing import Final

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect

from churn_platform.challengers.comparison import compare
from churn_platform.database import challengers, model_versions, shadow_predictions
from churn_platform_tests.dashboard import models
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors
from churn_platform_tests.dashboard.site import Site

RECORD_DRAWINGS: Final = """
    () => {
        window.drawings = [];
        window.drift = document.getElementById("plot-drift");
        const react = Plotly.react;
        Plotly.react = (place, ...figure) => {
            window.drawings.push(place.id);
            return react(place, ...figure);
        };
    }
"""


@pytest.fixture
def champion(connection: psycopg.Connection) -> None:
    """Version 2, which replaced version 1, with drift and live performance; version 3 was not evaluated yet."""
    for version in (1, 2):
        models.add_version(connection, version)
        model_versions.promote(connection, version, by="training", reason=f"Reason of version {version}.")
    models.add_version(connection, 3, is_evaluated=False)
    for days_ago in range(3):
        models.add_drift(connection, 2, days_ago=days_ago)
        models.add_live_performance(connection, 2, days_ago=days_ago)


def test_a_database_without_a_model_says_what_to_do(site: Site) -> None:
    assert "No model yet: run training_job" in site.page("/model").text


@pytest.mark.usefixtures("champion")
def test_a_version_that_does_not_exist_is_not_found(site: Site) -> None:
    assert "There is no model version 7. The newest is 3." in site.page("/model?version=7", status=404).text
    assert "There is no model version" in site.page("/model?version=x'y", status=404).text


@pytest.mark.usefixtures("champion")
def test_the_champion_is_good_with_the_numbers_behind_it(site: Site) -> None:
    page = site.page("/model")
    assert "Is the model still good? Yes. Version 2: it ranks customers about as well as in training" in page.text
    assert "The live ROC AUC is 0.861 ± 0.008 (standard error) over 3,412 predictions" in page.text
    assert page.figure("ROC AUC") == f"{models.small_metrics()['roc_auc']:.3f}"
    assert page.figure("PR AUC") == f"{models.small_metrics()['pr_auc']:.3f}"
    assert page.figure("Threshold") == f"{models.small_metrics()['threshold']:.3f}"


def test_drift_of_the_latest_day_is_named(site: Site, connection: psycopg.Connection) -> None:
    models.add_version(connection, 1)
    model_versions.promote(connection, 1)
    models.add_drift(connection, 1, older=9, days_ago=1)
    models.add_drift(connection, 1, days_ago=0, customers=100)  # too few, so the day before counts
    page = site.page("/model")
    assert "No. Version 1: its customers are far from the training data in Age." in page.text
    caption = f"Drift by feature on {models.day_text(days_ago=1)}"
    assert page.rows(caption)[0][:2] == ["Age", "far"]
    assert {row[1] for row in page.rows(caption)[1:]} == {"stable"}


@pytest.mark.usefixtures("champion")
def test_slices_and_confusion_count_all_customers(site: Site) -> None:
    page = site.page("/model")
    rows = page.rows("ROC AUC by group, with 95 % intervals")
    genders = [row for row in rows if row[0].startswith("Gender: ")]
    confusion = page.rows("Predictions and outcomes of the test split, at the threshold")
    customers = sum(int(row[1].replace(",", "")) for row in genders)
    assert customers == sum(int(cell) for row in confusion for cell in row[1:])
    assert f"({customers} customers)" in page.text
    small = [row for row in rows if int(row[1]) < 30]
    assert small
    assert all("(fewer than 30 customers: mostly chance)" in row[0] for row in small)


@pytest.mark.usefixtures("champion")
def test_promotions_say_who_when_and_why(site: Site) -> None:
    page = site.page("/model")
    latest, first = page.rows("Promotions, the latest first")
    assert latest[1:] == ["2", "a training, as the better model", "Reason of version 2."]
    assert first[1] == "1"
    states = {row[0]: row[1] for row in page.rows("Versions, the newest first")}
    assert states == {"3": "never promoted", "2": "champion", "1": "retired"}


@pytest.mark.usefixtures("champion")
def test_a_version_that_was_not_evaluated_has_only_its_figures_out_of_fold(site: Site) -> None:
    page = site.page("/model?version=3")
    assert "Is version 3 still good? Not known yet." in page.text
    assert "No curves of version 3" in page.text
    assert "No drift of version 3 yet" in page.text


@pytest.mark.usefixtures("champion")
def test_live_performance_of_each_version_is_beside_what_was_expected(
    site: Site, connection: psycopg.Connection
) -> None:
    models.add_live_performance(connection, 1, replace(models.LIVE, labelled=12), days_ago=40)
    latest, before = site.page("/model").rows("Live performance by version, on the latest day of each")
    assert latest[0] == "2"
    assert latest[2:5] == ["3,412", "0.861 ± 0.008", "0.867"]
    assert before[0] == "1"
    assert "fewer than 30 outcomes" in before[1]


@pytest.mark.usefixtures("champion")
def test_shadows_and_canaries_are_listed_and_a_shadow_is_compared(site: Site, connection: psycopg.Connection) -> None:
    assert "No version was tried on the stream" in site.page("/model").text
    shadow = challengers.start(connection, "shadow", model_version=3, share=0.2)
    challengers.record_followed(connection, shadow, events=1_500)
    canary = challengers.start(connection, "canary", model_version=3, share=0.1)
    challengers.end(connection, canary, by="rollback", reason="It failed to score 20 of its 100 events.")
    compared = compare(
        [(customer, 0.2, 0.3, True) for customer in range(10)],
        [(0.2, 0.3, customer % 2) for customer in range(10)],
        model_version=3,
        threshold=0.25,
    )
    assert compared is not None
    shadow_predictions.store_comparison(connection, 3, compared.as_dict())

    page = site.page("/model?version=3")

    listed = page.rows("The latest shadows and canaries")
    assert [row[1:6] for row in listed] == [
        ["canary", "3", "10.0 %", "0", "0"],
        ["shadow", "3", "20.0 %", "1,500", "0"],
    ]
    assert listed[0][6].startswith("rolled back")
    assert listed[0][7] == "It failed to score 20 of its 100 events."
    assert listed[1][6] == "active"
    assert "10 events of 10 customers were scored by both" in page.text
    assert "0 for version 3 only, 10 for the champion only" in page.text
    assert "has scored no event as a shadow" in site.page("/model?version=2").text


@pytest.mark.usefixtures("champion")
def test_links_lead_to_dagster(site: Site) -> None:
    links = site.page("/model").links()
    assert "http://127.0.0.1:3000/assets/drift_daily" in links
    assert "http://127.0.0.1:3000/assets/model_evaluation" in links


@pytest.mark.usefixtures("champion")
def test_choosing_a_feature_draws_its_distribution_and_no_chart_that_is_the_same(window: BrowserContext) -> None:
    page = window.new_page()
    errors = open_without_errors(page, "/model")
    for chart in ("drift", "distribution"):
        page.locator(f"#plot-{chart}").scroll_into_view_if_needed()
        expect(page.locator(f"#plot-{chart}[data-drawn]")).to_be_visible()
    page.evaluate(RECORD_DRAWINGS)
    page.locator("select[name=feature]").select_option("Tenure")
    expect(page.get_by_text("Time with the bank: in training and now").first).to_be_visible()
    page.locator("#plot-distribution").scroll_into_view_if_needed()
    expect(page.locator("#plot-distribution[data-drawn] .main-svg").first).to_be_visible()
    expect(page.locator("#plot-distribution")).to_have_attribute("aria-label", re.compile("^Time with the bank: "))
    drawings = page.evaluate("() => window.drawings")
    assert "plot-distribution" in drawings
    assert "plot-drift" not in drawings
    assert page.evaluate("() => window.drift.isConnected"), "its place is kept"
    assert "feature=Tenure" in page.url
    assert errors == []


@pytest.mark.usefixtures("champion")
def test_choosing_a_version_leads_to_an_address_that_can_be_shared(window: BrowserContext) -> None:
    page = window.new_page()
    errors = open_without_errors(page, "/model")
    page.locator("select[name=version]").select_option("1")
    expect(page.get_by_role("heading", name="Is version 1 still good?")).to_be_visible()
    assert page.url.endswith("/model?version=1")
    assert errors == []


@pytest.mark.usefixtures("champion")
def test_has_no_barriers(window: BrowserContext) -> None:
    page = window.new_page()
    errors = open_without_errors(page, "/model")
    page.locator("#plot-reliability").scroll_into_view_if_needed()
    expect(page.locator("#plot-reliability .main-svg").first).to_be_visible()
    assert barriers(page) == []
    assert errors == []
