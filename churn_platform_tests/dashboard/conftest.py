"""Fixtures of the dashboard's tests."""

from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.local.environment import READER_VARIABLE, RETENTION_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.browsers import NoChromiumError, chromium, find_chromium
from churn_platform_tests.dashboard.site import Site, serving, window_of
from churn_platform_tests.dashboard.summaries import as_viewer
from churn_platform_tests.worker.ledger import FollowedLedger

QUICK = Path(__file__).with_name("test_in_browser.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in the browser as slow, except those of one file, which `make test` runs in less than a minute."""
    for item in items:
        is_other = item.path.parent == QUICK.parent and item.path != QUICK
        if is_other and isinstance(item, pytest.Function) and "browser" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


def config_of(stack: Stack, database: str, schema: CustomerSchema) -> DashboardConfig:
    """Return the configuration of a dashboard of a database, with the logins that the embedded one has for it."""
    name = str(conninfo_to_dict(database)["dbname"])
    return DashboardConfig(
        reader_dsn=make_conninfo(stack.environment[READER_VARIABLE], dbname=name),
        retention_dsn=make_conninfo(stack.environment[RETENTION_VARIABLE], dbname=name),
        schema=schema,
        timezone=ZoneInfo("Europe/Berlin"),
        dagster_url="http://127.0.0.1:3000",
        local_user="erika",
    )


@pytest.fixture
def config(stack: Stack, database: str, bank_schema: CustomerSchema) -> DashboardConfig:
    """A dashboard of a database that nobody else uses, on which nobody has to log in."""
    return config_of(stack, database, bank_schema)


@pytest.fixture
def site(config: DashboardConfig) -> Iterator[Site]:
    """A dashboard on which nobody has to log in."""
    with serving(config) as site:
        yield site


@pytest.fixture
def viewer(config: DashboardConfig) -> Iterator[Site]:
    """The same dashboard for somebody who is not in the retention team."""
    with as_viewer(config) as site:
        yield site


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A connection of the platform's own login, in autocommit mode."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def ledger(connection: psycopg.Connection) -> FollowedLedger:
    """Commits predictions as the stream does."""
    return FollowedLedger(connection)


# Tests of other modules run event loops in this thread, and Playwright's runs in it as long as the browser does.
@pytest.fixture(scope="module")
def browser(pytestconfig: pytest.Config) -> Iterator[Browser]:
    """One headless Chromium for the tests of a module. Without it they are skipped, or fail with --require-browser."""
    try:
        find_chromium()
    except NoChromiumError as error:
        if pytestconfig.getoption("--require-browser"):
            raise
        pytest.skip(str(error))
    with chromium() as browser:
        yield browser


@pytest.fixture
def window(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A new window without cookies, in Berlin. Its pages open paths of the site."""
    with window_of(browser, site) as window:
        yield window
