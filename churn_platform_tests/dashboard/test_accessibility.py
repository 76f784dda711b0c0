"""Every page can be used by everybody: by keyboard, with a screen reader, on a phone, in both themes."""

import pytest
from playwright.sync_api import BrowserContext

from churn_platform.dashboard.app import PAGES
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors, unreachable

IN_NAVIGATION = [page.path for page in PAGES if page.label]


@pytest.mark.parametrize("path", IN_NAVIGATION)
def test_a_page_has_no_barriers(window: BrowserContext, path: str) -> None:
    page = window.new_page()
    errors = open_without_errors(page, path)
    assert barriers(page) == []
    assert unreachable(page) == []
    assert errors == []
