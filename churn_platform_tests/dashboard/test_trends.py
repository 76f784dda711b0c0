"""The page about trends."""

import csv
import io
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect

from churn_platform.alerts.conditions import CONDITIONS
from churn_platform.dashboard.formats import NOTHING, day
from churn_platform.dashboard.pages.trends import OUTAGES
from churn_platform.database import batch_hours, model_versions
from churn_platform.database.averages import averages
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors
from churn_platform_tests.dashboard.seeding import predictions, summarize
from churn_platform_tests.dashboard.site import Site
from churn_platform_tests.worker.ledger import FollowedLedger

HOUR = timedelta(hours=1)


def today(*, ago: int = 0) -> date:
    """Return the UTC day so many days ago."""
    return datetime.now(UTC).date() - timedelta(days=ago)


def this_hour(*, ago: int = 0) -> datetime:
    """Return the begin of the UTC hour so many hours ago."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - ago * HOUR


def add_hour(ledger: FollowedLedger, schema: CustomerSchema, *, ago: int, count: int, churned: int) -> None:
    """Add predictions to the sums of an hour, as a commit does."""
    sums = batch_hours.HourSums(
        hour_timestamp=this_hour(ago=ago),
        total_predictions=count,
        churn_count=churned,
        risk_sum=count * 0.25,
        high_risk_count=churned,
        averages={each.column: 0.0 for each in averages(schema)},
        known={each.column: 0 for each in averages(schema)},
    )
    batch_hours.add_sums(ledger.connection, schema, batch=ledger.batch, hours=[sums])


def add_drift(connection: psycopg.Connection, *, ago: int, feature: str, verdict: str = "far") -> None:
    """Record the drift of a feature on a day."""
    connection.execute(
        "insert into drift_daily (date, model_version, feature, sampled, weight, counts, outside, psi, p_value, "
        "verdict, missing_rate, out_of_range_rate, version) "
        "values (%s, 3, %s, 100, 1, '{100}', 0, 0.4, 0, %s, 0, 0, 1)",
        (today(ago=ago), feature, verdict),
    )


def add_condition(connection: psycopg.Connection, name: str, *, days_ago: float, minutes: int | None) -> None:
    """Record an operator condition that began some days ago and lasted some minutes; None if it has not ended."""
    began = datetime.now(UTC) - timedelta(days=days_ago)
    connection.execute(
        "insert into operator_conditions (name, subject, details, began, ended) values (%s, '', 'No answer.', %s, %s)",
        (name, began, None if minutes is None else began + timedelta(minutes=minutes)),
    )


def promote(connection: psycopg.Connection, version: int, *, days_ago: int) -> None:
    """Make a new version champion some days ago."""
    model_versions.register(connection, version=version, uri="/models", run_id=str(version), metrics={})
    model_versions.promote(connection, version, by="training", reason="it is better by 0.012.")
    connection.execute(
        "update model_promotions set promoted_at = now() - make_interval(days => %s) where version = %s",
        (days_ago, version),
    )


@pytest.fixture
def filled(ledger: FollowedLedger, connection: psycopg.Connection, bank_schema: CustomerSchema) -> None:
    """Some days of predictions."""
    ledger.commit(
        [
            *predictions(40, churned=10, high_risk=4),
            *predictions(60, churned=30, days_ago=2),
            *predictions(10, churned=8, days_ago=2, country="Germany"),
            *predictions(50, churned=5, days_ago=8),
            *predictions(40, churned=20, days_ago=20),
        ]
    )
    summarize(connection, bank_schema)


@pytest.mark.usefixtures("filled")
def test_days_have_their_rate_and_the_weighted_average_of_a_week(viewer: Site) -> None:
    rows = viewer.page("/trends?range=30").rows("By day, all customers")
    assert rows == [
        [day(today()), "40", "25.0 %", NOTHING, "43.6 %", "27.0 %", "4"],
        [day(today(ago=2)), "70", "54.3 %", NOTHING, "35.8 %", "20.0 %", "0"],
        [day(today(ago=8)), "50", "10.0 %", NOTHING, "10.0 %", "20.0 %", "0"],
        [day(today(ago=20)), "40", "50.0 %", NOTHING, "50.0 %", "20.0 %", "0"],
    ]


@pytest.mark.usefixtures("filled")
def test_the_figures_are_those_of_the_chosen_time(viewer: Site) -> None:
    month, week = viewer.page("/trends?range=30"), viewer.page("/trends?range=7")
    assert [page.figure("Predictions") for page in (month, week)] == ["200", "110"]
    assert [page.figure("Churn rate") for page in (month, week)] == ["36.5 %", "43.6 %"]
    assert month.figure("7-day average") == week.figure("7-day average") == "43.6 %"
    assert month.figure("Change of the average") == week.figure("Change of the average") == "+33.6 points"
    assert "more than chance explains" in week.text
    assert month.figure("High-risk predictions") == "4"


@pytest.mark.usefixtures("filled")
def test_a_segment_is_shown_alone(viewer: Site, connection: psycopg.Connection) -> None:
    connection.execute("update customer_segment_summary set customers = 30 where segments ->> 'geography' = 'Germany'")
    page = viewer.page("/trends?customers=geography:Germany")
    assert page.rows("By day, Germany") == [
        [f"{day(today(ago=2))} few", "10", "80.0 %", NOTHING, "80.0 %", "20.0 %", "0"]
    ]
    assert page.root.xpath("//option[@selected]/@value") == ["30", "geography:Germany"]


@pytest.mark.usefixtures("filled")
def test_the_retention_team_does_not_see_segments_of_few_customers(site: Site) -> None:
    page = site.page("/trends?customers=geography:Germany")
    assert "Germany has fewer than 30 customers." in page.text
    assert "Churn rate, all customers" in page.text
    assert "Germany" not in site.client.get("/trends.csv?customers=geography:Germany").text


@pytest.mark.usefixtures("filled")
def test_the_retention_team_sees_days_of_the_contact_arm_only(
    site: Site, viewer: Site, connection: psycopg.Connection
) -> None:
    sums = connection.execute(
        "select sum(total_predictions)::bigint, sum(high_risk_count)::bigint from prediction_summary "
        "where arm = 'contact'"
    ).fetchone()
    page = site.page("/trends?range=30")
    assert (int(page.figure("Predictions")), int(page.figure("High-risk predictions"))) == sums
    assert page.figure("Churn rate") != viewer.page("/trends?range=30").figure("Churn rate")
    assert site.client.get("/trends.csv").text != viewer.client.get("/trends.csv").text


@pytest.mark.usefixtures("filled")
def test_the_retention_team_sees_no_hours(site: Site) -> None:
    page = site.page("/trends?range=48h")
    assert page.root.xpath("//select[@name = 'range']/option/@value") == ["7", "30", "90"]
    assert "The retention team does not see hours, because their sums include the control group." in page.text
    assert "date_utc" in site.client.get("/trends.csv?range=48h").text


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("customers", ["geography:Narnia", "balance:1", "geography", ":"])
def test_customers_that_do_not_exist_are_not_shown_as_none(viewer: Site, customers: str) -> None:
    assert viewer.page(f"/trends?customers={customers}").figure("Predictions") == "200"


def test_hours_are_as_current_as_the_latest_commit(
    viewer: Site, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    add_hour(ledger, bank_schema, ago=0, count=100, churned=20)
    add_hour(ledger, bank_schema, ago=2, count=300, churned=120)
    ledger.next_batch()
    add_hour(ledger, bank_schema, ago=2, count=100, churned=20)
    add_hour(ledger, bank_schema, ago=60, count=100, churned=20)
    page = viewer.page("/trends?range=48h&customers=geography:Germany")
    assert [row[1:] for row in page.rows("By hour, all customers")] == [
        ["100", "20.0 %", NOTHING, "32.0 %", "25.0 %", "20"],
        ["400", "35.0 %", NOTHING, "35.0 %", "25.0 %", "140"],
    ]
    assert "Hours are not divided by segments: these are all customers, not Germany alone." in page.text
    assert page.figure("24-hour average") == "32.0 %"


@pytest.mark.usefixtures("filled")
def test_what_happened_is_listed_with_the_latest_first(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    promote(connection, 3, days_ago=9)
    promote(connection, 4, days_ago=40)
    for ago, feature in ((6, "Age"), (5, "Age"), (5, "risk_score"), (3, "NumOfProducts")):
        add_drift(connection, ago=ago, feature=feature)
    add_drift(connection, ago=4, feature="Age", verdict="shifted")
    add_condition(connection, "kafka-unreachable", days_ago=2, minutes=20)
    add_condition(connection, "stream-stalled", days_ago=1, minutes=None)
    add_condition(connection, "champion-old", days_ago=1, minutes=None)
    add_condition(connection, "stream-lag", days_ago=50, minutes=20)
    add_hour(ledger, bank_schema, ago=24 * 8, count=50, churned=5)
    add_hour(ledger, bank_schema, ago=24 * 8 - 1, count=50, churned=5)
    batch = ledger.batch
    ledger.next_batch()
    ledger.replay(bank_schema, batch, risks=[0.5])

    found = site.page("/trends?range=30").rows("What happened in the last 30 days")
    assert [row[1:] for row in found] == [
        ["Outage", "Stream stalled: No answer. It has not ended."],
        ["Outage", "Kafka unreachable: No answer. It lasted 20 min."],
        ["Drift", "Far from the training data of model version 3: Number of products. Details of Drift"],
        ["Drift", "Far from the training data of model version 3: Age, Risk score. Details of Drift"],
        [
            "Replay",
            f"The predictions of 1 batch were replaced on {day(today())} by those of model version 2. "
            "Details of Replay",
        ],
        [
            "New champion",
            "Model version 3 became champion after its training: it is better by 0.012. Details of New champion",
        ],
    ]
    assert found[3][0] == f"{day(today(ago=6))} to {day(today(ago=5))}"
    assert site.page("/trends?range=7").rows("What happened in the last 7 days") == found[:4]


def test_outages_are_conditions_that_the_worker_looks_for() -> None:
    assert {*OUTAGES} <= {condition.name for condition in CONDITIONS}


@pytest.mark.usefixtures("filled")
def test_the_file_has_every_day_of_the_range(viewer: Site) -> None:
    answer = viewer.client.get("/trends.csv?range=7")
    assert answer.headers["content-disposition"].startswith('attachment; filename="trends-20')
    rows = [*csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))]
    assert [row["date_utc"] for row in rows] == [today(ago=ago).isoformat() for ago in range(6, -1, -1)]
    assert [row["predictions"] for row in rows] == ["0", "0", "0", "0", "70", "0", "40"]
    assert rows[-1]["churn_rate_percent"] == "25.0"
    assert rows[0]["churn_rate_percent"] == ""


def test_an_empty_database_says_what_is_missing(site: Site) -> None:
    page = site.page("/trends?range=7")
    assert "No predictions of all customers in the last 7 days." in page.text
    assert "Nothing that would explain a change" in page.text
    assert page.figure("Churn rate") == NOTHING


@pytest.mark.usefixtures("filled")
def test_the_chart_marks_what_happened_and_follows_the_filter(
    window: BrowserContext, connection: psycopg.Connection
) -> None:
    promote(connection, 3, days_ago=9)
    page = window.new_page()
    errors = open_without_errors(page, "/trends")
    expect(page.locator("#plot-rate").get_by_text("model 3")).to_be_visible()
    page.get_by_role("combobox", name="Time").select_option("7 days")
    page.wait_for_url("**/trends?range=7")
    expect(page.locator("#plot-rate .main-svg").first).to_be_visible()
    expect(page.locator("#plot-rate").get_by_text("model 3")).to_have_count(0)
    assert errors == []


@pytest.mark.usefixtures("filled")
def test_everybody_can_use_the_filled_page(window: BrowserContext, connection: psycopg.Connection) -> None:
    promote(connection, 3, days_ago=2)
    page = window.new_page()
    errors = open_without_errors(page, "/trends?range=7")
    assert barriers(page) == []
    assert errors == []
