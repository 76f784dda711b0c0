"""A page while the database or the dashboard itself is away, and while a query hangs.

An open page while the database is away is in test_in_browser.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from playwright.sync_api import Browser, BrowserContext, Request, expect
from psycopg.conninfo import conninfo_to_dict

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.local.stack import Stack
from churn_platform_tests.dashboard.renewal import AWAY_MS, PAGES, QUERY_SECONDS, is_kept, keep, record_lag
from churn_platform_tests.dashboard.site import serving, window_of
from churn_platform_tests.outages import away


@contextmanager
def lag_locked(database: str) -> Iterator[None]:
    """Let each query of the lag wait."""
    with psycopg.connect(database) as connection:
        connection.execute("lock table stream_lag in access exclusive mode")
        yield


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
            keep(page)
        expect(page.get_by_role("heading", level=1, name="Now")).to_be_visible(timeout=AWAY_MS)
        expect(page.locator("#plot-rate .main-svg").first).to_be_visible()
        assert is_kept(page), "it was not loaded again"


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


def test_an_open_page_says_that_the_dashboard_is_away_and_recovers(
    browser: Browser, config: DashboardConfig, database: str
) -> None:
    record_lag(database, 111)
    with serving(config, pages=PAGES) as site:
        port = urlsplit(site.url).port or 0
        window = browser.new_context(base_url=site.url)
        page = window.new_page()
        page.goto("/now")
        keep(page)
    expect(page.get_by_role("status")).to_contain_text("The server does not answer.", timeout=AWAY_MS)

    record_lag(database, 222)
    with serving(config, pages=PAGES, port=port):
        expect(page.locator("#figure-lag .value")).to_have_text("222", timeout=AWAY_MS)
        assert is_kept(page), "it was not loaded again"
        window.close()


def test_connections_that_have_died_are_replaced(config: DashboardConfig, stack: Stack, database: str) -> None:
    with serving(config, pages=PAGES) as site:
        assert site.client.get("/now").status_code == 200
        with away(stack, database):
            pass
        assert site.client.get("/now").status_code == 200
