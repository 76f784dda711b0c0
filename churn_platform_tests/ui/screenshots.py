"""Takes the screenshots in docs/images on separate platforms with generated data (`make screenshots`): of Dagster's UI
and of the dashboard. `make screenshots ARGS=dashboard` takes those of the dashboard alone, `ARGS=dagster` the others.

No screenshot shows a real customer, or a local path or address.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from rich.console import Console

from churn_platform.orchestration.partitions import hour_key
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.end_to_end.running import Running, running_platform
from churn_platform_tests.ui import dashboard_screenshots
from churn_platform_tests.ui.dagster_ui import DagsterUi, open_ui
from churn_platform_tests.ui.pictures import IMAGES, SCALE, WIDTH, shrink
from churn_platform_tests.ui.preparations import older_customers, write_invalid_ages
from churn_platform_tests.waiting import wait_until

SETTINGS: Final = {"BATCH_SECONDS": "15", "METRICS_SECONDS": "0"}
CUSTOMERS: Final = 10_000
# No late ones: the picture of a batch shows the latency of the stream.
EVENTS: Final = ("--rate", "500", "--duration", "40", "--bad", "0.01", "--duplicates", "0.01")
LINEAGE_HEIGHT: Final = 820


def main() -> None:
    """Take the screenshots that the arguments name, or all, and print their sizes."""
    console = Console()
    IMAGES.mkdir(parents=True, exist_ok=True)
    parts = {"dashboard": dashboard_screenshots.take, "dagster": _take}
    for part in sys.argv[1:] or parts:
        for file in parts[part](console):
            console.print(f"{file.relative_to(PROJECT_ROOT)}: {shrink(file):,} bytes")


def _take(console: Console) -> Iterator[Path]:
    """Start a platform, take the screenshots of Dagster's UI, and yield the file of each."""
    with running_platform({**os.environ, **SETTINGS}, customers=CUSTOMERS) as running:
        console.print("The platform is up. Training, and streaming for 40 s.")
        _fill(running)
        for name, (height, prepare) in _screenshots(running).items():
            with open_ui(running.stack.addresses["dagster"], width=WIDTH, height=height, scale=SCALE) as ui:
                ui.open("/")
                ui.page.get_by_role("button", name="Hide navigation").click()
                prepare(ui)
                file = IMAGES / f"{name}.png"
                ui.page.wait_for_load_state("networkidle")
                ui.page.screenshot(path=file, animations="disabled")
            yield file


def _fill(running: Running) -> None:
    for job in ("data_preparation_job", "training_job"):
        running.launch(job)
    churn = str(Path(sys.executable).with_name("churn"))
    environment = {**os.environ, **SETTINGS, **running.stack.environment}
    subprocess.run([churn, "produce", *EVENTS], env=environment, check=True, stdout=subprocess.DEVNULL)
    wait_until(running.is_idle, 180, "all batches to be reported and all metrics to be up to date")


def _screenshots(running: Running) -> Mapping[str, tuple[int, Callable[[DagsterUi], None]]]:
    """Return, by name of the screenshot, the height of the window and a function that opens the page."""
    batch = str(running.value("select batch from stream_batches where events > 0 order by events desc limit 1"))

    def lineage(ui: DagsterUi) -> None:
        groups = ("raw", "training", "predictions", "metrics")
        ui.lineage(*groups)
        model = ui.text("champion_model")
        model.wait_for()
        ui.page.get_by_role("button", name="panel_show_right").last.click()
        ui.page.get_by_placeholder("Jump to…").wait_for(state="hidden")
        before = model.bounding_box()
        ui.page.mouse.dblclick(WIDTH / 4, 0.9 * LINEAGE_HEIGHT)  # beside the graph: fits it into the larger area
        wait_until(lambda: model.bounding_box() != before, 30, "the graph to move")
        model.element_handle().wait_for_element_state("stable")

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
        "lineage": (LINEAGE_HEIGHT, lineage),
        "asset": (860, asset),
        "batch": (1020, a_batch),
        "drift": (690, drift),
        "failed-check": (560, failed_check),
    }


if __name__ == "__main__":
    main()
