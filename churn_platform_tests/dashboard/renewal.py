"""A page that renews itself every second, and the figure on it that tests change."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import psycopg
from playwright.sync_api import Page as BrowserPage

from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.pages import now
from churn_platform.database import stream_lag

REFRESH_SECONDS: Final = 1
QUERY_SECONDS: Final = 2
AWAY_MS: Final = 20_000
"""How long a page may take to notice that something is away or back."""


def _read(visit: Visit, connection: psycopg.Connection) -> View:
    return replace(now.read(visit, connection), refresh=REFRESH_SECONDS)


PAGES: Final[Sequence[Page]] = [Page("/now", _read, label="Now", seconds=QUERY_SECONDS)]
"""The page about the present, renewed every second."""


def record_lag(database: str, waiting: int) -> None:
    """Record a lag, as the resident worker does."""
    with psycopg.connect(database, autocommit=True) as connection:
        stream_lag.record(connection, waiting=waiting, problem="")


def keep(page: BrowserPage) -> None:
    """Mark an open page, so that `is_kept` can tell whether it is loaded again."""
    page.evaluate("() => { window.isKept = true; }")


def is_kept(page: BrowserPage) -> bool:
    """Return whether an open page was not loaded again since `keep`."""
    return bool(page.evaluate("() => window.isKept === true"))
