"""Page object of Dagster's UI: pages, texts, buttons and dialogs."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Locator, Page, expect

from churn_platform_tests.browsers import SECONDS, chromium
from churn_platform_tests.waiting import wait_until

RUN_SECONDS: Final = 240
JOBS: Final = "/locations/churn_platform/jobs"


@contextmanager
def open_ui(url: str, *, width: int = 1500, height: int = 1000, scale: float = 1) -> Iterator["DagsterUi"]:
    """Open Dagster's UI in a headless Chromium.

    Args:
        url: address of the web server.
        width: width of the window in CSS pixels.
        height: height of the window in CSS pixels.
        scale: device pixels per CSS pixel.

    Raises:
        NoChromiumError: Chromium is not installed.
    """
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        page.set_default_timeout(SECONDS * 1000)
        yield DagsterUi(page, url)


class DagsterUi:
    """A browser window with the UI."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url

    # Pages

    def open(self, path: str) -> None:
        """Open a page by its path."""
        self.page.goto(self._url + path)

    def asset(self, name: str, view: str = "overview", partition: str | None = None) -> None:
        """Open a tab of an asset's page, and a partition if one is given."""
        self.open(f"/assets/{name}?view={view}" + (f"&partition={partition}" if partition else ""))

    def lineage(self, *expanded: str) -> None:
        """Open the lineage of all assets, with these groups expanded and the others collapsed."""
        self.open("/asset-groups?expanded=" + ",".join(f"global@global:{group}" for group in expanded))

    # Contents

    def text(self, text: str | re.Pattern[str]) -> Locator:
        """Return the first element with this text."""
        return self.page.get_by_text(text).first

    def metadata(self, key: str) -> Locator:
        """Return the value of a metadata key. On an asset's overview, there is a timestamp in between."""
        between = "count(ancestor::table[1]/thead//td[.='Timestamp'])"
        return self.page.locator(f"xpath=//tr[td[1][normalize-space()='{key}']]/td[position() = 2 + {between}]").first

    def number(self, key: str) -> float:
        """Return a numeric metadata value."""
        return float(self.metadata(key).inner_text())

    def rows(self, key: str) -> list[list[str]]:
        """Return the rows of a metadata table, without its header."""
        rows = self.metadata(key).locator("tbody tr")
        rows.first.wait_for()
        return [[cell.inner_text() for cell in row.locator("td").all()] for row in rows.all()]

    def has_chart(self, key: str) -> bool:
        """Return whether a metadata value is an image that the browser has rendered."""
        width: int = self.metadata(key).locator("img").evaluate("image => image.complete ? image.naturalWidth : 0")
        return width > 0

    def partitions(self) -> list[str]:
        """Return the partition keys that an asset's page lists on the left."""
        self.page.get_by_placeholder("Filter by name").wait_for()
        keys = self.page.get_by_text(re.compile(r"^\d{8}T\d{9}Z$")).all_inner_texts()
        return list(dict.fromkeys(keys))

    def reload_until(self, condition: Callable[[], object], what: str, *, seconds: float = RUN_SECONDS) -> None:
        """Reload the page until the condition holds."""

        def reloaded() -> object:
            self.page.reload(wait_until="networkidle")
            return condition()

        wait_until(reloaded, seconds, what)

    # Actions

    def run_job(self, job: str) -> None:
        """Open a job's page, launch it, and wait until its run has succeeded."""
        self.open(f"{JOBS}/{job}")
        self._press("Materialize all")
        self.wait_for_success()

    def materialize(self, asset: str) -> None:
        """Materialize an asset without partitions, and open the run."""
        self.asset(asset)
        self._press("Materialize")
        self.open_launched()

    def wait_for_success(self) -> None:
        """Open the run that was just launched, and wait until it has succeeded."""
        self.open_launched()
        expect(self.page.get_by_text(re.compile("^(Success|Failure)$")).first).to_be_visible(timeout=RUN_SECONDS * 1000)
        expect(self.page.get_by_text("Success", exact=True).first).to_be_visible()

    def open_launched(self) -> None:
        """Follow the link in the notification of what was launched."""
        notice = self.page.get_by_text(re.compile("^(Launched run|Created backfill) "))
        notice.locator("xpath=ancestor::*[.//*[normalize-space()='View']][1]").get_by_text("View", exact=True).click()

    def replay(self, asset: str, keys: Sequence[str]) -> None:
        """Select partitions of a dynamically partitioned asset in the dialog, and launch."""
        self.asset(asset, "partitions")
        self._press("Materialize")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text("Select a partition or create one").click()
        for key in keys:
            self.page.get_by_role("menuitem", name=key).click()
        dialog.get_by_text("Launch runs to materialize").click()  # closes the list
        self._launch()

    def backfill(self, asset: str, first: str, last: str) -> None:
        """Enter a range of partitions in the dialog, and launch."""
        self.asset(asset, "partitions")
        self._press("Materialize")
        selection = self.page.get_by_role("dialog").get_by_role("textbox").first
        selection.fill(f"[{first}...{last}]")
        selection.press("Enter")
        self._launch()

    def switch(self, automation: str, *, on: bool) -> None:
        """Turn a schedule or sensor on or off on the Automation page."""
        self.open("/automation")
        # A row has a checkbox and, once its state is loaded, a switch.
        row = self.page.get_by_role("link", name=automation).locator("xpath=ancestor::*[count(.//input)=2][1]")
        switch = row.locator("input").last
        expect(switch).to_be_checked(checked=not on)
        switch.locator("xpath=..").click()
        expect(switch).to_be_checked(checked=on)

    def _press(self, button: str) -> None:
        self.page.get_by_role("button", name=button).first.click()

    def _launch(self) -> None:
        self.page.get_by_role("dialog").get_by_role("button", name=re.compile("^Launch ")).click()
        self.open_launched()
