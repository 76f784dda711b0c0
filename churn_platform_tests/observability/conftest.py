"""Fixtures: the binaries of Prometheus and Alertmanager, or a skipped test."""

import pytest

from churn_platform_tests.observability.servers import binary


@pytest.fixture(scope="session")
def programs_required(request: pytest.FixtureRequest) -> bool:
    """Whether a missing binary fails the test."""
    return bool(request.config.getoption("--require-prometheus"))


@pytest.fixture(scope="session")
def promtool(programs_required: bool) -> str:
    """Path of promtool."""
    return binary("promtool", required=programs_required)


@pytest.fixture(scope="session")
def prometheus_program(programs_required: bool) -> str:
    """Path of Prometheus."""
    return binary("prometheus", required=programs_required)


@pytest.fixture(scope="session")
def alertmanager_program(programs_required: bool) -> str:
    """Path of Alertmanager."""
    return binary("alertmanager", required=programs_required)


@pytest.fixture(scope="session")
def amtool(programs_required: bool) -> str:
    """Path of amtool."""
    return binary("amtool", required=programs_required)
