"""The dashboard and the SQL views on a large database, while the stream runs.

Example: python -m benchmarks.dashboard --predictions 100000 --customers 10000
"""

import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Final
from urllib.parse import urljoin, urlsplit

import httpx
import numpy as np
import psutil
import psycopg
import typer
from lxml import html
from psycopg import sql
from rich.console import Console
from rich.table import Table
from starlette.routing import compile_path

from benchmarks import work
from benchmarks.dashboard_data import Filled, fill
from benchmarks.latency import wait_until
from benchmarks.machine import this_machine
from benchmarks.servers import own_stack
from churn_platform.dashboard.app import PAGES
from churn_platform.local.environment import READER_VARIABLE
from churn_platform.settings import settings

PREDICTIONS: Final = 10_000_000
CUSTOMERS: Final = 1_000_000
RATE: Final = 50.0
CLIENTS: Final = 20
# A person looks at a page for a while. Open pages renew themselves every 5 s, so this is five times as much as that.
PAUSE_SECONDS: Final = 1.0
LOAD_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 15.0
VIEW_RUNS: Final = 20
WARM_UP: Final = 3
ADDRESSES: Final = 8
"""Addresses of each page that are requested, such as several customers, or several filters of a list."""
MOST_FETCHED: Final = 200
PAGE_LOADS: Final = 12
MEMORY_SECONDS: Final = 0.5

# The goals, in milliseconds. Those of pages are for the 95th percentile.
VIEW_GOAL: Final = 50.0
HTTP_GOAL: Final = 200.0
PAGE_GOAL: Final = 1_000.0
INTERACTION_GOAL: Final = 300.0

_VIEWS: Final = "select viewname from pg_views where schemaname = 'public' and viewname like 'v\\_%' order by 1"
_LOG: Final = "v_retention_case_history"
"""This view is a log, which grows with every change of a case. Readers ask it for one case."""
_CASES: Final = """
    select case_id from (select distinct case_id from v_retention_case_history) as c
    order by md5(case_id::text) limit %s
"""
_LAST_COMMIT: Final = """
    select coalesce(extract(epoch from now() - max(last_commit))::double precision, 'infinity') from stream_batches
    where closed is null
"""
# Waits until every chart that can be seen is drawn. The pages forbid eval, which Playwright's own waiting uses.
_DRAW: Final = """
    async () => {
        const isDrawn = (place) => {
            const box = place.getBoundingClientRect();
            return !box.height || box.top > innerHeight || box.bottom < 0 || "drawn" in place.dataset;
        };
        const end = performance.now() + 30000;
        while (![...document.querySelectorAll(".plot")].every(isDrawn)) {
            if (performance.now() > end) throw new Error("A chart was not drawn within 30 s.");
            await new Promise(requestAnimationFrame);
        }
    }
"""


@dataclass(frozen=True)
class Times:
    """Percentiles, in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Percentiles of times in seconds.

        Raises:
            RuntimeError: there is none.
        """
        if not seconds:
            raise RuntimeError("Nothing was measured.")
        values = np.percentile(np.array(seconds) * 1000, (50, 95, 99))
        return cls(len(seconds), *(round(float(value), 1) for value in values))


@dataclass(frozen=True)
class Process:
    """What the dashboard's process used: cores on average, and the most memory in MB."""

    cores: float
    memory_mb: float


@dataclass(frozen=True)
class Load:
    """Requests of all clients together.

    Attributes:
        pages: times by page.
        slowest: of each page the address that takes longest on average, with its times.
        requests_per_second: of all.
        process: what the dashboard used.
    """

    pages: dict[str, Times]
    slowest: dict[str, tuple[str, Times]]
    requests_per_second: float
    process: Process


@dataclass(frozen=True)
class File:
    """A download: seconds, MB as they were transferred, and the most memory of the dashboard meanwhile, in MB."""

    seconds: float
    megabytes: float
    memory_mb: float


@dataclass
class Results:
    """Everything that was measured.

    Attributes:
        filled: what the database had before the stream ran.
        views: time of a query that reads the view: the whole of it, and one case of the log of cases.
        idle: the dashboard while nobody looks.
        people: clients that pause between pages.
        nonstop: as many clients that do not pause.
        files: downloads, such as all customers as CSV.
        loads: of a page in a browser that has shown it before.
        interactions: such as a filter, by page and kind.
    """

    filled: Filled
    views: dict[str, Times] = field(default_factory=dict)
    idle: Process | None = None
    people: Load | None = None
    nonstop: Load | None = None
    files: dict[str, File] = field(default_factory=dict)
    loads: dict[str, Times] = field(default_factory=dict)
    interactions: dict[str, Times] = field(default_factory=dict)

    def missed(self) -> list[str]:
        """Return the goals that were not met, as sentences."""
        found = [("view", name, each.p50, VIEW_GOAL) for name, each in self.views.items()]
        if self.people is not None:
            slowest = self.people.slowest
            found += [
                (f"page (slowest: {slowest[name][0]}, {slowest[name][1].p50:,.0f} ms)", name, each.p95, HTTP_GOAL)
                for name, each in self.people.pages.items()
            ]
        found += [("page in the browser", name, each.p95, PAGE_GOAL) for name, each in self.loads.items()]
        found += [("interaction", name, each.p95, INTERACTION_GOAL) for name, each in self.interactions.items()]
        return [
            f"The {kind} {name} takes {took:,.0f} ms, more than {goal:,.0f} ms."
            for kind, name, took, goal in found
            if took > goal
        ]


# Views


def measure_views(dsn: str) -> dict[str, Times]:
    """Read each view several times, with the login of readers.

    Each view is read as a whole, except for the log of cases, whose size has no bound: of that, each query reads
    another case by its id, as the page of a case does.
    """
    found = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        cases = connection.execute(_CASES, (WARM_UP + VIEW_RUNS,)).fetchall()
        for (name,) in connection.execute(_VIEWS).fetchall():
            query = sql.SQL("select * from {}").format(sql.Identifier(name))
            is_log = name == _LOG and bool(cases)
            if is_log:
                query += sql.SQL(" where case_id = %s")
            took = []
            for number in range(WARM_UP + VIEW_RUNS):
                began = time.perf_counter()
                connection.execute(query, cases[number % len(cases)] if is_log else ()).fetchall()
                if number >= WARM_UP:
                    took.append(time.perf_counter() - began)
            found[name] = Times.of(took)
    return found


# Requests


@dataclass(frozen=True)
class Site:
    """The dashboard.

    Attributes:
        url: its address.
        addresses: of pages, by the path of the page that they belong to.
        files: address of one file, such as a list as CSV, by its path.
    """

    url: str
    addresses: Mapping[str, Sequence[str]]
    files: Mapping[str, str]


def explore(url: str) -> Site:
    """Follow links from the navigation, and return addresses of each page, and of files that are offered there."""
    patterns = {page.path: compile_path(page.path)[0] for page in PAGES if page.read is not None}
    found: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    waiting, seen = [page.path for page in PAGES if page.label], set[str]()
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        while waiting and len(seen) < MOST_FETCHED:
            address = waiting.pop(0)
            path = _page_of(address, patterns)
            if address in seen or path is None or len(found.get(path, [])) >= ADDRESSES:
                continue
            seen.add(address)
            answer = client.get(address).raise_for_status()
            found.setdefault(path, []).append(address)
            for link in html.fromstring(answer.text).xpath("//main//a[@href]"):
                target = urljoin(address, str(link.get("href")))
                if link.get("download") is None:
                    waiting.append(target)
                elif (file := _page_of(target, patterns)) is not None:
                    files.setdefault(file, target)
    return Site(url, found, files)


def _page_of(address: str, patterns: Mapping[str, re.Pattern[str]]) -> str | None:
    """Return the path of the page that an address belongs to; None if it leads elsewhere."""
    parts = urlsplit(address)
    if parts.netloc:
        return None
    return next((path for path, pattern in patterns.items() if pattern.match(parts.path)), None)


def download(site: Site, dashboard: psutil.Process) -> dict[str, File]:
    """Download each file once."""
    found = {}
    with httpx.Client(base_url=site.url, trust_env=False, timeout=600) as client:
        for path, address in site.files.items():
            size, began = 0, time.perf_counter()
            with usage_of(dashboard) as usage, client.stream("GET", address) as answer:
                answer.raise_for_status()
                for part in answer.iter_raw():
                    size += len(part)
            found[path] = File(round(time.perf_counter() - began, 1), round(size / 1e6, 1), usage().memory_mb)
    return found


def load(site: Site, dashboard: psutil.Process, *, clients: int, pause: float, seconds: float) -> Load:
    """Request pages at random with several clients at the same time, each page equally often.

    Args:
        site: its pages.
        dashboard: its process.
        clients: how many, each with a connection of its own.
        pause: mean seconds between an answer and the next request of a client.
        seconds: how long.
    """
    with usage_of(dashboard) as usage:
        took = asyncio.run(_request(site, clients=clients, pause=pause, seconds=seconds))
    process = usage()
    count = sum(len(times) for addresses in took.values() for times in addresses.values())
    slowest = {
        path: max(addresses, key=lambda each: statistics.mean(addresses[each])) for path, addresses in took.items()
    }
    return Load(
        {path: Times.of([*chain.from_iterable(addresses.values())]) for path, addresses in took.items()},
        {path: (address, Times.of(took[path][address])) for path, address in slowest.items()},
        round(count / seconds, 1),
        process,
    )


async def _request(site: Site, *, clients: int, pause: float, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Return the times of the requests by page and address."""
    took: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    async def visit(number: int) -> None:
        chance = random.Random(number)  # noqa: S311  a choice of pages, no secret
        async with httpx.AsyncClient(base_url=site.url, trust_env=False, timeout=60) as client:
            await asyncio.sleep(pause * chance.random())
            while time.perf_counter() < end:
                path = chance.choice([*site.addresses])
                address = chance.choice(site.addresses[path])
                began = time.perf_counter()
                answer = await client.get(address)
                took[path][address].append(time.perf_counter() - began)
                answer.raise_for_status()
                if pause:
                    await asyncio.sleep(pause * (0.5 + chance.random()))

    end = time.perf_counter() + seconds
    await asyncio.gather(*(visit(number) for number in range(clients)))
    return {path: dict(took[path]) for path in site.addresses if path in took}


@contextmanager
def usage_of(process: psutil.Process) -> Iterator[Callable[[], Process]]:
    """Measure a process while the context lasts; the function returns the result afterwards."""
    began, times, most = time.perf_counter(), process.cpu_times(), process.memory_info().rss
    ended = Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(MEMORY_SECONDS):
            most = max(most, process.memory_info().rss)

    thread = Thread(target=watch)
    thread.start()
    result: list[Process] = []
    try:
        yield lambda: result[0]
    finally:
        ended.set()
        thread.join()
        spent = process.cpu_times()
        cores = (spent.user + spent.system - times.user - times.system) / (time.perf_counter() - began)
        result.append(Process(round(cores, 3), round(most / 1e6, 1)))


# The browser


def browse(site: Site, *, loads: int = PAGE_LOADS, warm_up: int = WARM_UP) -> tuple[dict[str, Times], dict[str, Times]]:
    """Measure pages and interactions in one headless Chromium.

    Args:
        site: its address.
        loads: how often each is measured.
        warm_up: how often before.

    Returns:
        Times from the request of a page until its visible charts are drawn, by page; and the same from a click, by page
        and kind: choosing in a filter, sorting a table, and its next part. What is clicked is visible before, and the
        charts beside it are drawn: a person has to see it first.
    """
    from churn_platform_tests.browsers import chromium  # Playwright is needed for this part only

    pages: dict[str, Times] = {}
    interactions: dict[str, Times] = {}
    with chromium() as browser, browser.new_context(base_url=site.url) as window:
        page = window.new_page()

        def timed(act: Callable[[], object]) -> float:
            began = time.perf_counter()
            with page.expect_navigation(wait_until="load"):
                act()
            page.evaluate(_DRAW)
            return time.perf_counter() - began

        for path in (each.path for each in PAGES if each.label):
            took = [timed(partial(page.goto, path)) for _ in range(warm_up + loads)]
            pages[path] = Times.of(took[warm_up:])
            for kind, selector in (
                ("filter", "main form.filters select:has(option:nth-child(2))"),
                ("sort", "main thead th a"),
                ("next", "main a[rel=next]"),
            ):
                took = []
                for _ in range(warm_up + loads):
                    page.goto(path)
                    element = page.locator(selector).first
                    if element.count() == 0:
                        break
                    element.scroll_into_view_if_needed()
                    page.evaluate(_DRAW)
                    if kind == "filter":
                        other = 0 if element.evaluate("(select) => select.selectedIndex") else 1
                        took.append(timed(partial(element.select_option, index=other)))
                    else:
                        took.append(timed(element.click))
                if took:
                    interactions[f"{path}: {kind}"] = Times.of(took[warm_up:])
    return pages, interactions


# The platform


@contextmanager
def running_stream(connection: psycopg.Connection, rate: float) -> Iterator[None]:
    """Send events at a rate while the context lasts, from when the first are committed."""
    command = [sys.executable, "-m", "churn_platform.cli", "produce", "--rate", str(rate), "--duration", "86400"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as producer:
        try:
            wait_until(lambda: _seconds_since_commit(connection) < 1, "a commit of the stream")
            yield
        finally:
            producer.terminate()


def _seconds_since_commit(connection: psycopg.Connection) -> float:
    row = connection.execute(_LAST_COMMIT).fetchone()
    return float(row[0]) if row else float("inf")


def measure(
    console: Console,
    *,
    predictions: int = PREDICTIONS,
    customers: int = CUSTOMERS,
    clients: int = CLIENTS,
    seconds: float = LOAD_SECONDS,
    idle_seconds: float = IDLE_SECONDS,
    rate: float = RATE,
    in_browser: bool = True,
) -> Results:
    """Fill a database on separate servers and measure the dashboard of that platform."""
    began = time.monotonic()

    def progress(what: str) -> None:
        nonlocal began
        console.print(f"{what}: {time.monotonic() - began:.0f} s", style="dim", highlight=False)
        began = time.monotonic()

    with own_stack(services_only=False) as stack:
        progress("start")
        dsn = settings().postgres_dsn
        bundle = work.trained_bundle(stack.local / "bundle")
        work.promote(dsn, bundle)
        stack.stop_part("worker")
        filled = fill(
            dsn,
            bundle,
            owner=stack.owner_dsn,
            predictions=predictions,
            customers=customers,
            progress=progress,
        )
        results = Results(filled)
        stack.start_part("worker")
        dashboard = psutil.Process(stack.pid("dashboard"))
        with psycopg.connect(dsn, autocommit=True) as connection, running_stream(connection, rate):
            progress("first events")
            site = explore(stack.addresses["dashboard"])
            progress(f"{sum(map(len, site.addresses.values()))} addresses of {len(site.addresses)} pages")
            results.views = measure_views(stack.environment[READER_VARIABLE])
            progress("views")
            with usage_of(dashboard) as usage:
                time.sleep(idle_seconds)
            results.idle = usage()
            results.people = load(site, dashboard, clients=clients, pause=PAUSE_SECONDS, seconds=seconds)
            results.nonstop = load(site, dashboard, clients=clients, pause=0, seconds=seconds)
            progress("requests")
            results.files = download(site, dashboard)
            progress("files")
            if in_browser:
                results.loads, results.interactions = browse(site)
                progress("browser")
    return results


def show(console: Console, results: Results) -> None:
    """Print the results as tables, in milliseconds."""
    filled = results.filled
    console.print(
        f"{filled.predictions:,} predictions, {filled.customers:,} customers, {filled.cases:,} cases, "
        f"{filled.gigabytes:.1f} GB",
        highlight=False,
    )
    _table(console, "view", results.views)
    for name, found in (("with pauses", results.people), ("without pauses", results.nonstop)):
        if found is not None:
            _table(console, f"page over HTTP, {name}", found.pages)
            console.print(
                f"{found.requests_per_second:,.0f} requests a second; the dashboard used {found.process.cores:.2f} "
                f"cores and {found.process.memory_mb:,.0f} MB",
                highlight=False,
            )
    for name, file in results.files.items():
        console.print(
            f"{name}: {file.megabytes:,.1f} MB in {file.seconds:,.1f} s; the dashboard used {file.memory_mb:,.0f} MB",
            highlight=False,
        )
    if results.idle is not None:
        console.print(f"idle: {results.idle.cores:.3f} cores and {results.idle.memory_mb:,.0f} MB", highlight=False)
    _table(console, "page in the browser", results.loads)
    _table(console, "interaction in the browser", results.interactions)


def _table(console: Console, title: str, found: Mapping[str, Times]) -> None:
    if found:
        table = Table(title, "number", "p50", "p95", "p99", box=None, header_style="dim")
        for name, each in found.items():
            table.add_row(name, f"{each.count:,}", *(f"{value:,.0f} ms" for value in (each.p50, each.p95, each.p99)))
        console.print(table)


def main(
    predictions: Annotated[int, typer.Option(min=1_000, help="Number of predictions.")] = PREDICTIONS,
    customers: Annotated[int, typer.Option(min=100, help="Number of customers.")] = CUSTOMERS,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients at the same time.")] = CLIENTS,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of each measurement of requests.")] = LOAD_SECONDS,
    browser: Annotated[bool, typer.Option(help="Also measure pages in headless Chromium.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure the dashboard and the views on a large database, while the stream runs at 50 events a second.

    The exit code is 1 if a goal is missed: views in 50 ms (median), pages over HTTP in 200 ms, in the browser in 1 s,
    and an interaction in 300 ms (p95).

    Example: make bench-dashboard ARGS="--predictions 100000 --customers 10000"
    """
    console, machine, began = Console(width=120), this_machine(), time.monotonic()
    console.print(str(machine), highlight=False)
    results = measure(
        console, predictions=predictions, customers=customers, clients=clients, seconds=seconds, in_browser=browser
    )
    show(console, results)
    console.print(f"Took {time.monotonic() - began:.0f} s.", highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps({**asdict(results), "machine": asdict(machine)}, indent=2) + "\n")
    missed = results.missed()
    for text in missed:
        console.print(text, style="red", highlight=False)
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
