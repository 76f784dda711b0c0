"""Addresses that nobody would type: every page answers them, and shows what it was given as text."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, urlsplit

import pytest

from churn_platform.dashboard.app import PAGES
from churn_platform.dashboard.config import DashboardConfig
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.dashboard.conftest import config_of
from churn_platform_tests.dashboard.site import Site, serving

SCRIPT = "\"'><script>alert(1)</script>"
HOSTILE = (
    SCRIPT,
    "'; drop table churn_predictions; --",
    "9" * 30,
    "9" * 5_000,
    "-1",
    "1-1",
    "1e400",
    "nan",
    "%",
    "2026-13-45",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "x" * 3_000,
    "\x00",
    "\ud800",
    "../../etc/passwd",
)


@pytest.fixture(scope="module")
def config(request: pytest.FixtureRequest) -> DashboardConfig:
    """A dashboard on which nobody has to log in. Nothing here changes the database, so all tests share one."""
    database = copy_database(request.getfixturevalue("stack"), request.getfixturevalue("template_database"))
    return config_of(request.getfixturevalue("stack"), database, request.getfixturevalue("bank_schema"))


@pytest.fixture(scope="module")
def site(config: DashboardConfig) -> Iterator[Site]:
    """The dashboard."""
    with serving(config) as site:
        yield site


@pytest.fixture(scope="module")
def names(site: Site) -> set[str]:
    """Names that the fields and the links of all pages use in addresses."""
    found: set[str] = set()
    for page in PAGES:
        if page.label:
            root = site.page(page.path).root
            links = [urlsplit(str(each)) for each in root.xpath("//main//a/@href")]
            found |= {name for link in links for name, _ in parse_qsl(link.query)}
            found |= {str(each) for each in root.xpath("//main//form[not(@method = 'post')]//@name")}
    assert len(found) > 5
    return found


def check(site: Site, address: str, value: str) -> None:
    """Ask for an address that contains the value, and check that it is refused or shown as text."""
    answer = site.client.get(address)
    assert answer.status_code in (200, 303, 307, 400, 404), f"{address}: {answer.status_code}"
    if answer.headers.get("content-type", "").startswith("text/html"):
        assert value != SCRIPT or "<script>alert" not in answer.text, address


@pytest.mark.parametrize("path", [page.path for page in PAGES if page.read is not None])
def test_no_address_breaks_a_page(site: Site, names: set[str], path: str) -> None:
    for value in HOSTILE:
        text = "%ED%A0%80" if value == "\ud800" else quote(value, safe="")
        for name in sorted(names):
            check(site, f"{re.sub('{[^}]*}', '1', path)}?{name}={text}", value)
        if "{" in path:
            check(site, re.sub("{[^}]*}", text, path), value)
