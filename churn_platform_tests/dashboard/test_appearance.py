"""Themes, time zones, motion, and what works without scripts."""

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import psycopg
from playwright.sync_api import Browser, BrowserContext, Page, expect

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.dashboard.accessibility import barriers
from churn_platform_tests.dashboard.seeding import predictions, summarize
from churn_platform_tests.dashboard.site import Site
from churn_platform_tests.worker.ledger import FollowedLedger

BACKGROUND: Final = "() => getComputedStyle(document.body).backgroundColor"
AXIS_COLOR: Final = "() => document.getElementById('plot-rate').layout.font.color"
TRANSITION: Final = "link => getComputedStyle(link).transitionDuration"
TIMES: Final = "() => document.getElementById('plot-rate').data[0].x"


def opened(window: BrowserContext) -> Page:
    """Open the page about the present and wait for its first chart."""
    page = window.new_page()
    page.goto("/now")
    expect(page.locator("#plot-rate .main-svg").first).to_be_visible()
    return page


def test_the_theme_is_that_of_the_system_until_another_is_chosen(window: BrowserContext) -> None:
    page = opened(window)
    light, text = page.evaluate(BACKGROUND), page.evaluate(AXIS_COLOR)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(BACKGROUND)
    assert dark != light
    page.wait_for_function(f"before => ({AXIS_COLOR})() !== before", arg=text)

    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(BACKGROUND) == light
    assert page.evaluate(AXIS_COLOR) == text, "charts follow"

    again = opened(window)
    again.emulate_media(color_scheme="dark")
    assert again.evaluate(BACKGROUND) == light, "the choice is kept"
    expect(again.get_by_role("button", name="Dark theme")).to_be_visible()


def test_times_are_those_of_the_viewer(browser: Browser, site: Site) -> None:
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=30)
    zone = "Asia/Kolkata"  # 5:30 hours before UTC
    with browser.new_context(base_url=site.url, locale="en-GB", timezone_id=zone) as window:
        times = opened(window).evaluate(TIMES)

    assert minute in {datetime.fromisoformat(each).replace(tzinfo=ZoneInfo(zone)) for each in times}


def test_nothing_moves_for_whoever_wants_no_motion(window: BrowserContext) -> None:
    page = window.new_page()
    page.goto("/now")
    link = page.get_by_role("link", name="Now")

    page.emulate_media(reduced_motion="no-preference")
    assert link.evaluate(TRANSITION) == "0.15s, 0.15s"
    page.emulate_media(reduced_motion="reduce")
    assert link.evaluate(TRANSITION) == "0s"


def test_without_scripts_a_page_has_its_figures_and_the_tables_of_its_charts(browser: Browser, site: Site) -> None:
    with browser.new_context(base_url=site.url, java_script_enabled=False) as window:
        page = window.new_page()
        page.goto("/now")
        expect(page.get_by_text("Predictions today", exact=True)).to_be_visible()
        page.get_by_text("Events by minute as a table").click()
        expect(page.get_by_role("columnheader", name="Predictions")).to_be_visible()
        expect(page.get_by_role("button", name="Theme")).to_be_hidden()


def test_on_a_phone_the_navigation_is_one_line_and_the_legend_is_below_the_chart(
    browser: Browser, site: Site, ledger: FollowedLedger, connection: psycopg.Connection, bank_schema: CustomerSchema
) -> None:
    ledger.commit([*predictions(40, churned=10), *predictions(40, churned=20, days_ago=10)])
    summarize(connection, bank_schema)
    with browser.new_context(base_url=site.url, viewport={"width": 375, "height": 800}) as window:
        page = window.new_page()
        page.goto("/trends")
        expect(page.get_by_role("link", name="Trends")).to_be_in_viewport(ratio=1)

        boxes = page.locator("header nav a").evaluate_all(
            "links => links.map((link) => link.getBoundingClientRect().top)"
        )
        assert len(set(boxes)) == 1
        page.locator("#plot-rate").scroll_into_view_if_needed()  # charts are drawn when they come into view
        expect(page.locator("#plot-rate .legend")).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 375
        legend = page.locator("#plot-rate .legend").bounding_box()
        plot = page.locator("#plot-rate .nsewdrag").bounding_box()
        assert legend is not None
        assert plot is not None
        assert legend["y"] > plot["y"] + plot["height"]
        title = page.locator("#plot-rate .xtitle").bounding_box()
        assert title is not None
        assert legend["y"] > title["y"] + title["height"] - 4  # not beside it, where a narrow chart has no room
        assert barriers(page) == []


def test_times_have_one_form_whatever_the_language_of_the_browser(browser: Browser, site: Site) -> None:
    with browser.new_context(base_url=site.url, locale="en-US", timezone_id="UTC") as window:
        page = window.new_page()
        page.goto("/calls")
        moment = "2026-11-04T09:05:00+00:00"
        shown = page.evaluate(
            """(moment) => {
                document.getElementById("title").innerHTML = `<time datetime="${moment}" data-style="full"></time>`;
                showTimes(document);
                return document.querySelector("#title time").textContent;
            }""",
            moment,
        )
    assert shown == "4 Nov 2026, 09:05"
