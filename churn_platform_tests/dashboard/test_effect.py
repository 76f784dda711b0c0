"""The page that says whether calls help."""

from datetime import UTC, datetime

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect

from churn_platform.monitoring import retention_effect
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors, unreachable
from churn_platform_tests.dashboard.seeding import OUTCOME_DAYS, add_call_lists
from churn_platform_tests.dashboard.site import Site
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import new_team


def compute(connection: psycopg.Connection) -> None:
    """Compare the arms as the daily schedule does."""
    retention_effect.compute(connection, outcome_days=OUTCOME_DAYS, customer_value=None, now=datetime.now(UTC))


@pytest.fixture
def entered(connection: psycopg.Connection, bank_schema: CustomerSchema) -> None:
    """40 contacts of whom 10 left, 20 controls of whom 12 left, and 5 in Spain whose time is not over."""
    team = new_team(connection, bank_schema)
    team.commit(Scored(1, 0.9))
    connection.execute("delete from retention_list_entries")
    add_call_lists(connection)


def test_before_the_first_comparison_it_says_how_to_compute_one(site: Site) -> None:
    assert "Nothing was compared yet." in site.page("/calls/effect").text


def test_without_outcomes_it_says_what_is_missing(site: Site, connection: psycopg.Connection) -> None:
    compute(connection)
    page = site.page("/calls/effect")
    assert "Nothing to compare yet" in page.text
    assert page.figure("Reduction of churn") == "\u2013"


@pytest.mark.usefixtures("entered")
def test_compares_both_arms(site: Site, connection: psycopg.Connection) -> None:
    compute(connection)
    page = site.page("/calls/effect")
    assert "Calls help: they reduce churn by +35.0 percentage points" in page.text
    assert page.figure("Churn of contacts") == "25.0 %"
    assert page.figure("Churn of controls") == "60.0 %"
    assert page.figure("Reduction of churn") == "+35.0 points"
    assert page.figure("Customers saved") == "14.0"
    assert page.figure("Money saved") == "14,000 EUR"
    assert page.figure("Outcomes still needed") == "0"
    assert page.rows("Both arms") == [
        ["Contacts", "45", "40", "30", "10", "25.0 %", "0", "5"],
        ["Controls", "20", "0", "8", "12", "60.0 %", "0", "0"],
    ]
    germany, spain = page.rows("By country")
    assert germany[:3] == ["Germany", "25.0 % 10 of 40", "60.0 % 12 of 20"]
    assert spain[0] == "Spain fewer than 30 outcomes"
    assert spain[3:] == ["\u2013", "\u2013", "\u2013", "5"]
    assert "http://127.0.0.1:3000/assets/retention_effect" in page.links()
    assert "What makes this comparison weak" not in page.text


@pytest.mark.usefixtures("entered")
def test_names_what_makes_the_comparison_invalid(site: Site, connection: psycopg.Connection) -> None:
    connection.execute(
        "update retention_entry_outcomes set contacted = true where entry in (select entry from retention_list_entries "
        "where arm = 'control' limit 3)"
    )
    compute(connection)
    assert "3 of 20 controls were called" in site.page("/calls/effect").text


@pytest.mark.usefixtures("entered")
def test_draws_the_intervals(window: BrowserContext, connection: psycopg.Connection) -> None:
    compute(connection)
    page = window.new_page()
    page.goto("/calls/effect")
    expect(page.locator("#plot-months .errorbar").first).to_be_visible()
    expect(page.locator("#plot-months")).to_contain_text("All months")
    page.get_by_text("Reduction of churn by month of entry as a table").click()
    table = page.get_by_role("region", name="Reduction of churn by month of entry as a table")
    expect(table.get_by_role("row", name="All months")).to_contain_text("35.0")


@pytest.mark.usefixtures("entered")
def test_has_no_barriers(window: BrowserContext, connection: psycopg.Connection) -> None:
    compute(connection)
    page = window.new_page()
    errors = open_without_errors(page, "/calls/effect")
    assert barriers(page) == []
    assert unreachable(page) == []
    assert errors == []
