"""What the dashboard takes from the settings, and when it refuses to listen."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from churn_platform.dashboard.config import DashboardConfig, dashboard_config
from churn_platform.dashboard.exceptions import DashboardError
from churn_platform.settings import Settings

DATABASE = "postgresql://churn@db.example/churn"
EVERYWHERE = "0.0.0.0"  # noqa: S104  the address that is refused


def config_of(host: str, **variables: str) -> DashboardConfig:
    """Return the configuration for a host and settings."""
    given: Mapping[str, str] = {"DATABASE_URL": DATABASE, **variables}
    return dashboard_config(Settings.from_variables(given), host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machine_needs_no_login(host: str) -> None:
    assert config_of(host).is_open


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "10.0.0.7", "churn.example.com", "127.0.0.1.example.com", ""])
def test_other_machines_reach_only_a_dashboard_with_a_login(host: str, tmp_path: Path) -> None:
    with pytest.raises(DashboardError, match="nobody would have to log in") as caught:
        config_of(host)

    assert "DASHBOARD_USERS" in caught.value.remedy
    assert "DASHBOARD_PROXY" in caught.value.remedy
    assert not config_of(host, DASHBOARD_USERS=str(tmp_path / "users")).is_open
    assert not config_of(host, DASHBOARD_PROXY="10.0.0.8").is_open


def test_browsers_reach_it_by_the_names_of_this_machine_and_the_public_one() -> None:
    local = ["localhost", "127.0.0.1", "[::1]"]

    assert config_of("127.0.0.1").hosts[:3] == local
    behind_proxy = config_of(EVERYWHERE, DASHBOARD_PROXY="10.0.0.8", DASHBOARD_URL="https://Churn.example.com")
    assert behind_proxy.hosts == [*local, "churn.example.com"]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Churn.Example.com", "https://churn.example.com"),
        ("https://churn.example.com:443/", "https://churn.example.com"),
        ("http://churn.example.com:8080", "http://churn.example.com:8080"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_the_origin_is_written_as_browsers_write_it(url: str, origin: str) -> None:
    config = config_of("127.0.0.1", DASHBOARD_URL=url)

    assert config.origin == origin
    assert config.is_encrypted == url.startswith("https:")


def test_without_own_logins_it_uses_that_of_the_platform() -> None:
    config = config_of("127.0.0.1", DATABASE_READER_URL="postgresql://reader@db.example/churn")

    assert config.reader_dsn == "postgresql://reader@db.example/churn"
    assert config.retention_dsn == DATABASE
