"""The benchmark of the dashboard, with little data: what it fills a database with, and what it measures there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from benchmarks import dashboard, work
from benchmarks.dashboard import Results, Times
from benchmarks.dashboard_data import Filled, fill
from churn_platform.dashboard.app import PAGES
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.local.environment import READER_VARIABLE, RETENTION_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.dashboard.site import Site, serving

PREDICTIONS, CUSTOMERS = 9_000, 3_000


@pytest.fixture(scope="module")
def filled(stack: Stack, template_database: str, local_folder: Path) -> tuple[str, Filled]:
    """The connection string of a filled database, and what it was filled with."""
    dsn = copy_database(stack, template_database)
    bundle = work.trained_bundle(local_folder / "benchmark-bundle")
    work.promote(dsn, bundle)
    owner = make_conninfo(stack.owner_dsn, dbname=str(conninfo_to_dict(dsn)["dbname"]))
    return dsn, fill(dsn, bundle, owner=owner, predictions=PREDICTIONS + 2, customers=CUSTOMERS)


@pytest.fixture
def site(stack: Stack, filled: tuple[str, Filled], bank_schema: CustomerSchema) -> Iterator[Site]:
    """A dashboard of that database."""
    name = str(conninfo_to_dict(filled[0])["dbname"])
    config = DashboardConfig(
        reader_dsn=make_conninfo(stack.environment[READER_VARIABLE], dbname=name),
        retention_dsn=make_conninfo(stack.environment[RETENTION_VARIABLE], dbname=name),
        schema=bank_schema,
        timezone=ZoneInfo("UTC"),
    )
    with serving(config) as site:
        yield site


def test_a_database_is_filled_as_the_stream_and_the_worker_would_have_left_it(filled: tuple[str, Filled]) -> None:
    dsn, found = filled

    assert (found.predictions, found.customers) == (PREDICTIONS, CUSTOMERS)
    with psycopg.connect(dsn) as connection:
        sums = [
            connection.execute(query.encode()).fetchone()
            for query in (
                "select count(*), sum(prediction) from churn_predictions",
                "select sum(total_predictions), sum(churn_count) from churn_batch_hours",
                "select sum(total_predictions), sum(churn_count) from churn_metrics_hourly",
                "select sum(total_predictions), sum(churn_count) from churn_metrics_daily",
                "select sum(total_predictions), sum(churn_count) from prediction_summary",
            )
        ]
        assert len(set(sums)) == 1
        assert connection.execute("select sum(predictions) from customer_summary").fetchone() == (PREDICTIONS,)
        assert connection.execute("select count(*) from retention_cases where reasons is null").fetchone() == (0,)
        assert connection.execute("select count(*) from v_call_list").fetchone() == (50,)


def test_views_and_all_pages_of_the_navigation_are_measured(
    stack: Stack, filled: tuple[str, Filled], site: Site
) -> None:
    name = str(conninfo_to_dict(filled[0])["dbname"])
    views = dashboard.measure_views(make_conninfo(stack.environment[READER_VARIABLE], dbname=name))
    assert {"v_segment_churn", "v_top_risk_customers", "v_model_performance"} <= set(views)

    found = dashboard.explore(site.url)
    assert {page.path for page in PAGES if page.label} <= set(found.addresses)

    with ThreadPoolExecutor(1) as pool:  # the browser of other tests has an event loop in this thread
        measured = pool.submit(dashboard.load, found, psutil.Process(), clients=2, pause=0, seconds=2).result()
    assert set(measured.pages) <= set(found.addresses)
    assert measured.requests_per_second > 0
    assert measured.process.memory_mb > 0
    for each in measured.pages.values():
        assert 0 < each.p50 <= each.p95 <= each.p99


@pytest.mark.slow
def test_pages_and_interactions_are_measured_in_a_browser(site: Site) -> None:
    pages, interactions = dashboard.browse(dashboard.explore(site.url), loads=1, warm_up=0)

    assert set(pages) == {page.path for page in PAGES if page.label}
    assert {"/customers: filter", "/customers: sort", "/customers: next", "/segments: filter"} <= set(interactions)


def test_a_goal_that_is_missed_is_named() -> None:
    fast, slow = Times(10, 10.0, 20.0, 30.0), Times(10, 60.0, 2_000.0, 3_000.0)
    results = Results(Filled(1, 1, 0, 0.1), views={"fast": fast, "slow": slow}, loads={"/now": slow})

    assert results.missed() == [
        "The view slow takes 60 ms, more than 50 ms.",
        "The page in the browser /now takes 2,000 ms, more than 1,000 ms.",
    ]


@pytest.mark.slow
def test_the_whole_platform_is_measured() -> None:
    found = dashboard.measure(
        Console(quiet=True), predictions=9_000, customers=900, clients=2, seconds=2, idle_seconds=1, in_browser=False
    )

    assert found.idle is not None
    assert found.people is not None
    assert found.nonstop is not None
    assert found.nonstop.requests_per_second > found.people.requests_per_second
