"""The headless Chromium that is installed, for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, expect, sync_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Only requests to localhost: no updates, no sync, no background requests.
ARGUMENTS: Final = (
    "--no-sandbox",  # root, as in a container, cannot use the sandbox; only our own pages are opened
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS: Final = 30


class NoChromiumError(Exception):
    """Chromium is not installed."""


def find_chromium() -> str:
    """Return the path of the browser.

    Raises:
        NoChromiumError: Chromium is not installed.
    """
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise NoChromiumError(
            f"There is no Chromium on the PATH (looked for {', '.join(NAMES)}). Install one: "
            f"'apt-get install chromium' on Debian and Ubuntu, 'brew install --cask chromium' on macOS."
        )
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser.

    Raises:
        NoChromiumError: Chromium is not installed.
    """
    found = find_chromium()
    expect.set_options(timeout=SECONDS * 1000)  # a condition that holds later than usual on a busy machine
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()
