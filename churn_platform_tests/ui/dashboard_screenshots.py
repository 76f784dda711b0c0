"""Screenshots of the dashboard, of a platform that the demonstration has filled."""

import os
import random
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
import numpy as np
import psycopg
import pytest
from playwright.sync_api import BrowserContext, Page
from rich.console import Console

from churn_platform.dashboard.users import User, hash_password, write_users
from churn_platform.database import summary_state
from churn_platform.database.stream_minutes import LATENCY_BOUNDS_MS
from churn_platform.kafka import sending
from churn_platform.orchestration.dagster_client import DagsterClient
from churn_platform.schema.current import customers_of
from churn_platform.schema.reader import load_customers
from churn_platform.settings import load_settings
from churn_platform.simulation import producer, scenario
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.browsers import SECONDS, chromium
from churn_platform_tests.end_to_end.running import Running, running_platform
from churn_platform_tests.ui.pictures import IMAGES, SCALE, WIDTH
from churn_platform_tests.waiting import wait_until

SETTINGS: Final = {"BATCH_SECONDS": "15", "METRICS_SECONDS": "2"}
CUSTOMERS: Final = 10_000
USER: Final = "erika"
# About 200 a minute in the last hour, and 20,000 on each day before.
RATE: Final = 200 / 60
HISTORY: Final = 280_000
PLAN: Final = scenario.Plan(rate=RATE, seconds=1, mix=producer.Mix(), history=HISTORY)
HOUR: Final = timedelta(minutes=62)  # so that the first minute of a chart is a whole one
MEASURED: Final = 50
"""Predictions whose latencies have to be known before they stand for those of an hour."""
# The pages by name of the screenshot, with the height of the window.
PAGES: Final[Mapping[str, tuple[int, str]]] = {
    "dashboard": (1040, "/now"),
    "dashboard-customers": (800, "/customers"),
    "dashboard-calls": (800, "/calls"),
    "dashboard-segments": (960, "/segments?by=geography&and=age"),
    "dashboard-trends": (860, "/trends?range=7"),
    "dashboard-model": (960, "/model"),
}


@dataclass(frozen=True)
class Dashboard:
    """A running dashboard, and the password of USER, who calls customers."""

    url: str
    password: str

    def log_in(self, window: BrowserContext) -> None:
        """Log in with a page of a window that this dashboard's address is the base of."""
        page = window.new_page()
        page.goto("/login")
        page.get_by_label("Name").fill(USER)
        page.get_by_label("Password").fill(self.password)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", level=1, name="Now").wait_for()
        page.close()


def take(console: Console) -> Iterator[Path]:
    """Start a platform, take the screenshots, and yield the file of each."""
    with filled_dashboard(console) as dashboard, chromium() as browser:
        window = browser.new_context(base_url=dashboard.url, locale="en-GB", device_scale_factor=SCALE)
        window.set_default_timeout(SECONDS * 1000)
        dashboard.log_in(window)
        for name, (height, path) in PAGES.items():
            page = window.new_page()
            page.set_viewport_size({"width": WIDTH, "height": height})
            open_page(page, path)
            file = IMAGES / f"{name}.png"
            page.screenshot(path=file, animations="disabled")
            page.close()
            yield file


def open_page(page: Page, path: str) -> None:
    """Open a page, and wait until the charts in the window are drawn."""
    page.goto(path)
    page.wait_for_load_state("networkidle")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.plot')].every((each) => "
        "'drawn' in each.dataset || each.getBoundingClientRect().top > innerHeight)"
    )


@contextmanager
def filled_dashboard(console: Console) -> Iterator[Dashboard]:
    """Run a platform that looks as if events had been arriving for two weeks, while events arrive."""
    with TemporaryDirectory() as folder:
        users, password = Path(folder, "users"), secrets.token_urlsafe()
        write_users(users, {USER: User(USER, "retention", hash_password(password))})
        given = {**os.environ, **SETTINGS, "DASHBOARD_USERS": str(users)}
        with running_platform(given, customers=CUSTOMERS) as running:
            environment = {**SETTINGS, "CHURN_RAW_CSV": str(running.customers), **running.stack.environment}
            with pytest.MonkeyPatch.context() as variables:
                for name, value in environment.items():
                    variables.setenv(name, value)
                _run_demo(running, console)
                console.print("Sending events of the last hour.")
                _send_last_hour(running)
                with _events_arriving(running):
                    yield Dashboard(running.stack.addresses["dashboard"], password)


def _run_demo(running: Running, console: Console) -> None:
    @contextmanager
    def step(title: str) -> Iterator[None]:
        console.print(f"{title}.")
        yield

    scenario.Demo(
        load_settings(),
        PLAN,
        DagsterClient(running.stack.addresses["dagster"]),
        require_own_servers=partial(running.stack.require_own_servers, "webserver"),
        step=step,
        progress=lambda _: None,
    ).run()


def _send_last_hour(running: Running) -> None:
    """Send events of the last hour, which the demonstration's past does not have, and wait until they are counted."""
    settings, now = load_settings(), datetime.now(UTC)
    config = StreamConfig.from_settings(settings)
    rows = producer.rows_of(load_customers(customers_of(settings), config.schema).customers, config.schema)
    chance = random.Random()  # noqa: S311  a choice of samples, no secret
    times = sorted(now - chance.random() * HOUR for _ in range(round(RATE * HOUR.total_seconds())))
    sent = sending.send(
        config.kafka.client,
        config.events_topic,
        (
            (
                str(row[config.schema.id]),
                msgspec.json.encode(producer.customer_event(row, config.schema, moment=moment)),
            )
            for moment, row in zip(times, chance.choices(rows, k=len(times)), strict=True)
        ),
    )
    wait_until(
        lambda: _scored(running, now - HOUR) >= sent and summary_state.is_current(running.connection),
        180,
        "the events of the last hour to be scored and counted",
    )


@contextmanager
def _events_arriving(running: Running) -> Iterator[None]:
    """Let events arrive, and the page about the present look as if they had for an hour."""
    churn = str(Path(sys.executable).with_name("churn"))
    since = datetime.now(UTC)
    command = [churn, "produce", "--rate", str(RATE), "--duration", "3600", "--bad", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _scored(running, since) >= MEASURED, 120, "the first events to be scored")
            since = datetime.now(UTC)  # the first ones waited for the producer and the stream to be ready
            wait_until(lambda: _scored(running, since) >= MEASURED, 120, "the latencies to be known")
            _restate_minutes(running.connection, live_since=since)
            yield
        finally:
            process.terminate()


def _scored(running: Running, since: datetime) -> int:
    """Return the number of predictions of events since a time."""
    return int(running.value("select count(*) from churn_predictions where event_timestamp >= %s", since))


def _restate_minutes(connection: psycopg.Connection, *, live_since: datetime) -> None:
    """Count each prediction of the last hour in the minute of its event, with a latency that was measured.

    Events of the past were sent at once, so they were all read in the same minute, and late. This is what the page
    would show if each had been sent when it happened.

    Args:
        connection: in autocommit mode.
        live_since: since when the latencies of the events are those of the stream.
    """
    measured: dict[int, int] = dict(
        connection.execute(
            "select width_bucket(1000 * extract(epoch from predicted_at - event_timestamp)::double precision, "
            "%s::double precision[]), count(*) from churn_predictions where event_timestamp >= %s group by 1",
            (list(LATENCY_BOUNDS_MS), live_since),
        ).fetchall()
    )
    counts = np.array([measured.get(bucket, 0) for bucket in range(len(LATENCY_BOUNDS_MS) + 1)])
    chance = np.random.default_rng()
    with connection.transaction():
        connection.execute("lock table stream_minutes in share row exclusive mode")  # the worker waits
        minutes = connection.execute(
            "select date_trunc('minute', event_timestamp), count(*) from churn_predictions "
            "where event_timestamp >= %s and predicted_at <= %s group by 1",
            (live_since - HOUR, summary_state.as_of(connection)),  # the worker will add those after it
        ).fetchall()
        connection.execute("update stream_minutes set predictions = 0")
        for minute, predictions in minutes:
            connection.execute(
                "insert into stream_minutes (minute, predictions, dead_letters, latency_counts) values (%s, %s, 0, %s) "
                "on conflict (minute) do update set predictions = excluded.predictions, "
                "latency_counts = excluded.latency_counts",
                (minute, predictions, chance.multinomial(predictions, counts / counts.sum()).tolist()),
            )
