"""The dashboard in the browser: every page, a filter, a file, both roles, and a database that goes away.

These tests are the ones in the browser that `make test` runs. They share a browser, a dashboard and a filled database,
and take less than a minute. `make test-dashboard` also runs the others.
"""

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from churn_platform.dashboard import addresses
from churn_platform.dashboard.app import PAGES
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.users import Role, User, hash_password, write_users
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.dashboard import filled, renewal
from churn_platform_tests.dashboard.accessibility import draw_charts, open_without_errors, serious_findings
from churn_platform_tests.dashboard.conftest import config_of
from churn_platform_tests.dashboard.filled import AT_RISK, CONTROL, Filled
from churn_platform_tests.dashboard.protected import PASSWORD
from churn_platform_tests.dashboard.site import Site, serving, window_of
from churn_platform_tests.outages import away

ROLES: Final[Mapping[str, Role]] = {"erika": "retention", "max": "viewer"}
FIRST: Final = AT_RISK[0]
# An address of each page by its path, with the number of a case as {case}.
ADDRESSES: Final = {
    "/now": "/now",
    "/customers": "/customers",
    "/customers/{customer_id:path}": addresses.customer(FIRST),
    "/what-if/{customer_id:path}": f"/what-if/{FIRST}",
    "/calls": "/calls",
    "/calls/mine": "/calls/mine",
    "/calls/{case_id:number}": "/calls/{case}",
    "/calls/effect": "/calls/effect",
    "/segments": addresses.segments("geography", "age"),
    "/trends": "/trends",
    "/model": "/model",
    "/quality": "/quality?kind=CustomerId+is+missing",
    "/quality/dead-letters/{topic:path}/{partition:number}/{offset:number}": filled.DEAD_LETTER,
}
PATHS: Final = [page.path for page in PAGES if page.read is not None and not page.path.endswith((".csv", ".xlsx"))]


@pytest.fixture(scope="module")
def database(stack: Stack, template_database: str) -> str:
    """A database that all tests here share."""
    return copy_database(stack, template_database)


@pytest.fixture(scope="module")
def content(database: str, bank_schema: CustomerSchema) -> Filled:
    """The content of the database."""
    with psycopg.connect(database, autocommit=True) as connection:
        return filled.fill(connection, bank_schema)


@pytest.fixture(scope="module")
def config(
    stack: Stack, database: str, bank_schema: CustomerSchema, tmp_path_factory: pytest.TempPathFactory
) -> DashboardConfig:
    """A dashboard that a user of each role can log in to."""
    users = tmp_path_factory.mktemp("dashboard") / "users"
    password = hash_password(PASSWORD)
    write_users(users, {name: User(name, role, password) for name, role in ROLES.items()})
    return replace(config_of(stack, database, bank_schema), users_file=users)


@pytest.fixture(scope="module")
def site(config: DashboardConfig, content: Filled) -> Iterator[Site]:
    """The dashboard, which has something to show on every page."""
    assert content
    with serving(config) as site:
        yield site


@contextmanager
def logged_in(browser: Browser, site: Site, name: str) -> Iterator[BrowserContext]:
    """Open a window in which a user is logged in."""
    with window_of(browser, site) as window:
        page = window.new_page()
        page.goto("/calls")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text(f"{name} {ROLES[name]}")).to_be_visible()
        page.close()
        yield window


@pytest.fixture(scope="module")
def erika(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A window of Erika, who calls customers. The pages in it share what they have loaded, such as Plotly."""
    with logged_in(browser, site, "erika") as window:
        yield window


@pytest.fixture
def page(erika: BrowserContext) -> Iterator[Page]:
    """A new page in Erika's window."""
    with erika.new_page() as page:
        page.emulate_media(color_scheme="light", reduced_motion="reduce")  # no color is measured while it changes
        yield page


@pytest.mark.parametrize("path", PATHS)
def test_every_page_draws_its_charts_without_errors_and_axe_finds_nothing_serious(
    page: Page, content: Filled, path: str
) -> None:
    errors = open_without_errors(page, ADDRESSES[path].format(case=content.case_id))
    expect(page.locator("#problem")).to_have_count(0)
    draw_charts(page)
    assert serious_findings(page) == []
    assert errors == []


def test_axe_finds_nothing_serious_on_the_login_and_an_error(page: Page, browser: Browser, site: Site) -> None:
    page.goto("/nothing")
    expect(page.get_by_role("alert")).to_contain_text("There is no page /nothing.")
    assert serious_findings(page) == []
    with window_of(browser, site) as window:
        login = window.new_page()
        errors = open_without_errors(login, "/now")
        expect(login.get_by_role("heading", level=1, name="Log in")).to_be_visible()
        assert serious_findings(login) == []
        assert errors == []


def test_a_filter_applies_at_once_and_the_file_has_what_the_list_shows(page: Page) -> None:
    errors = open_without_errors(page, "/customers")
    renewal.keep(page)
    page.get_by_label("Country").select_option("Spain")
    page.wait_for_url("**/customers?segment-geography=Spain")
    expect(page.get_by_text(f"{len(AT_RISK)} customers")).to_be_visible()
    assert page.get_by_role("rowheader").all_inner_texts() == [str(each) for each in AT_RISK]
    assert renewal.is_kept(page), "only the content was loaded"

    with page.expect_download() as started:
        page.get_by_role("link", name="CSV").click()
    with started.value.path().open(encoding="utf-8-sig", newline="") as file:
        assert [int(row["customer_id"]) for row in csv.DictReader(file)] == [*AT_RISK]
    assert errors == []


def test_the_retention_team_changes_cases_and_learns_no_risk_of_the_control_group(page: Page) -> None:
    errors = open_without_errors(page, "/calls")
    page.get_by_role("button", name=f"Assign to me: customer {AT_RISK[-1]}").click()
    expect(page.locator("#done")).to_contain_text("assigned to erika")
    page.goto(addresses.customer(CONTROL))
    expect(page.get_by_text("This customer is in the control group")).to_be_visible()
    expect(page.get_by_text("Risk score")).to_have_count(0)
    assert errors == []


def test_a_viewer_sees_all_customers_changes_nothing_and_logs_out(browser: Browser, site: Site) -> None:
    with logged_in(browser, site, "max") as window:
        page = window.new_page()
        errors = open_without_errors(page, "/calls")
        expect(page.get_by_role("row")).to_have_count(1 + len(AT_RISK))
        expect(page.get_by_role("button", name="Contacted")).to_have_count(0)
        page.goto(addresses.customer(CONTROL))
        expect(page.locator("#figure-risk")).to_contain_text("60.0 %")
        page.get_by_role("button", name="Log out").click()
        page.goto("/calls")
        expect(page.get_by_role("heading", level=1, name="Log in")).to_be_visible()
        assert errors == []


def test_an_open_page_reports_that_the_database_is_away_and_recovers(
    browser: Browser, config: DashboardConfig, stack: Stack, database: str
) -> None:
    renewal.record_lag(database, 111)
    without_login = replace(config, users_file=None)
    with serving(without_login, pages=renewal.PAGES) as site, window_of(browser, site) as window:
        page = window.new_page()
        page.goto("/now")
        lag = page.locator("#figure-lag .value")
        expect(lag).to_have_text("111")
        renewal.keep(page)

        with away(stack, database):
            away_text = "The database does not answer."
            expect(page.get_by_role("status")).to_contain_text(away_text, timeout=renewal.AWAY_MS)
            expect(lag).to_have_text("111")  # what was known stays
            page.get_by_role("button", name="Dark theme").click()
        renewal.record_lag(database, 222)

        expect(lag).to_have_text("222", timeout=renewal.AWAY_MS)
        expect(page.get_by_role("status")).to_be_empty()
        assert renewal.is_kept(page), "it was not loaded again"
