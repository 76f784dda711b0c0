"""Fixtures: one platform for all faults. Prints a table of recovery times at the end."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_platform_tests.faults.platform import FaultyPlatform, Load, faulty_platform

LOAD = Load(rate=200, seed=11)
# Names of properties that tests record.
RECOVERY = "recovery"
MEMORY = "memory"


@pytest.fixture(scope="session")
def faulty(embedded_only: dict[str, str]) -> Iterator[FaultyPlatform]:
    """A running platform with a champion and no traffic yet."""
    folder = Path(tempfile.mkdtemp(prefix="churn-faults-"))
    folder.chmod(0o711)
    with faulty_platform(folder, embedded_only, LOAD) as platform:
        yield platform
    shutil.rmtree(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have measured."""
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    properties = [each for report in reports for each in report.user_properties]
    recoveries = [value for name, value in properties if name == RECOVERY]
    if recoveries:
        terminalreporter.section("recoveries")
        terminalreporter.write_line("cause lasted    next row    caught up  fault")
    for each in recoveries:
        terminalreporter.write_line(
            f"{each['outage']:10.1f} s {each['first_row']:9.2f} s {each['caught_up']:10.1f} s  {each['title']}"
        )
    for line in (value for name, value in properties if name == MEMORY):
        terminalreporter.write_line(line)
