"""The page of one customer: scores, reasons, values, events, cases and outcomes; and no risk of the control group."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect
from psycopg.types.json import Jsonb

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors
from churn_platform_tests.dashboard.site import Site, serving
from churn_platform_tests.dashboard.summaries import add_case, as_viewer, summarize
from churn_platform_tests.worker.ledger import FollowedLedger, Scored
from churn_platform_tests.worker.teams import new_team

HOUR = timedelta(hours=1)


def test_shows_scores_values_and_events(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.5, ago=2 * HOUR), Scored(2, 0.9), Scored(1, 0.75, age=None, balance=125_510.4)])
    summarize(connection, bank_schema)

    page = site.page("/customers/1")

    assert page.figure("Risk score") == "75.0 %"
    assert page.figure("Change") == "↗ +25.0"
    assert page.figure("Money at risk") == "125,510 EUR"
    assert page.figure("Predictions") == "2"
    assert "2 scores from 50.0 % to 75.0 %; 1 of them high risk." in page.text
    values = {row[0]: row[1] for row in page.rows("Values at the latest event")}
    assert [each for name, each in values.items() if name.startswith("Age")] == ["unknown"]
    assert [each for name, each in values.items() if name.startswith("Balance")] == ["125,510 euros"]
    assert [each for name, each in values.items() if name.startswith("Active member")] == ["yes"]
    assert [row[1:] for row in page.rows("Events")] == [
        ["75.0 %", "high", "1", "0", "2", "batch-001"],
        ["50.0 %", "medium", "1", "0", "0", "batch-001"],
    ]
    assert "http://127.0.0.1:3000/assets/churn_predictions?view=partitions&partition=batch-001" in page.links()


def test_explains_the_latest_event(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.9)], explained=True)
    summarize(connection, bank_schema)

    page = site.page("/customers/1")

    assert "Balance of 125,510 euros raises the risk. Active member: no, which raises the risk." in page.text
    cells = [
        [each.text_content() for each in row] for row in page.root.xpath("//figure[@id='chart-reasons']//tbody/tr")
    ]
    assert cells == [
        ["Balance: 125,510 euros", "1.20"],
        ["Time with the bank: 3 years", "-0.40"],
        ["Active member: no", "0.30"],
        ["All of these", "1.10"],
    ]
    assert "These are the reasons of an earlier event" not in page.text


def test_says_why_there_are_no_reasons(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.2), Scored(2, 0.9)])
    ledger.commit([Scored(3, 0.8, ago=HOUR)], explained=True)
    ledger.commit([Scored(3, 0.2)])
    summarize(connection, bank_schema)

    assert "they are stored for events of high risk, and this customer had none" in site.page("/customers/1").text
    assert "The reasons of the latest event follow in moments." in site.page("/customers/2").text
    earlier = site.page("/customers/3").text
    assert "These are the reasons of an earlier event" in earlier
    assert "80.0 %, because reasons are stored only for events of high risk" in earlier


def test_shows_cases_their_changes_and_outcomes(
    site: Site, connection: psycopg.Connection, bank_schema: CustomerSchema
) -> None:
    team = new_team(connection, bank_schema)
    team.commit(Scored(1, 0.9, ago=HOUR))
    summarize(connection, bank_schema)
    team.set_status(1, "contacted", owner="erika")
    connection.execute("update retention_cases set notes = 'Wants <b>better</b> terms.'")
    (event,) = connection.execute("select event_id from churn_predictions where customer_id = 1").fetchone() or ()
    for number, (event_id, customer, left) in enumerate([(event, None, 0), (None, 1, 1), (None, 2, 1)]):
        connection.execute(
            "insert into customer_outcomes (topic_id, kafka_partition, kafka_offset, event_id, customer_id, churned, "
            "outcome_timestamp) values ('outcomes', 0, %s, %s, %s, %s, now() + %s * interval '1 minute')",
            (number, event_id, customer, left, number),
        )

    page = site.page("/customers/1")

    assert "Case 1 contacted" in page.text
    assert "/calls/1" in page.links()
    assert "Owner: erika." in page.text
    assert "Wants <b>better</b> terms." in page.text
    assert page.rows("Changes of case 1")[0][2:] == ["contacted", "Wants <b>better</b> terms."]
    assert [row[1:3] for row in page.rows("Outcomes")] == [["left", "the customer"], ["stayed", "one event"]]


def test_links_to_the_crm(
    config: DashboardConfig, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.9)])
    summarize(connection, bank_schema)

    with serving(replace(config, customer_url="https://crm.example.com/c/{customer_id}")) as site:
        assert "https://crm.example.com/c/1" in site.page("/customers/1").links()
    with serving(replace(config, dagster_url="")) as site:
        assert not any(link.startswith("http") for link in site.page("/customers/1").links())


def test_whoever_calls_customers_learns_no_risk_of_the_control_group(
    config: DashboardConfig, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.5, ago=HOUR)])
    ledger.commit([Scored(1, 0.875)], explained=True)
    summarize(connection, bank_schema, control_share=1.0)
    add_case(connection, 1, arm="control")

    with serving(config) as site:
        answer = site.client.get("/customers/1").text
        page = site.page("/customers/1")
        assert "This customer is in the control group" in page.text
        assert [row[1:] for row in page.rows("Events")] == [["1", "0", "1", "batch-001"], ["1", "0", "0", "batch-001"]]
        for secret in ("87.5", "0.875", "50.0", "37.5", "raises the risk", "high", "Case 1", "plot-"):
            assert secret not in answer
    with as_viewer(config) as site:
        page = site.page("/customers/1")
        assert page.figure("Risk score") == "87.5 %"
        assert "Case 1 open control arm" in page.text


@pytest.mark.parametrize("arm", ["contact", "control"])
def test_an_open_case_of_the_control_group_hides_the_risk_when_the_share_changes(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema, arm: str
) -> None:
    ledger.commit([Scored(1, 0.9)])
    summarize(connection, bank_schema)
    add_case(connection, 1, arm=arm)

    assert ("control group" in site.page("/customers/1").text) == (arm == "control")


def test_a_closed_case_of_the_control_group_is_not_shown_to_those_who_call_customers(
    config: DashboardConfig, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.9)])
    summarize(connection, bank_schema)
    add_case(connection, 1, arm="control")
    connection.execute("update retention_cases set status = 'expired', closed_at = now()")

    with serving(config) as site:
        page = site.page("/customers/1")
        assert page.figure("Risk score") == "90.0 %"
        assert "Case 1" not in page.text
    with as_viewer(config) as site:
        assert "Case 1" in site.page("/customers/1").text


def test_a_customer_of_a_scored_file_has_a_page_without_any_event(
    config: DashboardConfig, connection: psycopg.Connection
) -> None:
    connection.execute(
        "insert into customer_file_scores (customer_id, risk_score, model_version, scored_at, credit_score, geography, "
        "gender, age, tenure, balance, num_of_products, has_cr_card, is_active_member, estimated_salary, reasons) "
        "values (7, 0.8125, 3, %s, 600, 'Spain', 'Male', 40, 3, 0, 1, 1, 1, 0, %s)",
        (datetime.now(UTC), Jsonb([{"feature": "Age", "value": 40.0, "contribution": 0.5}])),
    )

    with as_viewer(config) as site:
        page = site.page("/customers/7")
        assert page.figure("Score of the latest file") == "81.2 %"
        assert "Age of 40 years raises the risk" in page.text
        assert "No event of this customer was scored yet." in page.text
    with serving(config) as site:  # nothing says that the customer is not in the control group
        assert "81.2" not in site.client.get("/customers/7").text


def test_says_which_events_are_archived(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.5, ago=HOUR)])
    first = ledger.batch
    ledger.next_batch()
    ledger.commit([Scored(1, 0.6)])
    summarize(connection, bank_schema)
    connection.execute("delete from churn_predictions where batch = %s", (first,))
    assert "The latest 1 of 2 events; older ones are archived." in site.page("/customers/1").text

    connection.execute("delete from churn_predictions")
    page = site.page("/customers/1")
    assert page.figure("Risk score") == "60.0 %"
    assert "The batch of the latest event is archived" in page.text


def test_an_event_is_shown_before_the_worker_has_followed_it(config: DashboardConfig, ledger: FollowedLedger) -> None:
    ledger.commit([Scored(1, 0.5)])

    with as_viewer(config) as site:
        assert [row[1] for row in site.page("/customers/1").rows("Events")] == ["50.0 %"]


@pytest.mark.parametrize(
    ("customer", "expected"),
    [
        ("5", "No customer 5 is known: no event with this id was scored"),
        ("abc", "'abc' cannot be the id of a customer: CustomerId is a whole number."),
        ("9" * 40, "cannot be the id of a customer"),
        ("1/2", "'1/2' cannot be the id of a customer"),
    ],
)
def test_says_that_a_customer_is_unknown(site: Site, customer: str, expected: str) -> None:
    assert expected in site.page(f"/customers/{customer}", status=404).text


def test_draws_both_charts_without_barriers(
    window: BrowserContext, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.5, ago=HOUR), Scored(1, 0.9)], explained=True)
    summarize(connection, bank_schema)
    page = window.new_page()
    errors = open_without_errors(page, "/customers/1")

    expect(page.locator("#plot-history .main-svg").first).to_be_visible()
    expect(page.locator("#plot-reasons .main-svg").first).to_be_visible()
    assert barriers(page) == []
    assert errors == []
