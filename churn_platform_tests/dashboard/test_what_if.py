"""The page that calculates the risk of a customer with other values, by the prediction API."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pytest
from lxml import html
from playwright.sync_api import BrowserContext, expect

from churn_platform.api import tokens
from churn_platform.api.config import ApiConfig
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.formats import percent
from churn_platform.dashboard.what_if import fields_of
from churn_platform.local.stack import Stack
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.api.conftest import config_of as api_config_of
from churn_platform_tests.api.running import Api
from churn_platform_tests.api.running import serving as serving_api
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors
from churn_platform_tests.dashboard.site import PageOf, Site, serving
from churn_platform_tests.dashboard.summaries import as_viewer, summarize
from churn_platform_tests.stream.streams import register_champion
from churn_platform_tests.worker.ledger import FollowedLedger, Scored

CUSTOMER = 7


@pytest.fixture
def api_config(stack: Stack, database: str, bank_schema: CustomerSchema) -> ApiConfig:
    """A prediction API of the same database."""
    return api_config_of(stack, database, bank_schema)


@pytest.fixture
def api(api_config: ApiConfig, database: str, bundle_uri: str) -> Iterator[Api]:
    """A running prediction API with a champion."""
    register_champion(database, bundle_uri)
    with serving_api(api_config) as api:
        yield api


@pytest.fixture
def asking(config: DashboardConfig, api: Api) -> DashboardConfig:
    """The configuration of a dashboard that asks this API."""
    return replace(config, api_url=api.url)


@pytest.fixture
def site(asking: DashboardConfig) -> Iterator[Site]:
    """A dashboard of somebody who calls customers."""
    with serving(asking) as site:
        yield site


@pytest.fixture(autouse=True)
def filled(ledger: FollowedLedger, connection: psycopg.Connection, bank_schema: CustomerSchema) -> None:
    """A customer who may be called."""
    ledger.commit([Scored(CUSTOMER, 0.4, age=42.0, balance=1_000.5, country="Spain")])
    summarize(connection, bank_schema)


def own_values(site: Site) -> dict[str, str]:
    """Return what the form of the customer's page holds."""
    form = site.page(f"/customers/{CUSTOMER}").root.xpath("//form[@id = 'what-if-form']")[0]
    fields = {str(each.get("name")): str(each.get("value")) for each in form.xpath(".//input[@type != 'hidden']")}
    return fields | {
        str(each.get("name")): str(each.xpath(".//option[@selected]/@value")[0]) for each in form.xpath(".//select")
    }


def test_the_form_of_the_customers_page_has_the_own_values(site: Site) -> None:
    values = own_values(site)
    assert values["value-age"] == "42"
    assert values["value-balance"] == "1000.5"
    assert values["value-geography"] == "Spain"
    assert values["value-is_active_member"] == "1"


def test_the_risk_with_other_values_is_that_of_the_api(site: Site, asking: DashboardConfig, api: Api) -> None:
    changes = {"value-age": "70", "value-geography": "Germany"}
    page_of_form = f"/what-if/{CUSTOMER}"
    with as_viewer(asking) as viewer:
        answer = viewer.send(page_of_form, page=page_of_form, **{**own_values(site), **changes})

    assert answer.status_code == 200
    customer = {
        "CustomerId": CUSTOMER,
        "CreditScore": 600,
        "Geography": "Spain",
        "Gender": "Male",
        "Age": 42,
        "Tenure": 3,
        "Balance": 1000.5,
        "NumOfProducts": 1,
        "HasCrCard": 1,
        "IsActiveMember": 1,
        "EstimatedSalary": 0,
    }
    expected = api.post("/v1/what-if", {"customer": customer, "changes": {"Age": 70, "Geography": "Germany"}}).json()
    page = PageOf(html.fromstring(answer.text))
    assert page.figure("Risk as it is") == percent(expected["base"]["risk_score"])
    assert page.figure("Risk with the changes") == percent(expected["alternatives"][0]["risk_score"])
    assert page.rows("Changed values") == [["Country", "Spain", "Germany"], ["Age", "42 years", "70 years"]]
    for score in (expected["base"], expected["alternatives"][0]):
        strongest = max(score["reasons"], key=lambda reason: abs(reason["contribution"]))
        assert strongest["sentence"] in page.text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"value-age": "5"}, "Age: expected a number from 18 to 120 or null, got 5."),
        ({"value-age": "old"}, "Age: expected a number"),
        ({"value-balance": "inf"}, "Balance: expected a number"),
        ({"value-geography": "Narnia"}, "Geography: expected"),
        ({}, "Nothing was changed"),
    ],
)
def test_values_that_cannot_be_scored_are_refused_with_the_reason(
    site: Site, changes: dict[str, str], text: str
) -> None:
    page = f"/what-if/{CUSTOMER}"
    answer = site.send(page, page=page, **{**own_values(site), **changes})
    assert answer.status_code == 200
    assert text in answer.text
    assert all(f'value="{value}"' in answer.text for name, value in changes.items() if name != "value-geography")


def test_who_calls_customers_cannot_describe_another_customer(site: Site, asking: DashboardConfig) -> None:
    """Otherwise the form would tell the risk of anybody whose values one knows, also of the control group."""
    page = f"/what-if/{CUSTOMER}"
    changes = {"value-age": "70", "value-geography": "Germany", "value-balance": "0", "value-tenure": "9"}
    own = own_values(site)
    form = {**own, **changes}
    assert "4 values were changed, and at most 1 can be" in site.send(page, page=page, **form).text
    assert "Risk with the changes" in site.send(page, page=page, **{**own, "value-age": "70"}).text
    with as_viewer(asking) as viewer:
        assert "Risk with the changes" in viewer.send(page, page=page, **form).text


def test_controls_have_no_form_for_those_who_call_customers(
    site: Site, asking: DashboardConfig, connection: psycopg.Connection, bank_schema: CustomerSchema
) -> None:
    page, form = f"/what-if/{CUSTOMER}", own_values(site)
    token = site.page(page).value("token")
    summarize(connection, bank_schema, control_share=1.0)

    assert "what-if-form" not in site.client.get(f"/customers/{CUSTOMER}").text
    assert "control group" in site.page(page, status=403).text
    answer = site.client.post(page, data={**form, "token": token, "value-age": "70"}, headers={"origin": site.url})
    assert answer.status_code == 403
    assert "Risk" not in answer.text
    with as_viewer(asking) as viewer:
        assert "Risk with the changes" in viewer.send(page, page=page, **{**form, "value-age": "70"}).text


def test_a_form_of_another_site_is_refused(site: Site) -> None:
    form = {**own_values(site), "value-age": "70"}
    assert (
        site.client.post(f"/what-if/{CUSTOMER}", data=form, headers={"origin": "http://evil.test"}).status_code == 403
    )
    assert site.client.post(f"/what-if/{CUSTOMER}", data={**form, "token": "x"}).status_code == 403


def test_customers_without_values_are_not_found(site: Site) -> None:
    assert "No event of customer 99 was scored yet" in site.page("/what-if/99", status=404).text
    site.page("/what-if/x", status=404)


def test_without_an_api_there_is_no_form(config: DashboardConfig, api_config: ApiConfig) -> None:
    page = f"/what-if/{CUSTOMER}"
    with serving(config) as site:
        assert "what-if-form" not in site.client.get(f"/customers/{CUSTOMER}").text
        assert "DASHBOARD_API_URL" in site.send(page, page=page, **{"value-age": "70"}).text
    with serving(replace(config, api_url="http://127.0.0.1:1")) as site:
        assert "The prediction API does not answer" in site.send(page, page=page, **{"value-age": "70"}).text
    with serving_api(api_config) as api, serving(replace(config, api_url=api.url)) as site:
        assert "has no model yet" in site.send(page, page=page, **{"value-age": "70"}).text


def test_the_dashboard_has_a_token_where_the_api_needs_one(
    config: DashboardConfig, api_config: ApiConfig, database: str, bundle_uri: str, tmp_path: Path
) -> None:
    register_champion(database, bundle_uri)
    page, file = f"/what-if/{CUSTOMER}", tmp_path / "tokens"
    token, entry = tokens.new_token("dashboard", created=datetime.now(UTC), expires=None)
    tokens.write_tokens(file, {"dashboard": entry})
    with serving_api(replace(api_config, tokens_file=file)) as api:
        with serving(replace(config, api_url=api.url)) as site:
            assert "churn serve add-token dashboard" in site.send(page, page=page, **{"value-age": "70"}).text
        with serving(replace(config, api_url=api.url, api_token=token)) as site:
            assert "Risk with the changes" in site.send(page, page=page, **{"value-age": "70"}).text


def test_fields_follow_from_any_schema() -> None:
    columns = (
        Column(name="Id", kind="whole"),
        Column(name="Left", kind="flag"),
        Column(name="Since", kind="date", transforms=("days_since",), minimum=date(2000, 1, 1)),
        Column(
            name="Plan",
            kind="category",
            categories=("A", "B"),
            unknown="other",
            missing="category",
            transforms=("one_hot",),
        ),
        Column(name="Region", kind="category", categories=("N", "S"), segment=True),
        Column(name="Visits", kind="whole", missing="median", transforms=("value",), unit="visits"),
    )
    schema = CustomerSchema(name="gym", id="Id", target="Left", columns=columns)
    values = {"since": date(2020, 5, 1), "plan": "Z", "region": "N", "visits": None}

    since, plan, visits = fields_of(schema, values, {"value-visits": "3"})

    assert [(each.label, each.unit) for each in (since, plan, visits)] == [("Since", ""), ("Plan", ""), ("Visits", "")]
    assert (since.own, since.choices, since.value) == ("2020-05-01", [], "2020-05-01")
    assert [value for value, _ in plan.choices] == ["A", "B", "Z", "other", ""]
    assert (visits.own, visits.is_changed, visits.value) == ("", True, 3)


def test_everybody_can_use_it(window: BrowserContext) -> None:
    page = window.new_page()
    errors = open_without_errors(page, f"/customers/{CUSTOMER}")
    page.get_by_text("Calculate the risk with other values").click()
    assert barriers(page) == []
    page.get_by_label("Age (years)").fill("70")
    page.get_by_role("button", name="Calculate the risk").click()
    expect(page.get_by_text("Risk with the changes")).to_be_visible()
    assert barriers(page) == []
    assert errors == []
