"""Every page can be used by everybody: by keyboard, with a screen reader, on a phone, in both themes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from churn_platform.dashboard.app import PAGES
from churn_platform.dashboard.config import DashboardConfig
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors, unreachable
from churn_platform_tests.dashboard.protected import PASSWORD, Protected, protected
from churn_platform_tests.dashboard.site import window_of

IN_NAVIGATION = [page.path for page in PAGES if page.label]


@pytest.mark.parametrize("path", IN_NAVIGATION)
def test_a_page_without_data_has_no_barriers(window: BrowserContext, path: str) -> None:
    page = window.new_page()
    errors = open_without_errors(page, path)
    assert barriers(page) == []
    assert unreachable(page) == []
    assert errors == []


def test_the_page_of_an_error_has_no_barriers(window: BrowserContext) -> None:
    page = window.new_page()
    page.goto("/nothing")
    expect(page.get_by_role("alert")).to_contain_text("There is no page /nothing.")
    assert barriers(page) == []
    assert unreachable(page) == []


@pytest.fixture
def dashboard(config: DashboardConfig, tmp_path: Path) -> Iterator[Protected]:
    """A dashboard that Erika may log in to."""
    with protected(replace(config, users_file=tmp_path / "users")) as dashboard:
        dashboard.set_users(erika="retention")
        yield dashboard


def test_one_logs_in_by_keyboard_and_learns_what_was_wrong(browser: Browser, dashboard: Protected) -> None:
    with window_of(browser, dashboard.site) as window:
        page = window.new_page()
        errors = open_without_errors(page, "/notes")
        expect(page.get_by_label("Name")).to_be_focused()
        assert barriers(page) == []
        assert unreachable(page) == []
        assert errors == []

        page.get_by_label("Name").fill("erika")
        page.get_by_label("Password").fill("wrong password")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
        assert barriers(page) == []

        page.keyboard.type("erika")  # the field of the name has the focus again
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1, name="Notes")).to_be_visible()
        expect(page.get_by_text("retention erika searches")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", level=1, name="Log in")).to_be_visible()


def test_the_first_key_leads_past_the_navigation(window: BrowserContext) -> None:
    page = window.new_page()
    page.goto("/now")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()

    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
