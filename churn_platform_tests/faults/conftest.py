"""One platform for all faults, and a table of the recoveries at the end."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_platform_tests.faults.platform import FaultyPlatform, faulty_platform

# Batches that are short, but long enough for a standby to be there in time, and figures that come at once.
SETTINGS = {"BATCH_SECONDS": "15", "IDLE_SECONDS": "30", "METRICS_SECONDS": "0", "STANDBY": "true"}
RATE = 200  # events a second
RECOVERY = "recovery"  # name of the property that a test records


@pytest.fixture(scope="session")
def faulty(embedded_only: dict[str, str]) -> Iterator[FaultyPlatform]:
    """A platform that is up, with a champion, and no traffic as yet."""
    folder = Path(tempfile.mkdtemp(prefix="churn-faults-"))
    folder.chmod(0o711)
    with faulty_platform(folder, embedded_only, rate=RATE, seed=11, settings=SETTINGS) as platform:
        yield platform
    shutil.rmtree(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what the tests have measured."""
    lines = [
        str(value)
        for reports in (terminalreporter.stats.get("passed", []), terminalreporter.stats.get("failed", []))
        for report in reports
        for name, value in report.user_properties
        if name == RECOVERY
    ]
    if lines:
        terminalreporter.section("recoveries")
        terminalreporter.write_line("cause lasted  then first row after  fault")
        for line in lines:
            terminalreporter.write_line(line)
