"""The page about segments."""

import csv
import io
from dataclasses import replace

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.formats import NOTHING
from churn_platform.dashboard.segments import in_order, value_in_text, value_name
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.dashboard.accessibility import HEIGHT, PHONE, barriers, open_without_errors
from churn_platform_tests.dashboard.seeding import predictions, summarize
from churn_platform_tests.dashboard.site import Site, serving
from churn_platform_tests.worker.ledger import FollowedLedger

LAST_WEEK = 10
COUNTRY = Column(name="Country", kind="category", categories=("Spain", "France"), unknown="other", missing="category")
AGE = Column(name="Age", kind="number", unit="years", minimum=18, maximum=120, segment_bounds=(30, 60))
FLAG = Column(name="IsActive", kind="flag")
PRODUCTS = Column(name="NumOfProducts", label="Number of products", kind="whole")


@pytest.fixture
def filled(ledger: FollowedLedger, connection: psycopg.Connection, bank_schema: CustomerSchema) -> None:
    """Two weeks of three countries. Only the change in Germany is larger than chance explains."""
    ledger.commit(
        [
            *predictions(100, churned=20, high_risk=10),
            *predictions(100, churned=22, days_ago=LAST_WEEK),
            *predictions(60, churned=40, country="Germany", age=55.0, high_risk=30, balance=50_000.0),
            *predictions(60, churned=20, country="Germany", age=55.0, days_ago=LAST_WEEK),
            *predictions(20, churned=1, country="Spain", high_risk=1),
            *predictions(15, churned=0, country="Spain", age=25.0, days_ago=40),
        ]
    )
    summarize(connection, bank_schema)


@pytest.mark.usefixtures("filled")
def test_each_group_has_both_weeks_and_its_customers(viewer: Site) -> None:
    assert viewer.page("/segments").rows("Groups by Country") == [
        [
            *("France", "20.0 % of 100", "22.0 % of 100", "-2.0 points -13.3 to +9.3", "no"),
            *("27.0 %", "200", "10", "10.0 k EUR"),
        ],
        [
            *("Germany", "66.7 % of 60", "33.3 % of 60", "+33.3 points +15.5 to +48.3", "\u25b2 higher"),
            *("55.0 %", "120", "30", "1.5 M EUR"),
        ],
        [
            *("Spain", "5.0 % of 20", f"{NOTHING} of 0", NOTHING, "few predictions"),
            *("23.5 %", "35", "1", "1,000 EUR"),
        ],
    ]


@pytest.mark.usefixtures("filled")
def test_the_total_is_on_top(viewer: Site) -> None:
    page = viewer.page("/segments")
    assert page.figure("Money at risk") == "1.5 M EUR"
    assert page.figure("High-risk customers") == "41"
    assert page.figure("Churn rate this week") == "33.9 %"
    assert page.figure("Change against the week before") == "+7.6 points"
    assert "may be chance" in page.text


@pytest.mark.usefixtures("filled")
def test_the_worst_group_is_named(viewer: Site) -> None:
    worst = "predicted to leave, 2 times the average of 34 %."
    assert f"Germany: 67 % {worst}" in viewer.page("/segments").text
    assert f"Germany, Age 50 to 59 years: 67 % {worst}" in viewer.page("/segments?by=geography&and=age").text


@pytest.mark.usefixtures("filled")
def test_small_groups_are_grey_and_not_drawn(viewer: Site) -> None:
    page = viewer.page("/segments")
    (grey,) = page.root.xpath("//section[@id = 'groups']//tr[contains(@class, 'small-group')]")
    assert grey.text_content().split()[0] == "Spain"
    assert "Left out: 1 small group." in page.text
    assert page.root.xpath("//figure//tbody/tr/th/text()") == ["France", "Germany"]


@pytest.mark.usefixtures("filled")
def test_two_segments_are_crossed(site: Site, viewer: Site) -> None:
    path, caption = "/segments?by=geography&and=age", "Churn rate by Country and Age"
    assert viewer.page(path).rows(caption) == [
        ["France", f"{NOTHING}no customers", "20.0 %of 100", f"{NOTHING}no customers"],
        ["Germany", f"{NOTHING}no customers", f"{NOTHING}no customers", "66.7 %of 60"],
        ["Spain", f"{NOTHING}of 0", "5.0 %of 20", f"{NOTHING}no customers"],
    ]
    shades = viewer.page(path).root.xpath("//table[contains(@class, 'crossed')]//td/@class")
    assert [shade for shade in shades if shade != "small-group"] == ["shade-0", "shade-5"]
    assert site.page(path).rows(caption)[2] == [
        *("Spain", f"{NOTHING}few customers", f"{NOTHING}few customers", f"{NOTHING}no customers")
    ]
    assert viewer.page(f"{path}&show=money").rows("Money at risk by Country and Age")[1][3] == "1,500,000 EURof 120"


@pytest.mark.usefixtures("filled")
def test_the_retention_team_does_not_see_groups_of_few_customers(site: Site, viewer: Site) -> None:
    path, caption = "/segments?by=geography&and=age", "Groups by Country and Age"
    hidden = "Hidden: figures of fewer than 30 customers or predictions would show the risk of single customers."
    assert [row[:3] for row in site.page(path).rows(caption) if row[0] == "Spain"] == [
        ["Spain", "18 to 29 years", hidden],
        ["Spain", "40 to 49 years", hidden],
    ]
    assert hidden not in viewer.page(path).text
    assert "Spain" not in site.client.get("/segments.csv?by=geography&and=age").text
    assert "Spain" in viewer.client.get("/segments.csv?by=geography&and=age").text


@pytest.mark.usefixtures("filled")
def test_the_retention_team_does_not_see_the_mean_risk_of_few_predictions(site: Site, viewer: Site) -> None:
    (spain,) = (row for row in viewer.page("/segments").rows("Groups by Country") if row[0] == "Spain")
    assert spain[1:6] == ["5.0 % of 20", f"{NOTHING} of 0", NOTHING, "few predictions", "23.5 %"]
    (hidden,) = (row for row in site.page("/segments").rows("Groups by Country") if row[0] == "Spain")
    assert hidden[1].startswith("Hidden")
    assert "Spain" not in site.client.get("/segments.csv?by=geography").text


@pytest.mark.usefixtures("filled")
def test_what_the_retention_team_sees_of_all_customers_has_no_controls(
    site: Site, viewer: Site, connection: psycopg.Connection
) -> None:
    """Otherwise the difference to the list of customers would show which controls are at risk."""

    def sums(of: Site) -> tuple[int, float, int, float]:
        text = of.client.get("/segments.csv?by=geography").content.decode("utf-8-sig")
        (germany,) = (row for row in csv.DictReader(io.StringIO(text)) if row["geography"] == "Germany")
        customers, money = int(germany["high_risk_customers"]), float(germany["money_at_risk"])
        return customers, money, int(germany["predictions"]), round(float(germany["mean_risk_score"]), 6)

    listed = connection.execute("""
        select count(*) filter (where high_risk), sum(money_at_risk) filter (where high_risk),
            count(*) filter (where this_week), round(avg(risk_score::numeric) filter (where this_week), 6)::float8
        from (select *, event_timestamp > now() - interval '5 days' as this_week from customer_summary) as s
        where arm = 'contact' and segments ->> 'geography' = 'Germany'
    """).fetchone()
    assert sums(site) == listed
    assert sums(viewer)[:3] == (30, 1_500_000.0, 60)
    assert sums(site) != sums(viewer)


def test_customers_who_left_are_no_money_at_risk(
    viewer: Site, ledger: FollowedLedger, connection: psycopg.Connection, bank_schema: CustomerSchema
) -> None:
    events = ledger.commit(predictions(40, churned=40, high_risk=10, balance=1_000.0))
    connection.execute(
        "insert into customer_outcomes (topic_id, kafka_partition, kafka_offset, event_id, churned, outcome_timestamp) "
        "values ('outcomes', 0, 0, %s, 1, now())",
        (events[0],),
    )
    summarize(connection, bank_schema)

    page = viewer.page("/segments")
    assert page.figure("Money at risk") == "9,000 EUR"
    assert page.figure("High-risk customers") == "9"
    assert "of 40 customers" in page.text
    assert "9 customers" in viewer.page("/customers?band=high").text


@pytest.mark.usefixtures("filled")
def test_the_file_has_the_groups_with_all_figures(viewer: Site) -> None:
    answer = viewer.client.get("/segments.csv?by=geography")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"].startswith('attachment; filename="segments-20')
    rows = [*csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))]
    assert [row["geography"] for row in rows] == ["France", "Germany", "Spain"]
    assert {name: rows[1][name] for name in ("predictions", "churn_count", "customers", "money_at_risk")} == {
        "predictions": "60",
        "churn_count": "40",
        "customers": "120",
        "money_at_risk": "1500000.0",
    }
    assert rows[2]["change_points"] == ""


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("query", ["by=balance", "by=geography&and=geography", "by=&and=x&show=x"])
def test_what_cannot_be_chosen_is_ignored(viewer: Site, query: str) -> None:
    assert len(viewer.page(f"/segments?{query}").rows("Groups by Country")) == 3


@pytest.mark.usefixtures("filled")
def test_segments_lead_to_their_trend_and_to_their_customers(viewer: Site) -> None:
    links = viewer.page("/segments").links()
    assert {"/trends?customers=geography%3AGermany", "/customers?segment-geography=Germany&band=high"} <= {*links}
    assert "Churn rate, Germany" in viewer.page("/trends?customers=geography%3AGermany").text


def test_the_first_week_is_not_compared_and_the_page_says_so(
    viewer: Site, ledger: FollowedLedger, connection: psycopg.Connection, bank_schema: CustomerSchema
) -> None:
    ledger.commit(predictions(40, churned=10))
    summarize(connection, bank_schema)
    assert "There are no predictions of the week before" in viewer.page("/segments").text


@pytest.mark.usefixtures("filled")
def test_each_pair_of_segments_is_one_link_away(viewer: Site) -> None:
    page = viewer.page("/segments")
    assert "There are no predictions of the week before" not in page.text
    (address,) = page.root.xpath("//p[@id = 'pairs']/a[. = 'Country and age']/@href")
    assert viewer.page(str(address)).rows("Churn rate by Country and Age")


def test_an_empty_database_says_what_is_missing(site: Site) -> None:
    page = site.page("/segments")
    assert "There are no summaries yet." in page.text
    assert "No predictions in the last 14 days" in page.text
    assert page.figure("Churn rate this week") == NOTHING


def test_summaries_that_are_not_complete_are_announced(site: Site, connection: psycopg.Connection) -> None:
    connection.execute("insert into summary_state (definition, control_share) values ('', 0)")
    assert "The summaries are being computed since" in site.page("/segments").text


def test_a_schema_without_segments_or_money_has_totals_only(config: DashboardConfig) -> None:
    columns = tuple(replace(column, segment=False, money_at_risk=False) for column in config.schema.columns)
    with serving(replace(config, schema=replace(config.schema, columns=columns))) as site:
        text = site.page("/segments").text
        assert "The customer schema has no segments." in text
        assert "Money at risk" not in text
        assert site.client.get("/segments.csv").status_code == 200


def test_values_are_in_the_order_of_the_schema() -> None:
    assert in_order(COUNTRY, {"missing", "France", None, "other", "Spain"}) == [
        *("Spain", "France", "other", "missing", None)
    ]
    assert in_order(AGE, {"60 to 120", "missing", "below 30", "30 to 59"}) == [
        *("below 30", "30 to 59", "60 to 120", "missing")
    ]
    assert in_order(PRODUCTS, {"10", "2", "1"}) == ["1", "2", "10"]


@pytest.mark.parametrize(
    ("column", "value", "name", "text"),
    [
        (COUNTRY, "Spain", "Spain", "Spain"),
        (COUNTRY, "missing", "missing", "Country missing"),
        (AGE, "30 to 59", "30 to 59 years", "Age 30 to 59 years"),
        (AGE, "missing", "missing", "Age missing"),
        (FLAG, "1", "yes", "Is active yes"),
        (PRODUCTS, None, "not recorded", "Number of products not recorded"),
    ],
)
def test_values_can_stand_alone(column: Column, value: str | None, name: str, text: str) -> None:
    assert (value_name(column, value), value_in_text(column, value)) == (name, text)


@pytest.mark.usefixtures("filled")
def test_a_choice_applies_at_once(window: BrowserContext) -> None:
    page = window.new_page()
    errors = open_without_errors(page, "/segments")
    page.evaluate("() => { window.isSamePage = true; }")
    page.get_by_label("and by").focus()
    page.get_by_label("and by").select_option("Age")
    expect(page.get_by_role("heading", name="Churn rate by Country and Age")).to_be_visible()
    assert page.evaluate("() => window.isSamePage")  # Plotly is not loaded again
    expect(page.get_by_label("and by")).to_be_focused()
    page.get_by_label("Measure").select_option("Money at risk")
    expect(page.get_by_role("heading", name="Money at risk by Country and Age")).to_be_visible()
    page.wait_for_url("**/segments?by=geography&and=age&show=money")
    page.locator("#plot-groups").scroll_into_view_if_needed()
    expect(page.locator("#plot-groups .main-svg").first).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Churn rate by Country and Age")).to_be_visible()
    expect(page.get_by_label("Measure")).to_have_value("churn")
    assert errors == []


@pytest.mark.usefixtures("filled")
def test_on_a_phone_the_title_of_horizontal_bars_is_not_cut(window: BrowserContext) -> None:
    page = window.new_page()
    page.set_viewport_size({"width": PHONE, "height": HEIGHT})
    page.goto("/segments?by=geography&and=age")
    chart = page.locator("#plot-groups")
    chart.scroll_into_view_if_needed()
    title, whole = chart.locator(".xtitle").bounding_box(), chart.bounding_box()
    assert title is not None
    assert whole is not None
    assert whole["x"] <= title["x"]
    assert title["x"] + title["width"] <= whole["x"] + whole["width"]


@pytest.mark.usefixtures("filled")
def test_everybody_can_use_the_filled_page(window: BrowserContext) -> None:
    page = window.new_page()
    errors = open_without_errors(page, "/segments?by=geography&and=age")
    assert barriers(page) == []
    assert errors == []
