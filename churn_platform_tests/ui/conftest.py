"""Fixtures: a running platform, and a browser with its UI."""

from collections.abc import Iterator

import pytest

from churn_platform_tests.end_to_end.running import Running, running_platform
from churn_platform_tests.ui.dagster_ui import DagsterUi, open_ui

SETTINGS = {"BATCH_SECONDS": "8", "METRICS_SECONDS": "0"}


@pytest.fixture(scope="session")
def ui_platform(embedded_only: dict[str, str]) -> Iterator[Running]:
    """A running platform that has not processed anything yet."""
    with running_platform({**embedded_only, **SETTINGS}) as running:
        yield running


@pytest.fixture
def ui(ui_platform: Running) -> Iterator[DagsterUi]:
    """A new browser window with the platform's UI."""
    with open_ui(ui_platform.stack.addresses["dagster"]) as ui:
        yield ui
