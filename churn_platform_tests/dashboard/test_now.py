"""The page about the present."""

from collections.abc import Mapping

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.formats import NOTHING
from churn_platform.dashboard.pages.now import Comparison, compare_days
from churn_platform.database import stream_lag
from churn_platform.database.pages.now import Day
from churn_platform.database.stream_minutes import LATENCY_BOUNDS_MS
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.dashboard.seeding import predictions, summarize
from churn_platform_tests.dashboard.site import Site, serving
from churn_platform_tests.dashboard.summaries import as_viewer
from churn_platform_tests.worker.ledger import FollowedLedger


def test_an_empty_database_is_shown_as_such(site: Site) -> None:
    page = site.page("/now")
    assert page.figure("Predictions today") == "0"
    assert page.figure("Churn rate today") == NOTHING
    assert page.figure("Lag") == NOTHING
    assert "The resident worker is silent" in page.text


def test_shows_the_lag_that_the_worker_found_last(site: Site, connection: psycopg.Connection) -> None:
    stream_lag.record(connection, waiting=12_345, problem="")
    page = site.page("/now")
    assert page.figure("Lag") == "12,345"
    assert "12,345 events wait" in page.text
    assert "Everything works" in page.text
    stream_lag.record(connection, waiting=1, problem="")
    assert "1 event waits" in site.page("/now").text


def test_the_retention_team_sees_predictions_of_the_contact_arm_only(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit(predictions(100, churned=40, high_risk=20))
    summarize(connection, bank_schema)
    (sums,) = connection.execute(
        "select sum(total_predictions)::bigint, sum(high_risk_count)::bigint from prediction_summary "
        "where arm = 'contact'"
    ).fetchall()
    page = site.page("/now")
    assert (int(page.figure("Predictions today")), int(page.figure("High-risk predictions today"))) == sums
    assert 0 < sums[0] < 100
    assert "leave out the control group" in page.text


def add_minute(connection: psycopg.Connection, *, ago: int, latencies: Mapping[int, int]) -> None:
    """Count the predictions of a minute by their latencies: how many are in each place between LATENCY_BOUNDS_MS."""
    counts = [latencies.get(place, 0) for place in range(len(LATENCY_BOUNDS_MS) + 1)]
    connection.execute(
        "insert into stream_minutes (minute, predictions, dead_letters, latency_counts) "
        "values (date_trunc('minute', now()) - %s * interval '1 minute', %s, 0, %s)",
        (ago, sum(counts), counts),
    )


def test_events_that_were_sent_late_are_counted_beside_the_latency(site: Site, connection: psycopg.Connection) -> None:
    add_minute(connection, ago=2, latencies={4: 100, len(LATENCY_BOUNDS_MS): 1_234})

    page = site.page("/now")

    assert page.figure("Latency") == "40 ms"
    assert "without 1,234 events older than an hour" in page.text


@pytest.mark.parametrize("path", ["/now", "/customers", "/segments", "/trends"])
def test_a_page_tells_whom_it_leaves_out_and_why(config: DashboardConfig, path: str) -> None:
    with serving(config) as site:
        text = site.page(path).text
        assert "leave out the control group" in text
        assert "DASHBOARD_USERS" in text
    with as_viewer(config) as viewer:
        assert "control group" not in viewer.page(path).text


def test_marks_a_difference_of_days_that_chance_does_not_explain() -> None:
    found = compare_days("yesterday", _day(10_000, 3_000), _day(10_000, 2_000))
    assert found.text == "20.0 % yesterday"
    assert found.difference == pytest.approx(0.1)
    assert found.is_clear


def test_does_not_mark_a_difference_that_chance_may_explain() -> None:
    found = compare_days("yesterday", _day(12_194, 2_524), _day(31, 5))
    assert found.text == "16.1 % yesterday; chance may explain it"
    assert not found.is_clear


def test_does_not_compare_days_with_few_predictions() -> None:
    assert compare_days("yesterday", _day(29, 10), _day(10_000, 2_000)) == Comparison("not known: few predictions")


def _day(predictions: int, churn_count: int) -> Day:
    return Day(days_ago=0, predictions=predictions, churn_count=churn_count, high_risk_count=0)


def test_opens_without_an_error_in_the_browser(window: BrowserContext) -> None:
    errors: list[str] = []
    page = window.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/now")
    expect(page.get_by_role("heading", level=1, name="Now")).to_be_visible()
    expect(page.locator("#plot-rate .main-svg").first).to_be_visible()
    assert errors == []


def test_each_tick_of_the_latency_has_its_whole_number(window: BrowserContext, connection: psycopg.Connection) -> None:
    for ago in (2, 3):
        add_minute(connection, ago=ago, latencies={1: 50, 10: 50})
    page = window.new_page()
    page.goto("/now")
    page.locator("#plot-latency").scroll_into_view_if_needed()
    ticks = page.locator("#plot-latency .ytick text")
    expect(ticks.first).to_be_visible()
    values = [float(each) for each in ticks.all_text_contents()]
    assert values == sorted(values)
    assert 100 in values
