"""Takes the screenshots in docs/images on a separate platform with generated data (`make screenshots`): of Dagster's UI
and of the dashboard.

No screenshot shows a real customer, or a local path or address.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from PIL import Image
from rich.console import Console

from churn_platform.dashboard.users import User, hash_password, write_users
from churn_platform.orchestration.partitions import hour_key
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.browsers import chromium
from churn_platform_tests.end_to_end.running import Running, running_platform
from churn_platform_tests.ui.dagster_ui import DagsterUi, open_ui
from churn_platform_tests.ui.preparations import older_customers, write_invalid_ages
from churn_platform_tests.waiting import wait_until

IMAGES: Final = PROJECT_ROOT / "docs" / "images"
SETTINGS: Final = {"BATCH_SECONDS": "15", "METRICS_SECONDS": "0"}
CUSTOMERS: Final = 10_000
EVENTS: Final = ("--rate", "500", "--duration", "40", "--bad", "0.01", "--duplicates", "0.01", "--late", "0.02")
# READMEs are shown about 900 pixels wide. The scale keeps text sharp on high-resolution screens.
WIDTH: Final = 1200
SCALE: Final = 1.5
MAX_BYTES: Final = 200_000
USER: Final = "erika"
# Pages of the dashboard by name of the screenshot, with the height of the window.
DASHBOARD: Final[Mapping[str, tuple[int, str]]] = {
    "dashboard": (900, "/now"),
    "dashboard-customers": (760, "/customers"),
    "dashboard-calls": (760, "/calls"),
}


def main() -> None:
    """Start a platform, take the screenshots, and print their sizes."""
    console = Console()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory() as folder,
        running_platform(
            {**os.environ, **SETTINGS, "DASHBOARD_USERS": str(users := Path(folder, "users"))}, customers=CUSTOMERS
        ) as running,
    ):
        console.print("The platform is up. Training, and streaming for 40 s.")
        _fill(running)
        for name, file in _screenshots_of_the_dashboard(running.stack.addresses["dashboard"], users):
            console.print(f"{name}: {_shrink(file):,} bytes")
        for name, (height, prepare) in _screenshots(running).items():
            with open_ui(running.stack.addresses["dagster"], width=WIDTH, height=height, scale=SCALE) as ui:
                ui.open("/")
                ui.page.get_by_role("button", name="Hide navigation").click()
                prepare(ui)
                file = IMAGES / f"{name}.png"
                ui.page.wait_for_load_state("networkidle")
                ui.page.screenshot(path=file, animations="disabled")
            console.print(f"{file.relative_to(PROJECT_ROOT)}: {_shrink(file):,} bytes")


def _fill(running: Running) -> None:
    for job in ("data_preparation_job", "training_job"):
        running.launch(job)
    churn = str(Path(sys.executable).with_name("churn"))
    environment = {**os.environ, **SETTINGS, **running.stack.environment}
    subprocess.run([churn, "produce", *EVENTS], env=environment, check=True, stdout=subprocess.DEVNULL)
    wait_until(running.is_idle, 180, "all batches to be reported and all metrics to be up to date")


def _screenshots_of_the_dashboard(url: str, users: Path) -> Iterator[tuple[str, Path]]:
    """Take a screenshot of some pages, as somebody who is not a user of this machine; yield its name and file."""
    password = secrets.token_urlsafe()
    write_users(users, {USER: User(USER, "retention", hash_password(password))})
    with chromium() as browser:
        window = browser.new_context(base_url=url, locale="en-GB", device_scale_factor=SCALE)
        page = window.new_page()
        page.goto("/login")
        page.get_by_label("Name").fill(USER)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", level=1, name="Now").wait_for()
        for name, (height, path) in DASHBOARD.items():
            page.set_viewport_size({"width": WIDTH, "height": height})
            page.goto(path)
            page.wait_for_load_state("networkidle")
            file = IMAGES / f"{name}.png"
            page.screenshot(path=file, animations="disabled")
            yield name, file


def _screenshots(running: Running) -> Mapping[str, tuple[int, Callable[[DagsterUi], None]]]:
    """Return, by name of the screenshot, the height of the window and a function that opens the page."""
    batch = str(running.value("select batch from stream_batches where events > 0 order by events desc limit 1"))

    def lineage(ui: DagsterUi) -> None:
        groups = ("raw", "training", "predictions", "metrics")
        ui.lineage(*groups)
        ui.page.get_by_role("button", name="panel_show_right").last.click()  # hides the list of groups on the left
        ui.lineage(*groups)  # fits the graph into the larger area
        ui.text("champion_model").wait_for()

    def asset(ui: DagsterUi) -> None:
        ui.asset("churn_predictions")
        ui.text("risk_score").wait_for()

    def a_batch(ui: DagsterUi) -> None:
        ui.asset("churn_predictions", "partitions", partition=batch)
        ui.metadata("preview").wait_for()

    def drift(ui: DagsterUi) -> None:
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
        older = older_customers(running.customers, years=10, count=3_000, moment=hour)
        expected = running.events_read() + len(older)
        running.send(older)
        wait_until(lambda: running.events_read() == expected and running.is_idle(), 180, "the hour to be there")
        running.launch("hourly_monitoring_job", hour_key(hour))
        ui.asset("drift_hourly", "checks")
        ui.page.get_by_text("drift_Age", exact=True).first.click()
        ui.text("far, PSI").wait_for()

    def failed_check(ui: DagsterUi) -> None:
        write_invalid_ages(running.customers)
        ui.materialize("raw_customers")
        ui.reload_until(lambda: ui.text("Failure").is_visible(), "the run to fail")
        ui.asset("raw_customers", "checks")
        ui.page.get_by_text("quarantined_share", exact=True).first.click()
        ui.text("break a rule").wait_for()

    return {
        "lineage": (600, lineage),
        "asset": (860, asset),
        "batch": (1020, a_batch),
        "drift": (860, drift),
        "failed-check": (560, failed_check),
    }


def _shrink(file: Path) -> int:
    """Reduce a screenshot to 256 colours, keeping rare ones such as a red cross, and return its size in bytes."""
    with Image.open(file) as image:
        image.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE).save(file, optimize=True)
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{file} has {size:,} bytes, expected at most {MAX_BYTES:,}. Make the window smaller.")
    return size


if __name__ == "__main__":
    main()
