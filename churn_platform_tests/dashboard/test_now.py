"""The page about the present."""

import psycopg
from playwright.sync_api import BrowserContext, expect

from churn_platform.dashboard.formats import NOTHING
from churn_platform.database import stream_lag
from churn_platform_tests.dashboard.site import Site


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
    assert "Everything works" in page.text


def test_opens_without_an_error_in_the_browser(window: BrowserContext) -> None:
    errors: list[str] = []
    page = window.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/now")
    expect(page.get_by_role("heading", level=1, name="Now")).to_be_visible()
    expect(page.locator("#plot-rate .main-svg").first).to_be_visible()
    assert errors == []
