"""An open page while the database or the dashboard itself is away, and while a query hangs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect
from psycopg.conninfo import conninfo_to_dict

from churn_platform.dashboard import page as dashboard_page
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.page import View, Visit
from churn_platform.dashboard.pages import now
from churn_platform.database import stream_lag
from churn_platform.local.stack import Stack
from churn_platform_tests.dashboard.site import serving, window_of
from churn_platform_tests.outages import away

REFRESH_SECONDS: Final = 1
QUERY_SECONDS: Final = 2
AWAY_MS: Final = 20_000
KEPT: Final = "() => { window.isKept = true; }"
IS_KEPT: Final = "() => window.isKept === true"


def impatient(visit: Visit, connection: psycopg.Connection) -> View:
    """The page about the present, renewed every second."""
    return replace(now.read(visit, connection), refresh=REFRESH_SECONDS)


PAGES: Final = [dashboard_page.Page("/now", impatient, label="Now", seconds=QUERY_SECONDS)]


@contextmanager
def lag_locked(database: str) -> Iterator[None]:
    """Let each query of the lag wait."""
    with psycopg.connect(database) as connection:
        connection.execute("lock table stream_lag in access exclusive mode")
        yield


def record_lag(database: str, waiting: int) -> None:
    """Record a lag, as the resident worker does."""
    with psycopg.connect(database, autocommit=True) as connection:
        stream_lag.record(connection, waiting=waiting, problem="")


def lag_of(page: Page) -> str:
    """Return the lag that an open page shows."""
    return page.locator("#figure-lag .value").inner_text()


@pytest.mark.slow
def test_an_open_page_says_that_the_database_is_away_and_recovers(
    browser: Browser, config: DashboardConfig, stack: Stack, database: str
) -> None:
    record_lag(database, 111)
    with serving(config, pages=PAGES) as site, window_of(browser, site) as window:
        page = window.new_page()
        page.goto("/now")
        assert lag_of(page) == "111"
        page.evaluate(KEPT)

        with away(stack, database):
            expect(page.get_by_role("status")).to_contain_text("The database does not answer.", timeout=AWAY_MS)
            assert lag_of(page) == "111", "what was known stays"
            page.get_by_role("button", name="Dark theme").click()
        record_lag(database, 222)

        expect(page.locator("#figure-lag .value")).to_have_text("222", timeout=AWAY_MS)
        expect(page.get_by_role("status")).to_be_empty()
        assert page.evaluate(IS_KEPT), "it was not loaded again"


@pytest.mark.slow
def test_a_page_that_was_opened_meanwhile_appears_by_itself(
    browser: Browser, config: DashboardConfig, stack: Stack, database: str
) -> None:
    with serving(config, pages=PAGES) as site, window_of(browser, site) as window:
        page = window.new_page()
        with away(stack, database):
            answer = page.goto("/now")
            assert answer is not None
            assert answer.status == 503
            expect(page.get_by_role("alert")).to_contain_text("The database does not answer.")
            assert str(conninfo_to_dict(database)["dbname"]) not in page.content()
            page.evaluate(KEPT)
        expect(page.get_by_role("heading", level=1, name="Now")).to_be_visible(timeout=AWAY_MS)
        expect(page.locator("#plot-rate .main-svg").first).to_be_visible()
        assert page.evaluate(IS_KEPT), "it was not loaded again"


@pytest.mark.slow
def test_a_query_that_hangs_is_canceled_and_only_one_waits_for_it(
    browser: Browser, config: DashboardConfig, database: str
) -> None:
    record_lag(database, 111)
    with serving(config, pages=PAGES) as site, window_of(browser, site) as window:
        page = window.new_page()
        page.goto("/now")
        in_flight, most = _renewals(window)

        with lag_locked(database):
            expect(page.get_by_role("status")).to_contain_text(
                f"A query took longer than {QUERY_SECONDS} s and was canceled.", timeout=AWAY_MS
            )
            opened = site.client.get("/now")
            assert opened.status_code == 504
            assert "Choose a smaller part of the data." in opened.text

        record_lag(database, 222)
        expect(page.locator("#figure-lag .value")).to_have_text("222", timeout=AWAY_MS)
        assert most == [1], "a renewal begins after the one before has ended"
        assert len(in_flight) <= 1


def _renewals(window: BrowserContext) -> tuple[set[Request], list[int]]:
    """Return the requests that renew the page and have not ended, and the most of them at the same time."""
    in_flight: set[Request] = set()
    most = [0]

    def begin(request: Request) -> None:
        if request.resource_type == "fetch":
            in_flight.add(request)
            most[0] = max(most[0], len(in_flight))

    window.on("request", begin)
    window.on("requestfinished", lambda request: in_flight.discard(request))
    window.on("requestfailed", lambda request: in_flight.discard(request))
    return in_flight, most


@pytest.mark.slow
def test_an_open_page_says_that_the_dashboard_is_away_and_recovers(
    browser: Browser, config: DashboardConfig, database: str
) -> None:
    record_lag(database, 111)
    with serving(config, pages=PAGES) as site:
        port = urlsplit(site.url).port or 0
        window = browser.new_context(base_url=site.url)
        page = window.new_page()
        page.goto("/now")
        page.evaluate(KEPT)
    expect(page.get_by_role("status")).to_contain_text("The server does not answer.", timeout=AWAY_MS)

    record_lag(database, 222)
    with serving(config, pages=PAGES, port=port):
        expect(page.locator("#figure-lag .value")).to_have_text("222", timeout=AWAY_MS)
        assert page.evaluate(IS_KEPT), "it was not loaded again"
        window.close()


def test_connections_that_have_died_are_replaced(config: DashboardConfig, stack: Stack, database: str) -> None:
    with serving(config, pages=PAGES) as site:
        assert site.client.get("/now").status_code == 200
        with away(stack, database):
            pass
        assert site.client.get("/now").status_code == 200
