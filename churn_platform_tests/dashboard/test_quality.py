"""The page about data quality."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.database import model_versions, operator_conditions, stored_outcomes, stream_lag
from churn_platform_tests.dashboard import models
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors
from churn_platform_tests.dashboard.seeding import MESSAGE, add_dead_letters
from churn_platform_tests.dashboard.site import Site, serving
from churn_platform_tests.worker.ledger import TOPIC_ID, FollowedLedger

RUN = "5f0c9f7e-65a8-4b2c-9d0a-2f0a8f1b9d55"
EXPECTED_AGE = "Age: expected a number from 18 to 120 years, or null, got "


@pytest.fixture
def dead_letters(connection: psycopg.Connection, ledger: FollowedLedger) -> None:
    """Ten dead letters of the last hour with two reasons but for the values, and one of three days ago."""
    stream_lag.record(connection, waiting=0, problem="")
    add_dead_letters(
        connection, ledger, [*(f"{EXPECTED_AGE}{age}" for age in range(200, 207)), *(["CustomerId is missing"] * 3)]
    )
    add_dead_letters(connection, ledger, ["too old"], ago=timedelta(days=3), first=10, retried=True)


def test_an_empty_database_says_what_is_missing(site: Site) -> None:
    page = site.page("/quality")
    assert "Nothing was read in the last 24 hours" in page.text
    assert "No rates yet" in page.text
    assert "Not up to date: Resident worker." in page.text
    assert "Not known: the resident worker reads the checks, and it is silent." in page.text
    assert "/assets/quarantined_customers" in " ".join(page.links())


@pytest.mark.usefixtures("dead_letters")
def test_dead_letters_are_counted_by_reason_with_their_values_folded(site: Site) -> None:
    page = site.page("/quality")
    assert (page.figure("Events"), page.figure("Dead letters"), page.figure("Open")) == ("1,000", "10", "10")
    rows = page.rows("Dead letters by reason")
    assert [row[:4] for row in rows] == [
        [f"{EXPECTED_AGE}…", "7", "70.0 %", "7"],
        ["CustomerId is missing", "3", "30.0 %", "3"],
    ]
    assert rows[0][5].startswith(f"{EXPECTED_AGE}20")
    assert "Yes. Few events are dead letters" in page.text


@pytest.mark.usefixtures("dead_letters")
def test_a_longer_time_has_the_older_ones_too(site: Site) -> None:
    page = site.page("/quality?period=7d")
    assert (page.figure("Events"), page.figure("Dead letters")) == ("1,991", "11")
    assert (page.figure("Open"), page.figure("Retried")) == ("10", "1")


@pytest.mark.usefixtures("dead_letters")
def test_many_dead_letters_are_a_problem(site: Site, connection: psycopg.Connection, ledger: FollowedLedger) -> None:
    add_dead_letters(connection, ledger, ["not JSON"] * 40, ago=timedelta(minutes=10), first=20)
    assert "2.5 % of the events are dead letters" in site.page("/quality").text


@pytest.mark.usefixtures("dead_letters")
def test_a_list_of_a_reason_leads_to_each_message_and_shows_none(site: Site) -> None:
    kinds = [link for link in site.page("/quality").links() if "kind=" in link]
    page = site.page(kinds[0])
    rows = page.rows(f"Latest dead letters with the reason “{EXPECTED_AGE}…”")
    assert len(rows) == 7
    assert {row[2] for row in rows} == {"open"}
    assert "secret" not in page.text
    assert f"/quality/dead-letters/{TOPIC_ID}/0/6" in page.links()


@pytest.mark.usefixtures("dead_letters")
def test_a_topic_id_may_have_a_slash(site: Site, connection: psycopg.Connection) -> None:
    """Kafka writes ids of topics in base64, as 832ZIdQ5S/Wv0jYXqTkZAw."""
    topic_id = "832ZIdQ5S/Wv0jYXqTkZA+"
    connection.execute("insert into stream_topics (topic_id, topic) values (%s, 'recreated')", (topic_id,))
    connection.execute("update dead_letter_events set topic_id = %s", (topic_id,))
    kinds = [link for link in site.page("/quality").links() if "kind=" in link]
    links = [link for link in site.page(kinds[0]).links() if "/dead-letters/" in link]
    assert len(links) == 7
    assert EXPECTED_AGE in site.page(links[0]).text


@pytest.mark.usefixtures("dead_letters")
def test_the_retention_role_sees_no_message(site: Site) -> None:
    page = site.page(f"/quality/dead-letters/{TOPIC_ID}/0/6")
    assert f"{EXPECTED_AGE}206" in page.text
    assert "secret" not in page.text
    assert "The role retention does not see messages" in page.text


@pytest.mark.usefixtures("dead_letters")
def test_a_viewer_sees_the_message(config: DashboardConfig) -> None:
    with serving(replace(config, proxy="127.0.0.1")) as site:
        site.client.headers[config.proxy_header] = "somebody"
        page = site.page(f"/quality/dead-letters/{TOPIC_ID}/0/6")
        assert MESSAGE in page.text
        assert "secret" not in site.page("/quality").text


@pytest.mark.usefixtures("dead_letters")
def test_a_dead_letter_that_does_not_exist_is_not_found(site: Site) -> None:
    assert "no dead letter at offset 99" in site.page(f"/quality/dead-letters/{TOPIC_ID}/0/99", status=404).text
    site.page(f"/quality/dead-letters/{TOPIC_ID}/0/{10**30}", status=404)


def test_missing_and_unusual_values_are_beside_the_day_before_and_the_training(
    site: Site, connection: psycopg.Connection
) -> None:
    models.add_version(connection, 1)
    model_versions.promote(connection, 1)
    models.add_drift(connection, 1, days_ago=2)
    models.add_drift(connection, 1, missing_ages=0.3)
    page = site.page("/quality")
    first, *others = page.rows("Missing and unusual values by column")
    in_training = models.small_reference().features["Age"].missing_rate
    assert first[0] == "Age"
    assert first[1].startswith("✗ 3")
    assert first[3] == f"{100 * in_training:.2f} %"
    assert all(not row[1].startswith(("✗", "!")) for row in others)
    assert first[6] == "6,000"
    assert "More values than in training are missing in Age." in page.text


@pytest.mark.usefixtures("ledger")
def test_freshness_names_what_is_late(site: Site, connection: psycopg.Connection) -> None:
    stream_lag.record(connection, waiting=500, problem="")
    connection.execute("update stream_batches set last_commit = now() - interval '1 hour'")
    connection.execute("insert into dirty_hours select now() - n * interval '1 hour', 1 from generate_series(1, 5) n")
    page = site.page("/quality")
    states = {row[0]: row[1] for row in page.rows("The latest data of each part")}
    assert states["Stream"] == states["Hourly metrics"] == "✗ late"
    assert states["Resident worker"] == "✓ fine"
    assert states["Outcomes"] == "nothing yet"
    assert "Not up to date: Stream, Hourly metrics." in page.text


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(("age", "state"), [("4 minutes", "✓ fine"), ("20 minutes", "✗ late")])
def test_hours_that_still_change_are_late_only_if_nobody_updates_them(
    site: Site, connection: psycopg.Connection, age: str, state: str
) -> None:
    connection.execute("insert into dirty_hours select now() - n * interval '1 hour', 2 from generate_series(1, 5) n")
    connection.execute(
        "insert into churn_metrics_hourly (hour_timestamp, total_predictions, churn_count, high_risk_count, "
        "age_count, version, updated_at) select hour_timestamp, 1, 0, 0, 1, 1, now() - %s::interval from dirty_hours",
        (age,),
    )
    states = {row[0]: row[1] for row in site.page("/quality").rows("The latest data of each part")}
    assert states["Hourly metrics"] == state


def test_failed_checks_lead_to_dagster(site: Site, connection: psycopg.Connection) -> None:
    stream_lag.record(connection, waiting=0, problem="")
    assert "No asset check fails" in site.page("/quality").text
    operator_conditions.begin(
        connection,
        name="check-failed",
        subject="drift_Age of drift_daily",
        details=f"It failed in run {RUN}.",
        at=datetime.now(UTC),
    )
    page = site.page("/quality")
    (row,) = page.rows("Asset checks whose latest execution failed as an error")
    assert (row[0], row[1], row[3]) == ("drift_Age", "drift_daily", RUN[:8])
    assert f"http://127.0.0.1:3000/runs/{RUN}" in page.links()


def test_refused_outcomes_are_counted(site: Site, connection: psycopg.Connection) -> None:
    stored_outcomes.insert_refused(
        connection,
        [(TOPIC_ID, 0, number, "churned is missing", b"{}") for number in range(4)],
    )
    assert site.page("/quality").rows("Refused outcomes: 4 in the last 24 hours") == [["churned is missing", "4"]]


@pytest.mark.usefixtures("dead_letters")
def test_a_reason_opens_its_list(window: BrowserContext) -> None:
    page = window.new_page()
    errors = open_without_errors(page, "/quality")
    page.get_by_role("link", name="CustomerId is missing").click()
    expect(page.get_by_text("Latest dead letters with the reason “CustomerId is missing”")).to_be_visible()
    page.get_by_role("link", name="events[0]@9").click()
    expect(page.get_by_role("heading", level=1, name="Dead letter events[0]@9")).to_be_visible()
    assert errors == []


@pytest.mark.usefixtures("dead_letters")
def test_has_no_barriers(window: BrowserContext, connection: psycopg.Connection) -> None:
    models.add_version(connection, 1)
    model_versions.promote(connection, 1)
    models.add_drift(connection, 1, missing_ages=0.3)
    page = window.new_page()
    errors = open_without_errors(page, "/quality?period=7d&kind=CustomerId+is+missing")
    page.locator("#plot-dead-letters").scroll_into_view_if_needed()
    expect(page.locator("#plot-dead-letters .main-svg").first).to_be_visible()
    assert barriers(page) == []
    page.goto(f"/quality/dead-letters/{TOPIC_ID}/0/6")
    assert barriers(page) == []
    assert errors == []
